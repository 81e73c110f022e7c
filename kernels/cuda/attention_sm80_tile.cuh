// One tile of keys for one warp of the sm_80 attention kernel: products, bias, masks, online
// softmax.
//
// Bias. With i0 the warp's first row and r a row within it, a tile entirely to the left of the warp
// has −m(i0 + r − j) = −m(i0 − j) − m·r: one value per column, added with the scale in one FMA, and
// one per row, which only moves the row's reference (the running maximum in tile units). Right
// tiles are symmetric; only tiles that overlap the warp's rows take an absolute value per element.
#pragma once

#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {
namespace {  // NOLINT: internal linkage

constexpr float kNoScore = -3.40282347e38f;  // running maximum of a row that has seen no key

// What a kernel is made for. Warps of 32 rows read every key fragment for two row tiles; where that
// would not fit in registers, warps have 16.
template <typename Element, int kHeadDim, bool kIsGathered>
struct Sm80Shape {
  using T = Element;
  static constexpr int kDim = kHeadDim;  // at least head_dim, padded with zeros
  static constexpr bool kGathered = kIsGathered;
  static constexpr int kQueries = 128, kKeys = 64;
  static constexpr int kRowTiles = kDim <= 64 && !kGathered ? 2 : 1;  // of 16 rows, per warp
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kWarps = kQueries / kWarpRows;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = kThreads == 128 ? 2 : 1;
  static constexpr int kRowBytes = 2 * kDim;
  static constexpr int kTileBytes = kKeys * kRowBytes;  // of K or of V
};

// Dynamic shared memory. Rows of q, k and v are kDim elements in 16-byte chunks, the number of a
// chunk exclusive-ored with the row's (Swizzled), so that ldmatrix meets no bank twice.
template <class S>
struct Sm80Shared {
  // Queries; once these are in registers, each warp keeps the bounds of its rows in its own part.
  unsigned char q[S::kQueries * S::kRowBytes];
  unsigned char k[2][S::kTileBytes];
  unsigned char v[2][S::kTileBytes];
  AttentionItem item;
  int32_t positions[2][S::kKeys];  // of the keys of a tile, the last one repeated; gathered
  int32_t ended[2][S::kWarps];     // sides that a warp has ended: bit 0 left, bit 1 right
  uint32_t columns[S::kQueries];   // what a row sees of its warp's tile: begin, end, prefix, a
                                   // byte each
  int64_t order;
};

// Byte offset of chunk `chunk` of row `row`.
template <class S>
__device__ __forceinline__ int Swizzled(int row, int chunk) {
  const int by = S::kDim == 32 ? row / 2 % 4 : row % 8;
  return row * 2 * S::kDim + (chunk ^ by) * 16;
}

// Copies rows [0, count) of kDim elements, of which head_dim exist, to swizzled rows; zeros behind
// both. `from` is the first row's first element.
template <class S, int kRows>
__device__ __forceinline__ void CopyRows(unsigned char* to, const typename S::T* from,
                                         int64_t stride, int64_t count, int head_dim) {
  constexpr int kChunks = S::kDim / 8, kThreads = S::kThreads;
  static_assert(kRows * kChunks % kThreads == 0, "every thread copies as much");
  constexpr int kStep = kThreads / kChunks;  // rows between a thread's pieces
  static_assert(kStep % 8 == 0, "all pieces of a thread are swizzled alike");
  const int row = static_cast<int>(threadIdx.x) / kChunks;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  unsigned char* target = to + Swizzled<S>(row, chunk);
  const int rows = chunk * 8 < head_dim ? static_cast<int>(Min(count, kRows)) : 0;
  const typename S::T* source = from + row * stride + chunk * 8;
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    const bool valid = row + i * kStep < rows;
    CopyAsync16(target + i * kStep * 2 * S::kDim, valid ? source : from, valid);
    source += kStep * stride;
  }
}

// What a warp keeps of its rows. Lane l holds rows l/4 and l/4 + 8 of each of the row tiles, and
// columns 2·(l%4) and + 1 of every 8; sums are the lane's own columns only.
template <class S>
struct WarpRows {
  uint32_t q[S::kRowTiles][S::kDim / 16][4];
  float o[S::kRowTiles][S::kDim / 8][4];
  float max[S::kRowTiles][2];
  float sum[S::kRowTiles][2];
};

// One tile from the warp's point of view.
struct WarpTile {
  int32_t tile;
  int side;      // TileSide relative to the warp's rows
  bool masked;   // some row does not see some column
  float offset;  // position of the tile's first key less that of the warp's first row
  int32_t edge;  // gathered: the key next to the warp
  int columns;   // keys that exist
};

__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// The row within the warp of row tile m, half h.
__device__ __forceinline__ int RowOf(int m, int h) {
  return m * 16 + h * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
}

// The warp's first row within the item, and the rows of it that exist.
template <class S>
__device__ __forceinline__ int FirstRow() {
  return static_cast<int>(threadIdx.x) / 32 * S::kWarpRows;
}
template <class S>
__device__ __forceinline__ int RowCount(const Sm80Shared<S>& shared) {
  const int left = static_cast<int>(shared.item.range.rows) - FirstRow<S>();
  return left < S::kWarpRows ? left : S::kWarpRows;
}

// The bound of the warp's row `row`.
template <class S>
__device__ __forceinline__ const RowBound& BoundOf(const Sm80Shared<S>& shared, int row) {
  return reinterpret_cast<const RowBound*>(shared.q + FirstRow<S>() * S::kRowBytes)[row];
}

// The lane's first column in every group of 8.
__device__ __forceinline__ int LaneColumn() { return static_cast<int>(threadIdx.x) % 4 * 2; }

// The lane's byte offset for ldmatrix in a swizzled 16x16 fragment at row 0; fragments along a row
// are found by exclusive-or with a multiple of 32 bytes, those of other rows by adding.
template <class S>
__device__ __forceinline__ int FragmentStart() {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return Swizzled<S>(lane % 16, lane / 16);
}

// Raw products of the warp's queries with the tile's keys.
template <class S>
__device__ __forceinline__ void MultiplyKeys(const WarpRows<S>& rows, const unsigned char* keys,
                                             float (&s)[S::kRowTiles][8][4]) {
  const int start = FragmentStart<S>();
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
    }
  }
#pragma unroll
  for (int d = 0; d < S::kDim / 16; ++d) {
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      LoadMatrixX4(b, keys + n * 8 * S::kRowBytes + (start ^ d * 32));
      const uint32_t b0[2] = {b[0], b[2]}, b1[2] = {b[1], b[3]};
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        Mma16816<typename S::T>(s[m][n], rows.q[m][d], b0);
        Mma16816<typename S::T>(s[m][n + 1], rows.q[m][d], b1);
      }
    }
  }
}

// Scale and bias of tokens that lie side by side, in tile units.
template <class S>
__device__ __forceinline__ void AddBias(const AttentionItem& item, float scale, const WarpTile& at,
                                        float (&s)[S::kRowTiles][8][4]) {
  const float start = at.offset + static_cast<float>(LaneColumn());
  if (at.side == kTileDiagonal) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float apart = start - static_cast<float>(RowOf(m, h));
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][n][2 * h + e];
            x = fmaf(x, scale, -item.slope * fabsf(apart + static_cast<float>(8 * n + e)));
          }
        }
      }
    }
    return;
  }
  const float step = at.side == kTileLeft ? item.slope : -item.slope;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float bias = step * (start + static_cast<float>(8 * n + e));
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        s[m][n][e] = fmaf(s[m][n][e], scale, bias);
        s[m][n][e + 2] = fmaf(s[m][n][e + 2], scale, bias);
      }
    }
  }
}

// The same for gathered tokens, relative to each row's nearest key; absent columns are masked too.
template <class S>
__device__ __forceinline__ void AddGatheredBias(const Sm80Shared<S>& shared, float scale,
                                                const WarpTile& at, const int32_t* positions,
                                                float (&s)[S::kRowTiles][8][4]) {
  const float slope = shared.item.slope;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = 8 * n + LaneColumn() + e % 2;
      const int32_t key = positions[column];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        int32_t apart;
        if (at.side == kTileDiagonal) {
          const RowBound& row = BoundOf(shared, RowOf(m, e / 2));
          apart = abs(key - row.place) - row.nearest;
        } else {
          apart = abs(key - at.edge);
        }
        const float t = fmaf(s[m][n][e], scale, -slope * static_cast<float>(apart));
        s[m][n][e] = column < at.columns ? t : -INFINITY;
      }
    }
  }
}

// Writes what each row of the warp sees of a tile; false when none sees anything.
template <class S>
__device__ __forceinline__ bool PlaceMask(Sm80Shared<S>* shared, int64_t tile) {
  const KeyRange& range = shared->item.range;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  bool any = false;
  __syncwarp();  // the readers of the last mask
  if (lane < S::kWarpRows) {
    const int64_t row = range.first_row + FirstRow<S>() + lane;
    const bool in_list = !range.listed || IsListed(range, row < range.split ? 0 : 1, tile);
    const TileColumns columns = VisibleColumns(range, row, tile, in_list);
    any = lane < RowCount(*shared) && (columns.end > columns.begin || columns.prefix > 0);
    shared->columns[FirstRow<S>() + lane] =
        static_cast<uint32_t>(columns.begin | columns.end << 8 | columns.prefix << 16);
  }
  __syncwarp();  // a vote orders no memory
  return __any_sync(0xffffffffu, any) != 0;
}

template <class S>
__device__ __forceinline__ void ApplyMask(const Sm80Shared<S>& shared,
                                          float (&s)[S::kRowTiles][8][4]) {
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t columns = shared.columns[FirstRow<S>() + RowOf(m, h)];
      const int begin = static_cast<int>(columns & 0xff);
      const int end = static_cast<int>(columns >> 8 & 0xff);
      const int prefix = static_cast<int>(columns >> 16);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          const int column = 8 * n + LaneColumn() + e % 2;
          const bool seen = (column >= begin && column < end) || column < prefix;
          if (!seen) s[m][n][e] = -INFINITY;
        }
      }
    }
  }
}

// What a row's scores in tile units lack of the true ones.
template <class S>
__device__ __forceinline__ float RowShift(const Sm80Shared<S>& shared, const WarpTile& at, int m,
                                          int h) {
  if (at.side == kTileDiagonal) return 0;
  const float slope = shared.item.slope;
  if (!S::kGathered) {
    return (at.side == kTileLeft ? -slope : slope) * static_cast<float>(RowOf(m, h));
  }
  const RowBound& row = BoundOf(shared, RowOf(m, h));
  return -slope * static_cast<float>(abs(row.place - at.edge) - row.nearest);
}

// Moves the running maxima, rescales what they rule, and turns maxima into references: what to take
// off scores in tile units.
template <class S>
__device__ __forceinline__ void MoveMaxima(const Sm80Shared<S>& shared, const WarpTile& at,
                                           const float (&s)[S::kRowTiles][8][4], WarpRows<S>* rows,
                                           float (&reference)[S::kRowTiles][2]) {
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    float factor[2];
    bool moved = false;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < 8; ++n) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
      top = QuadMax(top);
      const float shift = RowShift<S>(shared, at, m, h);
      const float before = rows->max[m][h] - shift;
      const bool higher = top > before;  // false for NaN, which then reaches the weights
      factor[h] = higher ? Exp2(before - top) : 1.0f;
      reference[m][h] = higher ? top : before;
      if (higher) rows->max[m][h] = top + shift;
      moved = moved || higher;
    }
    if (__any_sync(0xffffffffu, moved) == 0) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows->sum[m][h] *= factor[h];
#pragma unroll
      for (int d = 0; d < S::kDim / 8; ++d) {
        rows->o[m][d][2 * h] *= factor[h];
        rows->o[m][d][2 * h + 1] *= factor[h];
      }
    }
  }
}

// Weights, their sums, and their products with the tile's values.
template <class S>
__device__ __forceinline__ void MultiplyValues(const unsigned char* values,
                                               const float (&s)[S::kRowTiles][8][4],
                                               const float (&reference)[S::kRowTiles][2],
                                               WarpRows<S>* rows) {
  const int start = FragmentStart<S>();
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // 16 keys at a time
    uint32_t weights[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // row half i % 2, key half i / 2: the order of an A fragment
        const int h = i % 2, n = 2 * k + i / 2;
        const float p0 = Exp2(s[m][n][2 * h] - reference[m][h]);
        const float p1 = Exp2(s[m][n][2 * h + 1] - reference[m][h]);
        rows->sum[m][h] += p0 + p1;
        weights[m][i] = Pack2<typename S::T>(p0, p1);
      }
    }
#pragma unroll
    for (int d = 0; d < S::kDim / 8; d += 2) {
      uint32_t b[4];
      LoadMatrixX4Trans(b, values + k * 16 * S::kRowBytes + (start ^ d * 16));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        Mma16816<typename S::T>(rows->o[m][d], weights[m], b0);
        Mma16816<typename S::T>(rows->o[m][d + 1], weights[m], b1);
      }
    }
  }
}

// Exchanges four words among the four lanes of a row: lane t gets word t of every lane, in order.
__device__ __forceinline__ void TransposeQuad(uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool high = (threadIdx.x & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const uint32_t got = __shfl_xor_sync(0xffffffffu, high ? words[i] : words[i | bit], bit);
      words[i] = high ? got : words[i];
      words[i | bit] = high ? words[i | bit] : got;
    }
  }
}

// Normalises and writes the warp's rows.
template <class S>
__device__ __forceinline__ void StoreRows(const AttentionParams& p, const Sm80Shared<S>& shared,
                                          const WarpRows<S>& rows) {
  const AttentionItem& item = shared.item;
  const int quad_lane = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = RowOf(m, h);
      const int64_t token = item.q_begin + FirstRow<S>() + row;
      const float sum = QuadSum(rows.sum[m][h]);
      const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      typename S::T* out =
          static_cast<typename S::T*>(p.o) + token * p.o_stride + int64_t{item.head} * p.head_dim;
#pragma unroll
      for (int d = 0; d < S::kDim / 8; d += 4) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // Adding 0 turns −0 into +0: whether a tile of zero weights was visited must not show.
          words[i] = Pack2<typename S::T>(fmaf(rows.o[m][d + i][2 * h], inverse, 0.0f),
                                          fmaf(rows.o[m][d + i][2 * h + 1], inverse, 0.0f));
        }
        TransposeQuad(words);
        const int column = (d + quad_lane) * 8;
        if (row < RowCount(shared) && column < p.head_dim) {
          *reinterpret_cast<uint4*>(out + column) =
              make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
      if (p.lse == nullptr || quad_lane != 0 || row >= RowCount(shared)) continue;
      const float nearest = static_cast<float>(BoundOf(shared, row).nearest);
      const float log_sum = rows.max[m][h] + log2f(sum) - item.slope * nearest;
      p.lse[item.head * p.total_q + token] = sum == 0.0f ? -INFINITY : log_sum * (1 / kLog2E);
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda
