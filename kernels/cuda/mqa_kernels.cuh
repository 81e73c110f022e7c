// Multi-query attention: the kernels of few and of many rows, and their launch. Included by one
// file per element type.
//
// Roofline on an H200 (132 multiprocessors, 4.8 TB/s, about 1 us from request to arrival when
// loaded): K and V of n keys are 4·n·D bytes, 25.6 MB or 5.3 us at 100,000 keys and D = 64. To keep
// 4.8 TB/s busy 4.8 MB must be on their way, 36 KB of each multiprocessor.
// A row does 4·D FLOP on the 4·D bytes of a key: rows are FLOP per byte. (Derived from data sheets,
// not measured.)
//   few rows    one thread block a multiprocessor, 4 warps · 3 stages · 8 KB: 64 to 96 KB on their
//               way. K and V are read once, whatever the rows; far from the matrix units' limit.
//   many rows   64 or 128 FLOP a byte; mma.sync's rate is met between the two. Row tiles of one
//               split run side by side, so that all but the first find K and V in L2.
#pragma once

#include "kernels/cuda/mqa_tile.cuh"

namespace longdoc::kernels::cuda {

constexpr int kMqaThreads = 128;
constexpr int kMqaWarps = kMqaThreads / 32;

// Two neighbouring elements of the output.
__device__ inline void StorePair(DType type, void* out, int64_t at, float x, float y) {
  if (type == DType::kF32) {
    *reinterpret_cast<float2*>(static_cast<float*>(out) + at) = make_float2(x, y);
  } else {
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(out) + at) =
        type == DType::kBF16 ? Pack2<Bf16>(x, y) : Pack2<Fp16>(x, y);
  }
}

// A stretch of keys of the few-row kernel: 8 KB of K and V at any head dim.
template <int kDim>
struct MqaStretch {
  static constexpr int kKeys = 2048 / kDim;  // 64, 32, 16
  static constexpr int kPerBlock = kKeyBlock / kKeys;
  static constexpr int kPanelBytes = kKeys * kDim * 2;  // 4096
  static constexpr int kStages = 3;
  static constexpr int kBytes = kMqaWarps * kStages * 2 * kPanelBytes;
};

// The states of a thread block's warps, which have the same rows and different keys, become one in
// shared memory; the row of every thread is then written. Fixed order: deterministic.
template <typename T, int kDim>
__device__ __forceinline__ void JoinWarps(const MqaParams& p, const MqaRowTile& rows,
                                          MqaState<T, kDim, 1>& state) {
  constexpr int kStride = kDim + 8;  // floats; so that a warp's pairs touch all banks
  float* shared_o = reinterpret_cast<float*>(DynamicShared());  // [warps][16][kStride]
  float* shared_max = shared_o + kMqaWarps * 16 * kStride;      // [warps][16]
  float* shared_sum = shared_max + kMqaWarps * 16;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = warp * 16 + h * 8 + lane / 4;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(shared_o + row * kStride + n * 8 + lane % 4 * 2) =
          make_float2(state.o[0][n][h * 2], state.o[0][n][h * 2 + 1]);
    }
    if (lane % 4 == 0) {
      shared_max[row] = state.max[0][h];
      shared_sum[row] = state.sum[0][h];
    }
  }
  __syncthreads();
  const int row = threadIdx.x / 8, part = threadIdx.x % 8;  // 8 threads a row
  if (rows.begin + row >= rows.end) return;
  float top = kMinusInfinity, total = 0.0f, factor[kMqaWarps];
#pragma unroll
  for (int w = 0; w < kMqaWarps; ++w) top = fmaxf(top, shared_max[w * 16 + row]);
  const float reference = top == kMinusInfinity ? 0.0f : top;
#pragma unroll
  for (int w = 0; w < kMqaWarps; ++w) {
    factor[w] = Exp2(shared_max[w * 16 + row] - reference);
    total = fmaf(factor[w], shared_sum[w * 16 + row], total);
  }
  const bool last = p.splits == 1;
  const float inverse = !last ? 1.0f : total == 0.0f ? 0.0f : 1.0f / total;
  const int64_t at = static_cast<int64_t>(last ? 0 : blockIdx.y) * p.rows + rows.begin + row;
  if (!last && part == 0) p.stats[at] = make_float2(top, total);
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int column = (i * 8 + part) * 2;
    if (column >= p.dim) break;
    float x = 0.0f, y = 0.0f;
#pragma unroll
    for (int w = 0; w < kMqaWarps; ++w) {
      const float2 o =
          *reinterpret_cast<const float2*>(shared_o + (w * 16 + row) * kStride + column);
      x = fmaf(factor[w], o.x, x);
      y = fmaf(factor[w], o.y, y);
    }
    StorePair(last ? p.out_type : DType::kF32, last ? p.out : p.partial, at * p.dim + column,
              x * inverse, y * inverse);
  }
}

// Up to 16 rows. Every warp streams stretches of keys of its own through its own part of shared
// memory: no barrier between warps until the end.
template <typename T, int kDim>
__global__ void __launch_bounds__(kMqaThreads) MqaFewRows(const MqaParams p) {
  using Stretch = MqaStretch<kDim>;
  constexpr int kSlot = 2 * Stretch::kPanelBytes;
  __shared__ float slopes[kMqaWarps][16];
  __shared__ int positions[kMqaWarps][16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const MqaRowTile rows = RowTileOf(p, 16);
  if (rows.begin >= rows.end) return;
  const MqaKeyRange range = KeyRangeOf(p, rows);
  const int first = range.block_begin * Stretch::kPerBlock + warp;
  const int end = min(range.block_end * Stretch::kPerBlock,
                      static_cast<int>(CeilDiv(range.visible, Stretch::kKeys)));
  unsigned char* const slots = DynamicShared() + warp * Stretch::kStages * kSlot;

  // The address of a stretch's block is read one stretch before it is wanted: it may be in a table.
  const char* block =
      first < end ? BlockAddress(p, rows.sequence, first / Stretch::kPerBlock) : nullptr;
  const auto copy = [&](int stretch, unsigned char* slot) {
    if (stretch < end) {
      const char* from =
          block + stretch % Stretch::kPerBlock * (Stretch::kKeys * 2) * int64_t{p.dim};
      const int valid = range.visible - stretch * Stretch::kKeys;
      CopyRows<kDim, Stretch::kKeys, 32, true>(slot, from, p.dim, valid, lane);
      CopyRows<kDim, Stretch::kKeys, 32, true>(
          slot + Stretch::kPanelBytes, from + 2 * kKeyBlock * int64_t{p.dim}, p.dim, valid, lane);
      const int next = stretch + kMqaWarps;
      if (next < end) block = BlockAddress(p, rows.sequence, next / Stretch::kPerBlock);
    }
    CopyAsyncCommit();  // an empty group keeps the count
  };
#pragma unroll
  for (int i = 0; i < Stretch::kStages; ++i) copy(first + i * kMqaWarps, slots + i * kSlot);

  MqaRegisterQueries<T, kDim, 1> queries;
  queries.Load(p, rows.begin, rows.end, lane);
  MqaState<T, kDim, 1> state;
  state.Init(p.scale_log2);
  state.bias.slopes = slopes[warp];
  state.bias.positions = positions[warp];
  state.bias.Load(p, rows.begin, 16, rows.end, lane);
  unsigned char* slot = slots;
  for (int stretch = first; stretch < end; stretch += kMqaWarps) {
    CopyAsyncWait<Stretch::kStages - 1>();
    __syncwarp();
    state.template Step<Stretch::kKeys>(queries, slot, slot + Stretch::kPanelBytes,
                                        stretch * Stretch::kKeys, range.visible, lane);
    __syncwarp();
    copy(stretch + Stretch::kStages * kMqaWarps, slot);
    slot = slot == slots + (Stretch::kStages - 1) * kSlot ? slots : slot + kSlot;
  }
  state.JoinSums();
  CopyAsyncWait<0>();
  __syncthreads();  // the slots are free now
  JoinWarps(p, rows, state);
}

template <int kDim, int kRowTiles>
struct MqaMany {
  static constexpr int kRows = kMqaWarps * kRowTiles * 16;
  static constexpr int kPanelBytes = kKeyBlock * kDim * 2;
  // Two thread blocks must fit into 227 KB.
  static constexpr int kStages = kDim < 128 ? 4 : kRowTiles == 1 ? 3 : 2;
  static constexpr int kPanels = kStages * 2 * kPanelBytes;
  // Registers hold the queries, but for the largest tile, where the output takes 128 of them.
  static constexpr bool kShareQueries = kDim == 128 && kRowTiles == 2;
  static constexpr int kKeys = kShareQueries ? 32 : kKeyBlock;  // of one step
  static constexpr int kBytes = kPanels + (kShareQueries ? kRows * kDim * 2 : 0);
};

// Writes a warp's rows: the output, or a split's partial result.
template <typename T, int kDim, int kRowTiles>
__device__ __forceinline__ void StoreRows(const MqaParams& p, int first_row, int row_end, int lane,
                                          const MqaState<T, kDim, kRowTiles>& state) {
  const bool last = p.splits == 1;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first_row + m * 16 + h * 8 + lane / 4;
      if (row >= row_end) continue;
      const float total = state.sum[m][h];
      const float inverse = !last ? 1.0f : total == 0.0f ? 0.0f : 1.0f / total;
      const int64_t at = static_cast<int64_t>(last ? 0 : blockIdx.y) * p.rows + row;
      if (!last && lane % 4 == 0) p.stats[at] = make_float2(state.max[m][h], total);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const int column = n * 8 + lane % 4 * 2;
        if (column >= p.dim) break;
        StorePair(last ? p.out_type : DType::kF32, last ? p.out : p.partial, at * p.dim + column,
                  state.o[m][n][h * 2] * inverse, state.o[m][n][h * 2 + 1] * inverse);
      }
    }
  }
}

// Tiles of 64 or 128 rows: every warp has rows of its own, all share the key blocks.
template <typename T, int kDim, int kRowTiles>
__global__ void __launch_bounds__(kMqaThreads, 2) MqaManyRows(const MqaParams p) {
  using Many = MqaMany<kDim, kRowTiles>;
  constexpr int kSlot = 2 * Many::kPanelBytes;
  __shared__ float slopes[kMqaWarps][kRowTiles * 16];
  __shared__ int positions[kMqaWarps][kRowTiles * 16];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const MqaRowTile rows = RowTileOf(p, Many::kRows);
  if (rows.begin >= rows.end) return;
  const MqaKeyRange range = KeyRangeOf(p, rows);
  unsigned char* const slots = DynamicShared();

  const char* address = range.block_begin < range.block_end
                            ? BlockAddress(p, rows.sequence, range.block_begin)
                            : nullptr;
  const auto copy = [&](int block) {
    if (block < range.block_end) {
      unsigned char* slot = slots + (block - range.block_begin) % Many::kStages * kSlot;
      const int valid = range.visible - block * static_cast<int>(kKeyBlock);
      CopyRows<kDim, kKeyBlock, kMqaThreads, false>(slot, address, p.dim, valid, thread);
      CopyRows<kDim, kKeyBlock, kMqaThreads, false>(
          slot + Many::kPanelBytes, address + 2 * kKeyBlock * int64_t{p.dim}, p.dim, valid, thread);
      if (block + 1 < range.block_end) address = BlockAddress(p, rows.sequence, block + 1);
    }
    CopyAsyncCommit();  // an empty group keeps the count
  };
#pragma unroll
  for (int i = 0; i < Many::kStages - 1; ++i) copy(range.block_begin + i);

  const int first_row = rows.begin + warp * kRowTiles * 16;
  const bool idle = first_row >= rows.end;
  MqaState<T, kDim, kRowTiles> state;
  state.Init(p.scale_log2);
  state.bias.slopes = slopes[warp];
  state.bias.positions = positions[warp];
  state.bias.Load(p, first_row, kRowTiles * 16, rows.end, lane);
  const auto attend = [&](const auto& queries) {
    for (int block = range.block_begin; block < range.block_end; ++block) {
      CopyAsyncWait<Many::kStages - 2>();
      __syncthreads();  // this block is there, and no warp still reads the one before
      copy(block + Many::kStages - 1);
      if (idle) continue;
      const unsigned char* k = slots + (block - range.block_begin) % Many::kStages * kSlot;
#pragma unroll 1
      for (int part = 0; part < kKeyBlock; part += Many::kKeys) {
        const unsigned char* from = k + part * kDim * 2;
        state.template Step<Many::kKeys>(queries, from, from + Many::kPanelBytes,
                                         block * static_cast<int>(kKeyBlock) + part, range.visible,
                                         lane);
      }
    }
  };
  if constexpr (Many::kShareQueries) {
    MqaSharedQueries<T, kDim, kRowTiles> queries;
    queries.rows = slots + Many::kPanels + warp * kRowTiles * 16 * kDim * 2;
    queries.lane = lane;
    queries.Load(p, first_row, rows.end);
    attend(queries);
  } else {
    MqaRegisterQueries<T, kDim, kRowTiles> queries;
    queries.Load(p, first_row, rows.end, lane);
    attend(queries);
  }
  CopyAsyncWait<0>();
  state.JoinSums();
  StoreRows(p, first_row, rows.end, lane, state);
}

template <typename T, int kDim>
cudaError_t LaunchMqaDim(const MqaPlan& plan, int64_t sequences, const MqaParams& params,
                         cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.row_tiles * sequences),
                  static_cast<unsigned>(plan.splits));
  const dim3 block(kMqaThreads);
  switch (plan.row_tile) {
    case 16:
      return Launch(MqaFewRows<T, kDim>, grid, block, MqaStretch<kDim>::kBytes, stream, params);
    case 64:
      return Launch(MqaManyRows<T, kDim, 1>, grid, block, MqaMany<kDim, 1>::kBytes, stream, params);
    default:
      return Launch(MqaManyRows<T, kDim, 2>, grid, block, MqaMany<kDim, 2>::kBytes, stream, params);
  }
}

template <typename T>
cudaError_t LaunchMqa(const MqaPlan& plan, int64_t sequences, const MqaParams& params,
                      cudaStream_t stream) {
  if (params.dim <= 32) return LaunchMqaDim<T, 32>(plan, sequences, params, stream);
  if (params.dim <= 64) return LaunchMqaDim<T, 64>(plan, sequences, params, stream);
  return LaunchMqaDim<T, 128>(plan, sequences, params, stream);
}

}  // namespace longdoc::kernels::cuda
