// Collectives of a warp, and the instructions of sm_80.
#include <cmath>
#include <cstring>
#include <limits>

#include "block.h"
#include "emulation.h"
#include "numbers.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

// Runs a meeting that is complete and lets its lanes go on, in lane order.
void Finish(Warp& warp, Meeting& meeting) {
  const uint32_t arrived = meeting.arrived;
  if (meeting.complete != nullptr) {
    for (int lane = 0; lane < 32; ++lane) {
      if ((arrived >> lane & 1) == 0) meeting.slots[lane] = nullptr;
    }
    meeting.complete(meeting.slots);
  }
  meeting.arrived = 0;  // free
  const int first = static_cast<int>(&warp - block.warps) * 32;
  for (uint32_t rest = arrived; rest != 0; rest &= rest - 1) {
    MakeReady(first + __builtin_ctz(rest));
  }
}

}  // namespace

void RecheckWarp(Warp& warp) {
  for (Meeting& m : warp.meetings) {
    if (m.arrived != 0 && m.arrived == (m.mask & warp.live)) Finish(warp, m);
  }
}

void WarpMeet(const char* operation, uint32_t mask, void* slot, Complete complete) {
  Warp& warp = WarpOf(*self);
  const int lane = self->id % 32;
  if ((mask >> lane & 1) == 0) {
    Fail("%s: lane %d is not in its own mask %08x", operation, lane, mask);
  }
  Meeting* m = nullptr;
  Meeting* free = nullptr;
  for (Meeting& other : warp.meetings) {
    if (other.arrived == 0) {
      free = &other;
    } else if (other.mask == mask) {
      m = &other;
      break;
    }
  }
  if (m == nullptr) {
    if (free == nullptr) {
      warp.meetings.emplace_back();
      free = &warp.meetings.back();
    }
    m = free;
    m->mask = mask;
    m->operation = operation;
    m->complete = complete;
  }
  if (m->operation != operation && std::strcmp(m->operation, operation) != 0) {
    Fail("lanes %08x of warp %d disagree: %s here, %s by lanes %08x", mask, self->id / 32,
         operation, m->operation, m->arrived);
  }
  m->slots[lane] = slot;
  m->arrived |= 1u << lane;
  if (m->arrived == (mask & warp.live)) {
    Finish(warp, *m);
    Wait(WaitKind::kNothing, 0, "");
  } else {
    Wait(WaitKind::kWarp, mask, operation);
  }
}

// ---- shuffles, votes, reductions ------------------------------------------------------------

namespace {
struct ShuffleSlot {
  uint64_t value, result;
  int source;  // lane
};
struct VoteSlot {
  uint64_t value;
  uint32_t result;
};
}  // namespace

uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int argument, int width) {
  static const char* const kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                       "__shfl_xor_sync"};
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    Fail("%s: width %d is not a power of two up to 32", kNames[static_cast<int>(kind)], width);
  }
  const int lane = self->id % 32, segment = lane / width * width;
  ShuffleSlot slot = {value, 0, lane};
  switch (kind) {
    case ShuffleKind::kIndex:
      slot.source = segment + (argument & (width - 1));
      break;
    case ShuffleKind::kUp:
      if (lane - argument >= segment) slot.source = lane - argument;
      break;
    case ShuffleKind::kDown:
      if (lane + argument < segment + width) slot.source = lane + argument;
      break;
    case ShuffleKind::kXor:
      if ((lane ^ argument) < segment + width) slot.source = lane ^ argument;
      break;
  }
  WarpMeet(kNames[static_cast<int>(kind)], mask, &slot, [](void* const* slots) {
    for (int i = 0; i < 32; ++i) {
      ShuffleSlot* to = static_cast<ShuffleSlot*>(slots[i]);
      if (to == nullptr) continue;
      const ShuffleSlot* from = static_cast<const ShuffleSlot*>(slots[to->source]);
      to->result = from != nullptr ? from->value : ~uint64_t{0};  // undefined on a device
    }
  });
  return slot.result;
}

uint32_t Ballot(uint32_t mask, bool value) {
  VoteSlot slot = {value ? uint64_t{1} : 0, 0};
  WarpMeet("a vote", mask, &slot, [](void* const* slots) {
    uint32_t ballot = 0;
    for (int i = 0; i < 32; ++i) {
      const VoteSlot* s = static_cast<const VoteSlot*>(slots[i]);
      if (s != nullptr && s->value != 0) ballot |= 1u << i;
    }
    for (int i = 0; i < 32; ++i) {
      if (slots[i] != nullptr) static_cast<VoteSlot*>(slots[i])->result = ballot;
    }
  });
  return slot.result;
}

uint32_t MatchAny(uint32_t mask, uint64_t value) {
  VoteSlot slot = {value, 0};
  WarpMeet("__match_any_sync", mask, &slot, [](void* const* slots) {
    for (int i = 0; i < 32; ++i) {
      VoteSlot* to = static_cast<VoteSlot*>(slots[i]);
      for (int j = 0; to != nullptr && j < 32; ++j) {
        const VoteSlot* from = static_cast<const VoteSlot*>(slots[j]);
        if (from != nullptr && from->value == to->value) to->result |= 1u << j;
      }
    }
  });
  return slot.result;
}

namespace {
uint32_t Combine(ReduceKind kind, uint32_t a, uint32_t b) {
  const int32_t x = static_cast<int32_t>(a), y = static_cast<int32_t>(b);
  switch (kind) {
    case ReduceKind::kAdd:
      return a + b;
    case ReduceKind::kMin:
      return a < b ? a : b;
    case ReduceKind::kMax:
      return a > b ? a : b;
    case ReduceKind::kMinSigned:
      return x < y ? a : b;
    case ReduceKind::kMaxSigned:
      return x > y ? a : b;
    case ReduceKind::kAnd:
      return a & b;
    case ReduceKind::kOr:
      return a | b;
    case ReduceKind::kXor:
      return a ^ b;
  }
  return 0;
}
struct ReduceSlot {
  ReduceKind kind;
  uint32_t value;
};
}  // namespace

uint32_t Reduce(ReduceKind kind, uint32_t mask, uint32_t value) {
  ReduceSlot slot = {kind, value};
  WarpMeet("__reduce_sync", mask, &slot, [](void* const* slots) {
    ReduceSlot* first = nullptr;
    for (int i = 0; i < 32; ++i) {
      ReduceSlot* s = static_cast<ReduceSlot*>(slots[i]);
      if (s == nullptr) continue;
      if (first == nullptr) {
        first = s;
      } else {
        first->value = Combine(first->kind, first->value, s->value);
      }
    }
    for (int i = 0; i < 32; ++i) {
      if (slots[i] != nullptr) static_cast<ReduceSlot*>(slots[i])->value = first->value;
    }
  });
  return slot.value;
}

uint32_t ActiveMask() { return WarpOf(*self).live; }

// ---- sm_80 -------------------------------------------------------------------------------------

float Exp2(float x) {
  constexpr float kSmallest = std::numeric_limits<float>::min();
  if (std::fabs(x) < kSmallest) return 1;
  const float y = std::exp2(x);
  return y < kSmallest ? 0 : y;
}

namespace {

struct MmaSlot {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  bool bf16;
};

void Mma(void* const* slots) {
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < 32; ++l) {
    const MmaSlot& s = *static_cast<const MmaSlot*>(slots[l]);
    const int g = l / 4, t = l % 4;
    WidenPair(s.a[0], s.bf16, &a[g][2 * t]);
    WidenPair(s.a[1], s.bf16, &a[g + 8][2 * t]);
    WidenPair(s.a[2], s.bf16, &a[g][2 * t + 8]);
    WidenPair(s.a[3], s.bf16, &a[g + 8][2 * t + 8]);
    float rows[4];
    WidenPair(s.b[0], s.bf16, rows);
    WidenPair(s.b[1], s.bf16, rows + 2);
    for (int half = 0; half < 2; ++half) {
      b[2 * t + half][g] = rows[half];
      b[2 * t + 8 + half][g] = rows[2 + half];
      d[g][2 * t + half] = s.d[half];
      d[g + 8][2 * t + half] = s.d[2 + half];
    }
  }
  MultiplyAdd(a, b[0], d[0], 8, 8);
  for (int l = 0; l < 32; ++l) {
    const MmaSlot& s = *static_cast<const MmaSlot*>(slots[l]);
    const int g = l / 4, t = l % 4;
    for (int half = 0; half < 2; ++half) {
      s.d[half] = d[g][2 * t + half];
      s.d[2 + half] = d[g + 8][2 * t + half];
    }
  }
}

// Collectives that need whole warps.
void WholeWarp(const char* what) {
  if (WarpOf(*self).live != 0xffffffff) Fail("%s: the warp is not whole", what);
}

struct MatrixSlot {
  uint32_t address;
  uint32_t* r;
  bool transpose;
};

void LoadMatrices(void* const* slots) {
  uint16_t m[4][8][8];
  for (int l = 0; l < 32; ++l) {
    const MatrixSlot& s = *static_cast<const MatrixSlot*>(slots[l]);
    std::memcpy(m[l / 8][l % 8], SharedMemory(s.address, 16, 16, "ldmatrix"), 16);
  }
  for (int l = 0; l < 32; ++l) {
    const MatrixSlot& s = *static_cast<const MatrixSlot*>(slots[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) {
      const uint16_t lo = s.transpose ? m[i][2 * t][g] : m[i][g][2 * t];
      const uint16_t hi = s.transpose ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
      s.r[i] = lo | static_cast<uint32_t>(hi) << 16;
    }
  }
}

}  // namespace

void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16) {
  WholeWarp("mma");
  MmaSlot slot = {d, a, b, bf16};
  WarpMeet(bf16 ? "mma (bf16)" : "mma (fp16)", 0xffffffff, &slot, Mma);
}

void LoadMatrixX4(uint32_t (&r)[4], const void* shared, bool transpose) {
  WholeWarp("ldmatrix");
  MatrixSlot slot = {SharedAddress(shared), r, transpose};
  WarpMeet(transpose ? "ldmatrix.trans" : "ldmatrix", 0xffffffff, &slot, LoadMatrices);
}

void CopyAsync16(void* shared, const void* global, bool valid) {
  unsigned char* to = SharedMemory(SharedAddress(shared), 16, 16, "cp.async");
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    Fail("cp.async: source %p is not 16-byte aligned", global);
  }
  std::memset(to, 0xff, 16);
  self->copies.push_back({to, valid ? global : nullptr, self->open_copy_group});
}

void CopyAsyncCommit() { ++self->open_copy_group; }

void CopyAsyncWait(int pending) {
  std::vector<AsyncCopy>& copies = self->copies;
  const int done = self->open_copy_group - pending;  // groups below have to be there
  size_t i = 0;
  for (; i < copies.size() && copies[i].group < done; ++i) {
    if (copies[i].from != nullptr) {
      std::memcpy(copies[i].to, copies[i].from, 16);
    } else {
      std::memset(copies[i].to, 0, 16);
    }
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(i));
}

}  // namespace longdoc::kernels::cuda::emulation
