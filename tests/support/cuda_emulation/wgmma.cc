// Warpgroup products. Each warp computes its 16 rows when it waits for them: operands are read from
// shared memory as late as that, and the accumulators hold NaN from the issue on.
#include <cmath>
#include <cstring>
#include <limits>

#include "block.h"
#include "emulation.h"
#include "numbers.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

// The fields of a shared memory descriptor.
struct Operand {
  uint32_t start, leading, stride;
};

Operand Decode(uint64_t descriptor, const char* what) {
  if (descriptor >> 62 != 1) {
    Fail("wgmma %s: swizzle mode %d, only 1 (128 bytes) is emulated", what,
         static_cast<int>(descriptor >> 62));
  }
  if ((descriptor >> 49 & 7) != 0) Fail("wgmma %s: a base offset", what);
  const Operand o = {static_cast<uint32_t>(descriptor & 0x3fff) << 4,
                     static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4,
                     static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4};
  // The pattern repeats every 1024 bytes; a tile that starts between needs a base offset.
  if ((o.start >> 7 & 7) != 0) {
    Fail("wgmma %s: shared offset %u, 8-row groups start at multiples of 1024", what,
         o.start - kSharedBase);
  }
  return o;
}

// Eight neighbours of 16 bits, at an address before the swizzle.
void Chunk(uint32_t address, bool bf16, const char* what, float (&out)[8]) {
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits[8];
  std::memcpy(bits, SharedMemory(address, 16, 16, what), 16);
  Widen(bits, 8, bf16, out);
}

// Rows [first, first + rows) of a K-major operand, 16 elements of K each. Rows are 128 bytes apart
// in groups of 8, the groups `stride`; a K step inside the 128 bytes is in the start address.
void LoadKMajor(const Operand& o, int first, int rows, bool bf16, const char* what,
                float (*out)[16]) {
  for (int r = 0; r < rows; ++r) {
    const int row = first + r;
    const uint32_t address =
        o.start + static_cast<uint32_t>(row / 8) * o.stride + static_cast<uint32_t>(row % 8) * 128;
    for (int half = 0; half < 2; ++half) {
      float chunk[8];
      Chunk(address + 16 * half, bf16, what, chunk);
      std::memcpy(out[r] + 8 * half, chunk, sizeof(chunk));
    }
  }
}

constexpr int kMaxN = 256;
using Wide = float[kMaxN];

// b[k][n] of either order.
void LoadB(const WgmmaOp& op, Wide* b) {
  const Operand o = Decode(op.b, "B");
  if (op.transpose_b) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < op.n; n += 8) {
        const uint32_t address = o.start + static_cast<uint32_t>(n / 64) * o.leading +
                                 static_cast<uint32_t>(k / 8) * o.stride +
                                 static_cast<uint32_t>(k % 8) * 128 +
                                 static_cast<uint32_t>(n % 64) * 2;
        float chunk[8];
        Chunk(address, op.bf16, "wgmma B", chunk);
        std::memcpy(b[k] + n, chunk, sizeof(chunk));
      }
    }
    return;
  }
  static float rows[kMaxN][16];
  LoadKMajor(o, 0, op.n, op.bf16, "wgmma B", rows);
  for (int n = 0; n < op.n; ++n) {
    for (int k = 0; k < 16; ++k) b[k][n] = rows[n][k];
  }
}

InFlight& Accumulators(Thread& t, const float* d) {
  for (InFlight& f : t.wgmma.accumulators) {
    if (f.d == d) return f;
  }
  Fail("wgmma: accumulators lost");
}

// What operation i of the 32 threads computes.
void Execute(Thread* const* threads, size_t i) {
  static Wide b[16], d[16];
  static float a[16][16];
  const WgmmaOp& op = threads[0]->wgmma.ops[i];
  LoadB(op, b);
  if (!op.from_registers) {
    const int first = threads[0]->id / 32 % 4 * 16;
    LoadKMajor(Decode(op.a, "A"), first, 16, op.bf16, "wgmma A", a);
  }
  InFlight* flights[32];
  for (int l = 0; l < 32; ++l) {
    const WgmmaOp& mine = threads[l]->wgmma.ops[i];
    if (mine.n != op.n || mine.a != op.a || mine.b != op.b || mine.bf16 != op.bf16 ||
        mine.from_registers != op.from_registers || mine.transpose_b != op.transpose_b ||
        mine.accumulate != op.accumulate) {
      Fail("wgmma: lanes 0 and %d of a warp issued different products", l);
    }
    const int g = l / 4, t = l % 4;
    if (op.from_registers) {
      WidenPair(mine.a_registers[0], op.bf16, &a[g][2 * t]);
      WidenPair(mine.a_registers[1], op.bf16, &a[g + 8][2 * t]);
      WidenPair(mine.a_registers[2], op.bf16, &a[g][2 * t + 8]);
      WidenPair(mine.a_registers[3], op.bf16, &a[g + 8][2 * t + 8]);
    }
    flights[l] = &Accumulators(*threads[l], mine.d);
    const float* values = flights[l]->values;
    for (int j = 0; j < op.n / 8; ++j) {
      for (int half = 0; half < 2; ++half) {
        const int column = 8 * j + 2 * t + half;
        d[g][column] = op.accumulate ? values[4 * j + half] : 0;
        d[g + 8][column] = op.accumulate ? values[4 * j + 2 + half] : 0;
      }
    }
  }
  const int n = op.n;
  MultiplyAdd(a, b[0], d[0], n, kMaxN);
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4;
    float* values = flights[l]->values;
    for (int j = 0; j < n / 8; ++j) {
      for (int half = 0; half < 2; ++half) {
        values[4 * j + half] = d[g][8 * j + 2 * t + half];
        values[4 * j + 2 + half] = d[g + 8][8 * j + 2 * t + half];
      }
    }
    --flights[l]->pending;
  }
}

struct WaitSlot {
  Thread* thread;
  int done;  // groups below have to be finished
};

void Finish(void* const* slots) {
  Thread* threads[32];
  for (int l = 0; l < 32; ++l) threads[l] = static_cast<const WaitSlot*>(slots[l])->thread;
  const int done = static_cast<const WaitSlot*>(slots[0])->done;
  size_t count = 0;
  while (count < threads[0]->wgmma.ops.size() && threads[0]->wgmma.ops[count].group < done) ++count;
  for (int l = 1; l < 32; ++l) {
    const WgmmaState& s = threads[l]->wgmma;
    if (static_cast<const WaitSlot*>(slots[l])->done != done ||
        s.ops.size() != threads[0]->wgmma.ops.size()) {
      Fail("wgmma: lanes 0 and %d of a warp issued or committed different numbers of products", l);
    }
  }
  for (size_t i = 0; i < count; ++i) Execute(threads, i);
  for (Thread* t : threads) {
    WgmmaState& s = t->wgmma;
    s.ops.erase(s.ops.begin(), s.ops.begin() + static_cast<std::ptrdiff_t>(count));
    for (size_t i = 0; i < s.accumulators.size();) {
      const InFlight& f = s.accumulators[i];
      if (f.pending > 0) {
        ++i;
        continue;
      }
      std::memcpy(f.d, f.values, sizeof(float) * static_cast<size_t>(f.n) / 2);
      s.accumulators.erase(s.accumulators.begin() + static_cast<std::ptrdiff_t>(i));
      s.fenced = false;
    }
  }
}

}  // namespace

void WgmmaFence() { self->wgmma.fenced = true; }

void Wgmma(float* d, int n, const uint32_t* a_registers, uint64_t a, uint64_t b, bool transpose_b,
           bool accumulate, bool bf16) {
  if (Capability() < 9) Fail("wgmma on compute capability %d.0", Capability());
  if (block.threads % 128 != 0) Fail("wgmma: the block is not made of warpgroups of 128 threads");
  if (WarpOf(*self).live != 0xffffffff) Fail("wgmma: the warp is not whole");
  if (n < 8 || n > kMaxN || n % 8 != 0) Fail("wgmma: N = %d", n);
  WgmmaState& s = self->wgmma;
  InFlight* flight = nullptr;
  for (InFlight& f : s.accumulators) {
    if (f.d == d && f.n == n) {
      flight = &f;
    } else if (d < f.d + f.n / 2 && f.d < d + n / 2) {
      Fail("wgmma: accumulators overlap those of a product under way");
    }
  }
  if (!s.fenced) Fail("wgmma: no WgmmaFence since the accumulators were last waited for");
  const size_t count = static_cast<size_t>(n) / 2;
  if (flight == nullptr) {
    s.accumulators.emplace_back();
    flight = &s.accumulators.back();
    flight->d = d;
    flight->n = n;
    flight->pending = 0;
    std::memcpy(flight->values, d, count * sizeof(float));
    std::memset(d, 0xff, count * sizeof(float));
  }
  ++flight->pending;
  WgmmaOp op = {d,           n,          a,    b,           {}, a_registers != nullptr,
                transpose_b, accumulate, bf16, s.open_group};
  if (a_registers != nullptr) std::memcpy(op.a_registers, a_registers, sizeof(op.a_registers));
  s.ops.push_back(op);
  for (const uint64_t part : {a, b, static_cast<uint64_t>(n * 2 + (transpose_b ? 1 : 0))}) {
    s.issued_hash = (s.issued_hash ^ part) * 0x9e3779b97f4a7c15;
  }
}

void WgmmaCommit() { ++self->wgmma.open_group; }

void WgmmaWait(int pending) {
  WgmmaState& s = self->wgmma;
  WaitSlot slot = {self, s.open_group - pending};
  if (s.ops.empty() || s.ops.front().group >= slot.done) return;
  WarpMeet("wgmma wait", 0xffffffff, &slot, Finish);
}

void CheckWgmmaDone(const Thread& t) {
  if (!t.wgmma.ops.empty()) Fail("the thread ended with a wgmma that it has not waited for");
}

}  // namespace longdoc::kernels::cuda::emulation
