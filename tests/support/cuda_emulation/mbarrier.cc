// mbarriers and the bulk tensor copies that complete on them.
#include <cstring>

#include "block.h"
#include "emulation.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

constexpr uint64_t kBarrierMagic = 0x6d62617272696572;
constexpr uint64_t kMapMagic = 0x74656e736f726d61;

void RequireHopper(const char* what) {
  if (Capability() < 9) Fail("%s on compute capability %d.0", what, Capability());
}

Mbarrier& Find(const uint64_t* barrier, const char* what) {
  const uint32_t address = SharedAddress(barrier);
  for (Mbarrier& b : block.mbarriers) {
    if (b.address != address) continue;
    if (*barrier != kBarrierMagic) {
      Fail("%s: the mbarrier at shared offset %u was overwritten", what, address - kSharedBase);
    }
    return b;
  }
  Fail("%s: no mbarrier was initialised at shared offset %u", what, address - kSharedBase);
}

// One box, its rows of 128 bytes swizzled by the bits of their address.
void Copy(const TmaCopy& copy) {
  const CUtensorMap& map = copy.map;
  const uint32_t rows = copy.bytes / 128;
  uint32_t address = SharedAddress(copy.to);
  unsigned char* to = copy.to;
  for (uint32_t row = 0; row < rows; ++row, address += 128, to += 128) {
    uint32_t rest = row;
    bool inside = true;
    const unsigned char* from = map.base;
    for (int i = 1; i < copy.rank; ++i) {
      const int64_t at = int64_t{copy.corner[i]} + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && at >= 0 && static_cast<uint64_t>(at) < map.dims[i];
      from += at * static_cast<int64_t>(map.strides[i - 1]);
    }
    for (int c = 0; c < 64; ++c) {
      const int64_t at = int64_t{copy.corner[0]} + c;
      const uint32_t chunk = (c / 8) ^ (address >> 7 & 7);
      unsigned char* element = to + chunk * 16 + c % 8 * 2;
      if (inside && at >= 0 && static_cast<uint64_t>(at) < map.dims[0]) {
        std::memcpy(element, from + at * 2, 2);
      } else {
        std::memset(element, 0, 2);
      }
    }
  }
}

void RunCopies(Mbarrier& b) {
  for (const TmaCopy& copy : b.copies) {
    Copy(copy);
    b.bytes_missing -= copy.bytes;
  }
  b.copies.clear();
}

// Ends the phase if nothing is missing.
void Advance(Mbarrier& b) {
  if (b.pending != 0 || b.bytes_missing != 0) return;
  ++b.phase;
  b.pending = b.count;
  for (const int waiter : b.waiters) MakeReady(waiter);
  b.waiters.clear();
}

}  // namespace

void BarrierInit(uint64_t* barrier, uint32_t count) {
  RequireHopper("mbarrier");
  const uint32_t address = SharedAddress(barrier);
  SharedMemory(address, 8, 8, "mbarrier");
  if (count == 0 || count >= 1u << 20) Fail("mbarrier: a count of %u", count);
  for (const Mbarrier& b : block.mbarriers) {
    if (b.address == address) {
      Fail("the mbarrier at shared offset %u is initialised twice", address - kSharedBase);
    }
  }
  *barrier = kBarrierMagic;
  block.mbarriers.emplace_back();
  Mbarrier& b = block.mbarriers.back();
  b.address = address;
  b.count = b.pending = count;
}

void BarrierArrive(uint64_t* barrier, uint32_t expected_bytes) {
  Mbarrier& b = Find(barrier, "mbarrier arrival");
  if (b.pending == 0) {  // all were there but for copies that nobody has waited for
    RunCopies(b);
    Advance(b);
    if (b.pending == 0) {
      Fail("mbarrier at shared offset %u: more arrivals than its %u", b.address - kSharedBase,
           b.count);
    }
  }
  b.bytes_missing += expected_bytes;
  b.bytes_unclaimed += expected_bytes;
  --b.pending;
  if (b.pending == 0 && !b.waiters.empty()) RunCopies(b);
  Advance(b);
}

void BarrierWait(uint64_t* barrier, uint32_t parity) {
  Mbarrier& b = Find(barrier, "mbarrier wait");
  if (parity > 1) Fail("mbarrier wait: a parity of %u", parity);
  if ((b.phase & 1) != parity) return;
  if (b.pending == 0) {
    RunCopies(b);
    Advance(b);
    if ((b.phase & 1) != parity) return;
  }
  b.waiters.push_back(self->id);
  self->wait_parity = parity;
  Wait(WaitKind::kMbarrier, b.address, "");
}

void TmaLoad(void* shared, const CUtensorMap* map, uint64_t* barrier, const int* corner, int rank) {
  RequireHopper("TMA");
  if (map->magic != kMapMagic) Fail("TMA load: %p is no tensor map", static_cast<const void*>(map));
  if (map->rank != rank) Fail("TMA load of %d dimensions of a map of %d", rank, map->rank);
  TmaCopy copy;
  copy.map = *map;
  copy.rank = rank;
  copy.bytes = 2;
  for (int i = 0; i < rank; ++i) {
    copy.corner[i] = corner[i];
    copy.bytes *= map->box[i];
  }
  copy.to = SharedMemory(SharedAddress(shared), copy.bytes, 1024, "TMA load");
  Mbarrier& b = Find(barrier, "TMA load");
  b.bytes_unclaimed -= copy.bytes;
  if (b.bytes_unclaimed < 0) {
    Fail("TMA load: %u bytes, more than the mbarrier at shared offset %u was told to expect",
         copy.bytes, b.address - kSharedBase);
  }
  std::memset(copy.to, 0xff, copy.bytes);
  b.copies.push_back(copy);
  if (b.pending == 0 && !b.waiters.empty()) {
    RunCopies(b);
    Advance(b);
  }
}

void CheckMbarriersDone() {
  for (const Mbarrier& b : block.mbarriers) {
    if (b.copies.empty()) continue;
    block.failed = true;
    block.failure = "the block ended with a TMA load under way on the mbarrier at shared offset " +
                    std::to_string(b.address - kSharedBase);
    return;
  }
}

}  // namespace longdoc::kernels::cuda::emulation

// The driver's function: refuses what the driver refuses.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* base, const cuuint64_t* dims, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const bool known =
      type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (!known || rank < 1 || rank > 5 || swizzle != CU_TENSOR_MAP_SWIZZLE_128B ||
      reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(base) % 16 != 0 ||
      base == nullptr || box[0] != 64) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUtensorMap encoded = {};
  encoded.magic = longdoc::kernels::cuda::emulation::kMapMagic;
  encoded.base = static_cast<const unsigned char*>(base);
  encoded.rank = static_cast<uint16_t>(rank);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > uint64_t{1} << 32 || box[i] == 0 || box[i] > 256 ||
        element_strides[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (i > 0 && (strides[i - 1] % 16 != 0 || strides[i - 1] >= uint64_t{1} << 40)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    encoded.dims[i] = dims[i];
    encoded.box[i] = static_cast<uint16_t>(box[i]);
    if (i > 0) encoded.strides[i - 1] = strides[i - 1];
  }
  *map = encoded;
  return CUDA_SUCCESS;
}
