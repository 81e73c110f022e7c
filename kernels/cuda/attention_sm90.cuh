// What the roles of the sm_90a attention kernel share: the shape of a tile, the layout of shared
// memory, and the softmax of a warpgroup's 64 x 128 scores.
//
// Scores stand in base 2: t = scale·log2 e·q·k − slope·log2 e·|i − j| − reference of the row. The
// reference is the row's running maximum, or up to kLazy below it: it moves only when a tile
// exceeds it by more, so that the output is rarely rescaled. Weights are 2^t.
//
// Per score, a tile entirely to one side of a warpgroup's rows costs five issue slots of the eight
// that the tensor core leaves at head dim 64: FFMA (column's bias, row's distance and reference in
// one term: base + slope·column, the column an immediate), FFMA (scale), half a VIMNMX3 (the check
// for kLazy, on the bits as integers), MUFU.EX2, FADD (sum), half a F2FP. The exponential unit
// takes 8 cycles for a warp's 32 scores, as many as both products at head dim 64 take.
#pragma once

#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/device/hopper.cuh"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {
namespace {

// One producer warpgroup and kGroups consumers, each of which owns 64 query rows.
template <int kDim>
struct Sm90Shape {
  static constexpr int kGroups = kDim == 64 ? 3 : 2;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kKeys = 128;
  static constexpr int kStages = kDim == 64 ? 4 : 2;
  static constexpr int kChunks = kDim / 64;  // a shared row is 64 elements, 128 bytes
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 40;
  static constexpr int kConsumerRegisters = kGroups == 3 ? 160 : 232;
  static constexpr uint32_t kQueryBytes = kRows * kDim * 2;
  static constexpr uint32_t kTileBytes = kKeys * kDim * 2;  // of K, and of V
};

using ItemRange = BasicKeyRange<int32_t>;  // the producer has few registers

// What a consumer warpgroup does with a tile.
enum TileClass : int32_t {
  kSkipTile = 0,     // none of its rows sees any key
  kGeneralTile = 1,  // masks, or keys at the rows' own positions
  kSideTile = 2,     // all rows see all keys, which lie to one side of all rows
};

// Written by the producer with every stage.
struct StagedTile {
  int32_t tile;  // −1: the item ends
  int32_t side;  // TileSide
  int32_t keys;  // of the tile, within the sequence
  int32_t used;  // whether a warpgroup has used the tile
  int32_t classes[3];
  SideTest test;
};

template <int kDim>
struct alignas(1024) Sm90Shared {
  using Shape = Sm90Shape<kDim>;
  // 64-column chunks of [rows][64] elements, 128-byte swizzled.
  unsigned char q[2][Shape::kQueryBytes];
  unsigned char k[Shape::kStages][Shape::kTileBytes];
  unsigned char v[Shape::kStages][Shape::kTileBytes];
  // Gathered keys: positions, and distances from the key next to the rows.
  int32_t positions[Shape::kStages][Shape::kKeys];
  float distances[Shape::kStages][Shape::kKeys];
  RowBound rows[2][Shape::kRows];
  AttentionItem items[2];
  ItemRange ranges[2];  // of the items
  StagedTile tiles[Shape::kStages];
  int64_t next_item;
  int32_t live[2];  // 0: there are no more items
  // Of each warp: all its rows may end the side. Two sets, so that a warp that is one tile ahead
  // does not overwrite what another has yet to read.
  int32_t votes[2][Shape::kGroups][4];
  // 4·(number of the item in this block) + the sides that this warpgroup has ended.
  volatile int32_t ended[Shape::kGroups];
  int32_t used[Shape::kGroups];  // tiles that the group was the first to use; by its leader
  uint64_t q_full[2], q_empty[2];
  uint64_t k_full[Shape::kStages], k_empty[Shape::kStages];
  uint64_t v_full[Shape::kStages], v_empty[Shape::kStages];
};

// A place in a ring of kStages, and the parity of its round.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ Ring Before() const {
    return stage > 0 ? Ring{stage - 1, parity} : Ring{kStages - 1, parity ^ 1};
  }
};

// ---- softmax of [64 x 128] scores in wgmma's registers -----------------------------------------
// A thread holds columns 8·n + 2·(lane % 4) + {0, 1} of rows lane / 4 (s[4n], s[4n + 1]) and 8
// below (s[4n + 2], s[4n + 3]).

constexpr int kScores = 64;                  // per thread
constexpr float kNoScore = -3.40282347e38f;  // reference of a row that has seen no key
constexpr float kLazy = 8;                   // weights stay below 2^kLazy
constexpr int32_t kLazyBits = 0x41000000;    // its bits

// Of this thread's two rows.
struct RowState {
  float reference[2] = {kNoScore, kNoScore};
  float sum[2] = {0, 0};  // over this thread's columns
};

__device__ __forceinline__ int32_t Max3(int32_t a, int32_t b, int32_t c) {
#if defined(LONGDOC_CUDA_EMULATION)
  const int32_t m = a > b ? a : b;
  return m > c ? m : c;
#else
  return __vimax3_s32(a, b, c);
#endif
}

// A condition that is the same in all lanes, so that the compiler knows it, too: products in flight
// across a branch that may part a warp are put in sequence.
__device__ __forceinline__ bool Uniform(bool condition) {
  return __any_sync(0xffffffff, condition) != 0;
}

// Over the four lanes that share a row.
__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// s = 2^s, added to the sums.
__device__ __forceinline__ void Weigh(float (&s)[kScores], RowState* rows) {
  float sum[4] = {rows->sum[0], 0, rows->sum[1], 0};
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    s[i] = Exp2(s[i]);
    sum[i % 4] += s[i];
  }
  rows->sum[0] = sum[0] + sum[1];
  rows->sum[1] = sum[2] + sum[3];
}

// Largest score of each of the thread's rows.
__device__ __forceinline__ void RowMaxima(const float (&s)[kScores], float (&top)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float a = s[2 * r], b = s[2 * r + 1];
#pragma unroll
    for (int n = 1; n < kScores / 4; ++n) {
      a = fmaxf(a, s[4 * n + 2 * r]);
      b = fmaxf(b, s[4 * n + 2 * r + 1]);
    }
    top[r] = QuadMax(fmaxf(a, b));
  }
}

// A kSideTile: raw products s become weights. The bias of column c (of the thread's own columns) is
// slope·c, or −|slope|·distances[c] where keys are gathered; `base` has the row's part and its
// reference. Returns whether a reference moved; then `factor` is for the old output.
template <bool kGathered>
__device__ __forceinline__ bool WeighSide(float (&s)[kScores], float scale, float slope,
                                          const float (&base)[2], const float* distances,
                                          RowState* rows, float (&factor)[2]) {
  int32_t top_bits[4];
#pragma unroll
  for (int n = 0; n < kScores / 4; ++n) {
    float column[2] = {8.0f * n, 8.0f * n + 1};
    if (kGathered) {
      const float2 pair = *reinterpret_cast<const float2*>(distances + 8 * n);
      column[0] = pair.x;
      column[1] = pair.y;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float bias = fmaf(slope, column[e % 2], base[e / 2]);
      s[4 * n + e] = fmaf(s[4 * n + e], scale, bias);
    }
    // As integers, floats above kLazy compare as what they are, and all others lie below.
    if (n % 2 == 1) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int32_t a = __float_as_int(s[4 * n - 4 + e]), b = __float_as_int(s[4 * n + e]);
        top_bits[e] = n == 1 ? (a > b ? a : b) : Max3(top_bits[e], a, b);
      }
    }
  }
  const int32_t top =
      Max3(top_bits[0], top_bits[1], top_bits[2] > top_bits[3] ? top_bits[2] : top_bits[3]);
  const bool moved = __any_sync(0xffffffff, top > kLazyBits);
  factor[0] = factor[1] = 1;
  if (moved) {
    float excess[2];
    RowMaxima(s, excess);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!(excess[r] > kLazy)) excess[r] = 0;  // a row does not depend on its neighbours
      rows->reference[r] += excess[r];
      factor[r] = Exp2(-excess[r]);
      rows->sum[r] *= factor[r];
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) s[i] -= excess[i % 4 / 2];
  }
  Weigh(s, rows);
  return moved;
}

// A row of the thread and a kGeneralTile.
struct RowView {
  uint32_t seen;  // of the thread's columns: bit 2n + e is column 8n + e
  float offset;   // −slope times its own position, counted from the thread's first column
  int32_t place, nearest;  // gathered: RowBound
};

// The thread's columns before `end`, which is counted from its first one.
__device__ __forceinline__ uint32_t ColumnsBefore(int32_t end) {
  if (end <= 0) return 0;
  const int32_t count = end / 8 * 2 + Least(end % 8, 2);
  return count >= 32 ? 0xffffffffu : (1u << count) - 1;
}

// Raw products s become scores, unseen ones −infinity. Gathered: `positions` of the thread's
// columns.
template <bool kGathered>
__device__ __forceinline__ void ScoreGeneral(float (&s)[kScores], float scale, float slope,
                                             const RowView (&views)[2], const int32_t* positions) {
#pragma unroll
  for (int block = 0; block < kScores / 2; ++block) {
    const int r = block % 2, n = block / 2;
    const RowView& view = views[r];
    int2 pair = {0, 0};
    if (kGathered) pair = *reinterpret_cast<const int2*>(positions + 8 * n);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float bias;
      if (kGathered) {
        const int32_t apart = view.place - (e == 0 ? pair.x : pair.y);
        bias = -slope * static_cast<float>((apart < 0 ? -apart : apart) - view.nearest);
      } else {
        bias = -fabsf(fmaf(slope, static_cast<float>(8 * n + e), view.offset));
      }
      const int i = 4 * n + 2 * r + e;
      const float score = fmaf(s[i], scale, bias);
      s[i] = (view.seen >> (2 * n + e) & 1) != 0 ? score : -INFINITY;
    }
  }
}

// Scores of a kGeneralTile become weights. The reference is the exact running maximum, so that
// after the tile of a row's own position no key beyond the distance of EXACT weighs anything.
// `factor` is for the old output.
__device__ __forceinline__ void WeighGeneral(float (&s)[kScores], RowState* rows,
                                             float (&factor)[2]) {
  float top[2];
  RowMaxima(s, top);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float before = rows->reference[r];
    rows->reference[r] = fmaxf(before, top[r]);
    factor[r] = Exp2(before - rows->reference[r]);
    rows->sum[r] *= factor[r];
  }
#pragma unroll
  for (int i = 0; i < kScores; ++i) s[i] -= rows->reference[i % 4 / 2];
  Weigh(s, rows);
}

// Weights as the A operand of the second product: k-step j covers columns 16j to 16j + 15.
template <class T>
__device__ __forceinline__ void PackWeights(const float (&s)[kScores], uint32_t (&p)[8][4]) {
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i) p[i / 4][i % 4] = Pack2<T>(s[2 * i], s[2 * i + 1]);
}

// Four lanes that share a row hold one pair of columns of each of four 8-column blocks, in
// w[block]; afterwards lane l of them holds all pairs of block l.
__device__ __forceinline__ void TransposeQuad(uint32_t (&w)[4], int lane) {
  const bool odd = (lane & 1) != 0, upper = (lane & 2) != 0;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, odd ? w[i] : w[i + 1], 1);
    w[i] = odd ? got : w[i];
    w[i + 1] = odd ? w[i + 1] : got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t got = __shfl_xor_sync(0xffffffff, upper ? w[i] : w[i + 2], 2);
    w[i] = upper ? got : w[i];
    w[i + 2] = upper ? w[i + 2] : got;
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda
