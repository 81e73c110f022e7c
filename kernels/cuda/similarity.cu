// Late interaction: largest products over ranges of rows, their sums, and rows of unit length;
// contract: kernels/similarity.h.
//
// Everything only waits for memory. ColumnMaxima reads a tile once into maxima of strips of 64 rows
// (4·rows·columns bytes) and then, for every range, its whole strips and the rows beyond them at
// its ends: at most 126 rows, however long it is. The maximum of numbers has no order, and sums are
// made in one that depends on the candidate's length alone, so that results do not depend on what
// shares a tile or a call.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/rows.cuh"
#include "kernels/similarity.h"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kColumns = 64;  // of a block: a warp reads 128 bytes of a row at once
constexpr int kGroups = 4;    // threads of a column, that take rows in turn
constexpr int kThreads = kColumns * kGroups;
constexpr int64_t kStrip = 64;  // rows
constexpr int kSumThreads = 128;
constexpr int kRowThreads = 256;  // eight rows
constexpr int64_t kMaxGridX = 0x7fffffff, kMaxGridY = 0xffff;

__device__ __forceinline__ float Nothing() { return __uint_as_float(0xff800000u); }
// NaN is passed over: never the second, so never the result.
__device__ __forceinline__ float Larger(float value, float best) {
  return value > best ? value : best;
}

// A thread block's columns, and the thread's part of them.
struct ColumnTile {
  int64_t column;
  int group;
  bool exists;
  __device__ explicit ColumnTile(int64_t columns)
      : column(int64_t{blockIdx.y} * kColumns + threadIdx.x % kColumns),
        group(static_cast<int>(threadIdx.x) / kColumns),
        exists(column < columns) {}
  // The largest of rows [begin, end) of a column of `in`, the group's share of them.
  __device__ __forceinline__ float Share(const float* in, int64_t columns, int64_t begin,
                                         int64_t end, float best) const {
#pragma unroll 4
    for (int64_t r = begin + group; r < end; r += kGroups) {
      best = Larger(in[r * columns + column], best);
    }
    return best;
  }
  // The largest of all groups, in the threads of the first one; a barrier of the block.
  __device__ __forceinline__ float Join(float best) const {
    __shared__ float parts[kThreads];
    parts[threadIdx.x] = best;
    __syncthreads();
    if (group != 0) return best;
#pragma unroll
    for (int g = 1; g < kGroups; ++g) best = Larger(parts[g * kColumns + threadIdx.x], best);
    return best;
  }
};

// Block (s, y): strip s, columns [64·y, 64·y + 64).
__global__ void __launch_bounds__(kThreads)
    StripMaxima(const float* in, int64_t columns, float* strips) {
  const ColumnTile tile(columns);
  const int64_t begin = int64_t{blockIdx.x} * kStrip;
  float best = Nothing();
  if (tile.exists) best = tile.Share(in, columns, begin, begin + kStrip, best);
  best = tile.Join(best);
  if (tile.exists && tile.group == 0) strips[int64_t{blockIdx.x} * columns + tile.column] = best;
}

// Block (i, y): range i.
__global__ void __launch_bounds__(kThreads)
    RangeMaxima(const ColumnMaximaArgs args, const float* strips) {
  const ColumnTile tile(args.columns);
  const RowRange range = args.ranges[blockIdx.x];
  const int64_t begin = range.begin, end = range.end;
  const int64_t first = (begin + kStrip - 1) / kStrip, last = end / kStrip;  // whole strips
  float best = Nothing();
  if (tile.exists) {
    if (first < last) {
      best = tile.Share(args.in, args.columns, begin, first * kStrip, best);
      best = tile.Share(strips, args.columns, first, last, best);
      best = tile.Share(args.in, args.columns, last * kStrip, end, best);
    } else {
      best = tile.Share(args.in, args.columns, begin, end, best);
    }
  }
  best = tile.Join(best);
  if (tile.exists && tile.group == 0) args.out[range.slot * args.out_stride + tile.column] = best;
}

// Block (s, i): span s for candidate i.
__global__ void __launch_bounds__(kSumThreads) SumSpanMaxima(const SumMaximaArgs args) {
  const MaximaSpan span = args.spans[blockIdx.x];
  const int64_t begin = args.columns[blockIdx.y], end = args.columns[blockIdx.y + 1];
  double sums[1] = {0};
  for (int64_t c = begin + threadIdx.x; c < end; c += kSumThreads) {
    const float* column = args.maxima + c;
    float best = Nothing();
    if (span.first >= 0) best = Larger(column[span.first * args.stride], best);
    if (span.last >= 0) best = Larger(column[span.last * args.stride], best);
#pragma unroll 4
    for (int64_t slot = span.begin; slot < span.end; ++slot) {
      best = Larger(column[slot * args.stride], best);
    }
    sums[0] += static_cast<double>(best);
  }
  BlockSum<kSumThreads>(sums);
  if (threadIdx.x == 0) {
    args.scores[blockIdx.y * args.scores_stride + blockIdx.x] =
        sums[0] / static_cast<double>(end - begin);
  }
}

// A warp a row, which is read twice, the second time from cache. N elements a thread and access.
template <int N>
__global__ void __launch_bounds__(kRowThreads) ScaleUnitRows(const UnitRowsArgs args) {
  const int64_t row = int64_t{blockIdx.x} * (kRowThreads / 32) + threadIdx.x / 32;
  const bool exists = row < args.rows;
  const float* in = args.in + row * args.dim;
  Bf16* out = reinterpret_cast<Bf16*>(args.out) + row * args.dim;
  const int64_t dim = exists ? args.dim : 0;
  const int64_t first = N * static_cast<int64_t>(threadIdx.x % 32);
  double sum = 0;
  for (int64_t c = first; c < dim; c += 32 * N) {
    float v[N];
    LoadVector(in + c, v);
#pragma unroll
    for (int i = 0; i < N; ++i)
      sum = fma(static_cast<double>(v[i]), static_cast<double>(v[i]), sum);
  }
  sum = TeamSum<32>(sum);
  const double factor = sum > 0 ? 1 / sqrt(sum) : 1;
  for (int64_t c = first; c < dim; c += 32 * N) {
    float v[N];
    LoadVector(in + c, v);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = static_cast<float>(static_cast<double>(v[i]) * factor);
    StoreVector(out + c, v);
  }
}

}  // namespace

int64_t ColumnMaximaWorkspaceBytes(int64_t rows, int64_t columns) {
  return rows / kStrip * columns * static_cast<int64_t>(sizeof(float));
}

cudaError_t ColumnMaxima(const ColumnMaximaArgs& args, cudaStream_t stream) {
  if (args.num_ranges == 0 || args.columns == 0) return cudaSuccess;
  const int64_t tiles = CeilDiv(args.columns, kColumns);
  if (tiles > kMaxGridY || args.num_ranges > kMaxGridX || args.rows > kMaxGridX) {
    return cudaErrorInvalidValue;
  }
  float* strips = static_cast<float*>(args.scratch);
  const dim3 threads(kThreads);
  const unsigned y = static_cast<unsigned>(tiles);
  if (args.rows >= kStrip) {
    const dim3 grid(static_cast<unsigned>(args.rows / kStrip), y);
    const cudaError_t error =
        Launch(StripMaxima, grid, threads, 0, stream, args.in, args.columns, strips);
    if (error != cudaSuccess) return error;
  }
  const dim3 grid(static_cast<unsigned>(args.num_ranges), y);
  return Launch(RangeMaxima, grid, threads, 0, stream, args, strips);
}

cudaError_t SumMaxima(const SumMaximaArgs& args, cudaStream_t stream) {
  if (args.num_spans == 0 || args.num_candidates == 0) return cudaSuccess;
  if (args.num_spans > kMaxGridX || args.num_candidates > kMaxGridY) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(args.num_spans),
                  static_cast<unsigned>(args.num_candidates));
  return Launch(SumSpanMaxima, grid, dim3(kSumThreads), 0, stream, args);
}

cudaError_t UnitRows(const UnitRowsArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.dim == 0) return cudaSuccess;
  const int64_t blocks = CeilDiv(args.rows, kRowThreads / 32);
  if (blocks > kMaxGridX) return cudaErrorInvalidValue;
  const auto is_aligned = [](const void* p, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  const bool vector = args.dim % 4 == 0 && is_aligned(args.in, 16) && is_aligned(args.out, 8);
  return Launch(vector ? ScaleUnitRows<4> : ScaleUnitRows<1>, dim3(static_cast<unsigned>(blocks)),
                dim3(kRowThreads), 0, stream, args);
}

}  // namespace longdoc::kernels::cuda
