// What passes keep of a routing, and additions to a part of the rows: small kernels beside the
// router's and scatter-add's own.
#include <cstdint>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Whether `value` is in the ascending a[0..n).
__device__ __forceinline__ bool Contains(const int32_t* a, int64_t n, int32_t value) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (a[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < n && a[low] == value;
}

// One block: a few thousand tokens, whose sums come out the same every time.
__global__ void __launch_bounds__(kThreads) NoteRoutedTokens(NoteRoutedArgs args) {
  __shared__ double weights[kThreads];
  __shared__ int64_t repeats[kThreads];
  double weight = 0;
  int64_t repeated = 0;
  for (int64_t i = threadIdx.x; i < args.k; i += kThreads) {
    const int32_t index = args.indices[i];
    args.rows[i] = index + args.first_row;
    weight += static_cast<double>(args.weights[i]);
    if (args.compare) repeated += Contains(args.previous, args.k, index) ? 1 : 0;
  }
  weights[threadIdx.x] = weight;
  repeats[threadIdx.x] = repeated;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      weights[threadIdx.x] += weights[threadIdx.x + half];
      repeats[threadIdx.x] += repeats[threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    *args.weight += weights[0];
    if (args.compare) *args.repeated += repeats[0];
  }
  if (args.previous == nullptr) return;
  // Everybody has compared: the sums above were waited for.
  for (int64_t i = threadIdx.x; i < args.k; i += kThreads) args.previous[i] = args.indices[i];
}

// A block per row; those out of range leave at once.
__global__ void __launch_bounds__(kThreads)
    AddRowsWithin(ScatterAddArgs args, int64_t first_row, int64_t begin, int64_t end) {
  const int64_t r = first_row + blockIdx.x;
  const int64_t index = args.indices[r];
  if (index < begin || index >= end) return;
  const float scale = args.row_scale != nullptr ? args.row_scale[r] : 1.0f;
  const float* in = args.in + r * args.dim;
  float* out = args.out + index * args.dim;
  for (int64_t c = threadIdx.x; c < args.dim; c += kThreads) out[c] += scale * in[c];
}

}  // namespace

cudaError_t NoteRouted(const NoteRoutedArgs& args, cudaStream_t stream) {
  if (args.k < 0 || (args.compare && args.previous == nullptr)) return cudaErrorInvalidValue;
  if (args.k == 0) return cudaSuccess;
  return Launch(NoteRoutedTokens, dim3(1), dim3(kThreads), 0, stream, args);
}

cudaError_t ScatterAddWithin(const ScatterAddArgs& args, int64_t begin, int64_t end,
                             cudaStream_t stream) {
  if (args.rows < 0 || args.dim < 0 || args.indices == nullptr) return cudaErrorInvalidValue;
  constexpr int64_t kMaxBlocks = int64_t{1} << 30;
  for (int64_t first = 0; first < args.rows && begin < end; first += kMaxBlocks) {
    const int64_t left = args.rows - first;
    const unsigned blocks = static_cast<unsigned>(left < kMaxBlocks ? left : kMaxBlocks);
    const cudaError_t error =
        Launch(AddRowsWithin, dim3(blocks), dim3(kThreads), 0, stream, args, first, begin, end);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace longdoc::kernels::cuda
