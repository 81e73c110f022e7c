// The inner step of multi-query attention: one warp's rows against a stretch of keys in shared
// memory, with running softmax state in registers. Both kernels of mqa_kernels.cuh are made of it.
//
// Fragments are those of mma.m16n8k16: lane l has rows l/4 and l/4 + 8 of each 16-row tile and
// columns 2·(l%4), 2·(l%4) + 1 of each 8-column tile.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "kernels/cuda/mqa_params.h"

namespace longdoc::kernels::cuda {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr int32_t kNoPosition = 0x7fffffff;  // sees every key

// Rows of kDim elements in shared memory: 16-byte piece `piece` of row `row` lies where the 8 rows
// that ldmatrix reads at once touch all 32 banks. In bytes.
template <int kDim>
__device__ inline uint32_t Swizzled(uint32_t row, uint32_t piece) {
  const uint32_t turn = kDim == 32 ? (row >> 1) & 3 : row & 7;
  return row * (kDim * 2) + ((piece ^ turn) << 4);
}

// `at` is where Swizzled() puts piece 0 or 1 of a row: the address of piece 2·d or 2·d + 1. One
// instruction per use; written as an offset of `d`, compilers keep all of them in registers.
__device__ __forceinline__ const unsigned char* PiecePair(const unsigned char* at, int d) {
  return reinterpret_cast<const unsigned char*>(reinterpret_cast<uintptr_t>(at) ^
                                                static_cast<uintptr_t>(d << 5));
}

// Starts the copies of kRows rows of `dim` elements, zero beyond `valid_rows` and `dim`, by
// `kThreads` threads. kOnce: no other thread block wants them.
template <int kDim, int kRows, int kThreads, bool kOnce>
__device__ inline void CopyRows(unsigned char* shared, const char* global, int dim, int valid_rows,
                                int thread) {
  constexpr int kPieces = kDim / 8, kRowStep = kThreads / kPieces;
  static_assert(kThreads % kPieces == 0 && kRows % kRowStep == 0);
  const int first = thread / kPieces, piece = thread % kPieces;
  // Formed beyond the last row and dim, too, but not read there.
  const char* from = global + (first * dim + piece * 8) * 2;
#pragma unroll
  for (int i = 0; i < kRows / kRowStep; ++i) {
    const int row = first + i * kRowStep;
    const bool valid = row < valid_rows && piece * 8 < dim;
    unsigned char* to = shared + Swizzled<kDim>(row, piece);
    if constexpr (kOnce) {
      CopyAsync16Once(to, from, valid);
    } else {
      CopyAsync16(to, from, valid);
    }
    from += kRowStep * 2 * dim;
  }
}

// The rows of one sequence that a thread block has.
struct MqaRowTile {
  int sequence, begin, end;  // rows, end <= begin + tile; none when begin >= end
};

__device__ inline MqaRowTile RowTileOf(const MqaParams& p, int tile_rows) {
  MqaRowTile t;
  t.sequence = blockIdx.x / p.row_tiles;
  const int first = p.cu_rows == nullptr ? 0 : static_cast<int>(p.cu_rows[t.sequence]);
  const int end = p.cu_rows == nullptr ? p.rows : static_cast<int>(p.cu_rows[t.sequence + 1]);
  t.begin = first + static_cast<int>(blockIdx.x % p.row_tiles) * tile_rows;
  t.end = min(t.begin + tile_rows, end);
  return t;
}

__device__ inline int PositionOf(const MqaParams& p, int row) {
  return p.positions[p.heads > 0 ? row / p.heads : row];
}

// Two neighbouring elements of a query, 0 beyond the tile and the head dim.
__device__ inline float2 QueryPair(const MqaParams& p, int row, int row_end, int column) {
  if (row >= row_end || column >= p.dim) return make_float2(0.0f, 0.0f);
  const int64_t at = p.heads > 0 ? (row / p.heads) * p.q_stride + (row % p.heads) * p.dim
                                 : static_cast<int64_t>(row) * p.dim;
  return *reinterpret_cast<const float2*>(p.q + at + column);
}

// The key blocks of one split of a row tile. Computed from what device memory says at that moment.
struct MqaKeyRange {
  int visible;  // keys that some row of the tile may see: the first ones. Others need not be there
  int block_begin, block_end;
};

__device__ inline MqaKeyRange KeyRangeOf(const MqaParams& p, const MqaRowTile& t) {
  MqaKeyRange r;
  r.visible = p.key_counts == nullptr ? p.keys : static_cast<int>(p.key_counts[t.sequence]);
  if (p.positions != nullptr) {
    int last = -1;
    for (int row = t.begin + static_cast<int>(threadIdx.x % 32); row < t.end; row += 32) {
      last = max(last, PositionOf(p, row));
    }
    for (int lane = 16; lane > 0; lane /= 2) {
      last = max(last, __shfl_xor_sync(0xffffffffu, last, lane));
    }
    if (last < r.visible) r.visible = last + 1;
  }
  const int64_t blocks = CeilDiv(r.visible, kKeyBlock);
  r.block_begin = static_cast<int>(blocks * blockIdx.y / p.splits);
  r.block_end = static_cast<int>(blocks * (blockIdx.y + 1) / p.splits);
  return r;
}

__device__ inline const char* BlockAddress(const MqaParams& p, int sequence, int block) {
  const int64_t bytes = static_cast<int64_t>(4 * kKeyBlock) * p.dim;
  if (p.blocks.pages == nullptr) return p.blocks.blocks + block * bytes;
  const uint32_t page = static_cast<uint32_t>(block) / p.blocks.page_blocks;
  const uint32_t within = static_cast<uint32_t>(block) - page * p.blocks.page_blocks;
  return p.blocks.pages[sequence * p.blocks.table_stride + page] + p.blocks.page_offset +
         within * bytes;
}

// Queries of a warp as operands of the products, held in registers.
template <typename T, int kDim, int kRowTiles>
struct MqaRegisterQueries {
  uint32_t a[kRowTiles][kDim / 16][4];

  __device__ __forceinline__ void Load(const MqaParams& p, int first_row, int row_end, int lane) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 q = QueryPair(p, first_row + m * 16 + lane / 4 + (i % 2) * 8, row_end,
                                     k * 16 + lane % 4 * 2 + (i / 2) * 8);
          a[m][k][i] = Pack2<T>(q.x, q.y);
        }
      }
    }
  }
  __device__ __forceinline__ void Get(int m, int k, uint32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = a[m][k][i];
  }
};

// The same in shared memory, for tiles whose registers are needed otherwise. A warp reads only what
// it wrote.
template <typename T, int kDim, int kRowTiles>
struct MqaSharedQueries {
  unsigned char* rows;  // [kRowTiles · 16] of this warp
  int lane;

  __device__ __forceinline__ void Load(const MqaParams& p, int first_row, int row_end) {
    for (int at = lane; at < kRowTiles * 16 * kDim / 8; at += 32) {
      const int row = at / (kDim / 8), piece = at % (kDim / 8);
      uint32_t* out = reinterpret_cast<uint32_t*>(rows + Swizzled<kDim>(row, piece));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 q = QueryPair(p, first_row + row, row_end, piece * 8 + i * 2);
        out[i] = Pack2<T>(q.x, q.y);
      }
    }
    __syncwarp();
  }
  __device__ __forceinline__ void Get(int m, int k, uint32_t (&out)[4]) const {
    const unsigned char* at = rows + Swizzled<kDim>(lane % 16, lane / 16);
    LoadMatrixX4(out, PiecePair(at, k) + m * 16 * kDim * 2);
  }
};

// Bias and mask of a warp's rows, in shared memory: registers are short. Rows beyond the tile have
// slope 0 and see everything; what they compute is not stored.
struct MqaBias {
  float* slopes;   // [warp rows] · log2(e)
  int* positions;  // [warp rows] last key that the row sees
  bool biased;
  int first_position, last_position;  // least and greatest of the warp's rows

  // `rows` is 16 or 32, by one warp.
  __device__ __forceinline__ void Load(const MqaParams& p, int first_row, int rows, int row_end,
                                       int lane) {
    biased = p.positions != nullptr;
    first_position = last_position = kNoPosition;
    if (!biased) return;
    const int row = first_row + lane;
    const bool inside = lane < rows && row < row_end;
    first_position = inside ? PositionOf(p, row) : kNoPosition;
    last_position = inside ? first_position : -1;
    if (lane < rows) {
      slopes[lane] = inside ? p.slopes[p.heads > 0 ? row % p.heads : row] * 1.44269504f : 0.0f;
      positions[lane] = first_position;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      first_position = min(first_position, __shfl_xor_sync(0xffffffffu, first_position, step));
      last_position = max(last_position, __shfl_xor_sync(0xffffffffu, last_position, step));
    }
    __syncwarp();
  }
};

// Running state of a warp's kRowTiles tiles of 16 rows.
template <typename T, int kDim, int kRowTiles>
struct MqaState {
  float o[kRowTiles][kDim / 8][4];             // sums of 2^(s - max) · v
  float max[kRowTiles][2], sum[kRowTiles][2];  // max in units of log2; sum of this lane
  float scale;                                 // · log2(e)
  MqaBias bias;

  __device__ __forceinline__ void Init(float scale_log2) {
    scale = scale_log2;
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        max[m][h] = kMinusInfinity;
        sum[m][h] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) o[m][n][i] = 0.0f;
      }
    }
  }

  // kKeys keys, the first of which is key number `first`, of `keys` in all.
  template <int kKeys, class Queries>
  __device__ __forceinline__ void Step(const Queries& queries, const unsigned char* k,
                                       const unsigned char* v, int first, int keys, int lane) {
    if (first > bias.last_position) return;
    float s[kRowTiles][kKeys / 8][4];
    Scores<kKeys>(queries, k, lane, s);
    if (bias.biased) AddBias<kKeys>(first, lane, s);
    if (first + kKeys > keys || first + kKeys - 1 > bias.first_position) {
      Mask<kKeys>(first, keys, lane, s);
    }
    Weights<kKeys>(s);
    AddValues<kKeys>(v, lane, s);
  }

  // s = q · k
  template <int kKeys, class Queries>
  __device__ __forceinline__ void Scores(const Queries& queries, const unsigned char* k, int lane,
                                         float (&s)[kRowTiles][kKeys / 8][4]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] = 0.0f;
      }
    }
    k += Swizzled<kDim>((lane / 16) * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int d = 0; d < kDim / 16; ++d) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) queries.Get(m, d, a[m]);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        LoadMatrixX4(b, PiecePair(k, d) + n * 16 * kDim * 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          Mma16816<T>(s[m][n * 2], a[m], {b[0], b[1]});
          Mma16816<T>(s[m][n * 2 + 1], a[m], {b[2], b[3]});
        }
      }
    }
  }

  // s = s · scale - slope · (position - key), relative to the row's position: exact where it
  // counts.
  template <int kKeys>
  __device__ __forceinline__ void AddBias(int first, int lane,
                                          float (&s)[kRowTiles][kKeys / 8][4]) {
    const float column = static_cast<float>(lane % 4 * 2);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = m * 16 + h * 8 + lane / 4;
        const float slope = bias.slopes[row];
        const float start = -slope * (static_cast<float>(bias.positions[row] - first) - column);
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float add = fmaf(slope, static_cast<float>(n * 8 + e), start);
            s[m][n][h * 2 + e] = fmaf(s[m][n][h * 2 + e], scale, add);
          }
        }
      }
    }
  }

  template <int kKeys>
  __device__ __forceinline__ void Mask(int first, int keys, int lane,
                                       float (&s)[kRowTiles][kKeys / 8][4]) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = m * 16 + h * 8 + lane / 4;
        const int seen = bias.biased ? ::min(bias.positions[row], keys - 1) : keys - 1;
        const int last = seen - first - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (n * 8 + e > last) s[m][n][h * 2 + e] = kMinusInfinity;
          }
        }
      }
    }
  }

  // s = 2^(s - max) for the new maxima, to which sums and outputs are brought.
  template <int kKeys>
  __device__ __forceinline__ void Weights(float (&s)[kRowTiles][kKeys / 8][4]) {
    const float factor = bias.biased ? 1.0f : scale;  // > 0
    bool same = true;
    float rescale[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = s[m][0][h * 2];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          top = fmaxf(top, fmaxf(s[m][n][h * 2], s[m][n][h * 2 + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float now = fmaxf(max[m][h], top * factor);
        // A row that has seen no key yet: any finite number keeps the difference from being NaN.
        const float reference = now == kMinusInfinity ? 0.0f : now;
        rescale[m][h] = Exp2(max[m][h] - reference);
        same = same && max[m][h] == now;
        max[m][h] = now;
        float part = 0.0f;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float weight = Exp2(fmaf(s[m][n][h * 2 + e], factor, -reference));
            s[m][n][h * 2 + e] = weight;
            part += weight;
          }
        }
        sum[m][h] = fmaf(sum[m][h], rescale[m][h], part);
      }
    }
    if (__all_sync(0xffffffffu, same)) return;  // mostly: maxima are found early
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) o[m][n][i] *= rescale[m][i / 2];
      }
    }
  }

  // o += weights · v
  template <int kKeys>
  __device__ __forceinline__ void AddValues(const unsigned char* v, int lane,
                                            const float (&s)[kRowTiles][kKeys / 8][4]) {
    v += Swizzled<kDim>(lane % 16, lane / 16);
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&pair)[4] = s[m][j * 2 + i / 2];
          a[m][i] = Pack2<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
        }
      }
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        LoadMatrixX4Trans(b, PiecePair(v, d) + j * 16 * kDim * 2);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          Mma16816<T>(o[m][d * 2], a[m], {b[0], b[1]});
          Mma16816<T>(o[m][d * 2 + 1], a[m], {b[2], b[3]});
        }
      }
    }
  }

  // Sums of whole rows; once, at the end.
  __device__ __forceinline__ void JoinSums() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[m][h] += __shfl_xor_sync(0xffffffffu, sum[m][h], 1);
        sum[m][h] += __shfl_xor_sync(0xffffffffu, sum[m][h], 2);
      }
    }
  }
};

}  // namespace longdoc::kernels::cuda
