// Means of many spans of rows, which may overlap, nest and be as long as the document.
//
// One pass over x sums aligned runs of 32 rows, a pass over those sums runs of 32 of them, and so
// on (PoolLevels). A span is then at most 31 rows at each end, at most 31 sums at each end of every
// level, and the rest of the highest one: however many spans there are, x is read once from memory,
// 4·C bytes per row, and 64 rows per span at most again. Every sum is compensated and its order is
// fixed by the span's place alone.
#include <cstdint>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/rows.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kFan = 32;
constexpr int kMaxLevels = 5;  // rows, and sums of 32, 2^10, 2^15 and 2^20 of them

// Level 0 is x; rows[l] = rows[l − 1] / 32 full runs of the level before.
struct PoolLevels {
  int count = 1;
  const float* data[kMaxLevels] = {};  // [rows[l], C]
  int64_t rows[kMaxLevels] = {};
};

PoolLevels MakeLevels(const PoolArgs& args) {
  PoolLevels levels;
  levels.data[0] = args.x;
  levels.rows[0] = args.tokens;
  float* next = static_cast<float*>(args.workspace);
  // A level of few rows would not pay for its launch.
  while (levels.count < kMaxLevels && levels.rows[levels.count - 1] >= 4 * kFan) {
    const int64_t rows = levels.rows[levels.count - 1] / kFan;
    levels.data[levels.count] = next;
    levels.rows[levels.count] = rows;
    if (next != nullptr) next += RoundUp(rows * args.dim, 4);
    ++levels.count;
  }
  return levels;
}

// kElements running sums with what they are too high by (Kahan).
template <int kElements>
struct Sums {
  float sum[kElements] = {}, excess[kElements] = {};

  // Rows [begin, end) of x, at this thread's columns; `stride` floats apart.
  __device__ __forceinline__ void AddRows(const float* x, int64_t stride, int64_t begin,
                                          int64_t end) {
#pragma unroll 8  // loads under way together
    for (int64_t r = begin; r < end; ++r) {
      float row[kElements];
      LoadVector(x + r * stride, row);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const float term = __fsub_rn(row[i], excess[i]);
        const float next = __fadd_rn(sum[i], term);
        excess[i] = __fsub_rn(__fsub_rn(next, sum[i]), term);
        sum[i] = next;
      }
    }
  }
};

// to[r,:] = sum of rows [32·r, 32·r + 32) of `from`; a thread per kElements columns of one r.
template <int kElements>
__global__ void __launch_bounds__(kThreads)
    SumRuns(const float* from, float* to, int64_t rows, int64_t dim, int64_t items_per_row) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = i / items_per_row, column = i % items_per_row * kElements;
  if (row >= rows) return;
  Sums<kElements> sums;
  sums.AddRows(from + row * kFan * dim + column, dim, 0, kFan);
  StoreVector(to + row * dim + column, sums.sum);
}

// A thread per kElements columns of one span; consecutive threads are neighbours in a row.
template <int kElements>
__global__ void __launch_bounds__(kThreads)
    PoolSpans(PoolArgs p, PoolLevels levels, int64_t items_per_row) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t span = i / items_per_row, column = i % items_per_row * kElements;
  if (span >= p.spans) return;
  int64_t begin = p.begin[span], end = p.end[span];
  const int64_t length = end - begin;
  Sums<kElements> sums;
#pragma unroll
  for (int level = 0; level < kMaxLevels; ++level) {
    if (level >= levels.count || begin >= end) break;
    const float* x = levels.data[level] + column;
    const int64_t first = CeilDiv(begin, kFan), last = end / kFan;  // full runs inside
    if (level + 1 >= levels.count || first >= last) {
      sums.AddRows(x, p.dim, begin, end);
      break;
    }
    sums.AddRows(x, p.dim, begin, first * kFan);
    sums.AddRows(x, p.dim, last * kFan, end);
    begin = first;
    end = last;
  }
  const float inverse = length > 0 ? 1 / static_cast<float>(length) : 0.0f;
#pragma unroll
  for (int e = 0; e < kElements; ++e) sums.sum[e] = length > 0 ? sums.sum[e] * inverse : 0.0f;
  StoreVector(p.out + span * p.dim + column, sums.sum);
}

template <int kElements>
cudaError_t PoolAs(const PoolArgs& args, const PoolLevels& levels, cudaStream_t stream) {
  const int64_t items = args.dim / kElements;
  for (int level = 1; level < levels.count; ++level) {
    const int64_t rows = levels.rows[level];
    const cudaError_t error = Launch(SumRuns<kElements>, GridOf(rows * items, kThreads),
                                     dim3(kThreads), 0, stream, levels.data[level - 1],
                                     const_cast<float*>(levels.data[level]), rows, args.dim, items);
    if (error != cudaSuccess) return error;
  }
  return Launch(PoolSpans<kElements>, GridOf(args.spans * items, kThreads), dim3(kThreads), 0,
                stream, args, levels, items);
}

}  // namespace

int64_t PoolWorkspaceBytes(const PoolArgs& args) {
  const PoolLevels levels = MakeLevels(args);
  int64_t floats = 0;
  for (int level = 1; level < levels.count; ++level) {
    floats += RoundUp(levels.rows[level] * args.dim, 4);
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

cudaError_t MeanPool(const PoolArgs& args, cudaStream_t stream) {
  if (args.spans < 0 || args.dim < 0 || args.tokens < 0) return cudaErrorInvalidValue;
  if (args.spans == 0 || args.dim == 0) return cudaSuccess;
  const PoolLevels levels = MakeLevels(args);
  const bool vector = args.dim % 4 == 0 && VectorRows(args.x, 0) && VectorRows(args.out, 0) &&
                      VectorRows(static_cast<const float*>(args.workspace), 0);
  return vector ? PoolAs<4>(args, levels, stream) : PoolAs<1>(args, levels, stream);
}

}  // namespace longdoc::kernels::cuda
