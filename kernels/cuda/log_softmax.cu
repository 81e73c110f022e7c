// Running log-softmax over tiles of a vocabulary; contract: decode.h.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/running_sum.cuh"

namespace longdoc::kernels::cuda {
namespace {

// Products are rounded before anything is subtracted from them: fused, the difference of a number
// and itself would not be 0.
//
// One thread block a row; the logits are read once. 4·columns bytes a row: 16 bytes a thread and
// four loads on their way, 16 KB of every block of 256 threads.
__global__ void __launch_bounds__(1024)
    LogSoftmaxTileRows(const LogSoftmaxTileArgs args, bool aligned) {
  __shared__ float shared_max[32], shared_sum[32];
  const int64_t row = blockIdx.x;
  const float* logits = args.logits + row * args.columns;
  RunningSum state;
  if (aligned) {
    const float4* quads = reinterpret_cast<const float4*>(logits);
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < args.columns / 4; i += blockDim.x) {
      const float4 x = quads[i];
      state.Add(__fmul_rn(x.x, args.scale));
      state.Add(__fmul_rn(x.y, args.scale));
      state.Add(__fmul_rn(x.z, args.scale));
      state.Add(__fmul_rn(x.w, args.scale));
    }
  } else {
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < args.columns; i += blockDim.x) {
      state.Add(__fmul_rn(logits[i], args.scale));
    }
  }
  state.JoinWarp();
  if (threadIdx.x % 32 == 0) {
    shared_max[threadIdx.x / 32] = state.max;
    shared_sum[threadIdx.x / 32] = state.sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  RunningSum all;
  all.max = args.max[row];
  all.sum = args.sum[row];
  for (unsigned w = 0; w < blockDim.x / 32; ++w) all.Join(shared_max[w], shared_sum[w]);
  args.max[row] = all.max;
  args.sum[row] = all.sum;
  const int64_t column = args.targets[row] - args.column_begin;
  if (column >= 0 && column < args.columns)
    args.chosen[row] = __fmul_rn(logits[column], args.scale);
}

}  // namespace

cudaError_t LogSoftmaxTile(const LogSoftmaxTileArgs& args, cudaStream_t stream) {
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  if (args.rows > 0x7fffffff) return cudaErrorInvalidValue;
  const bool aligned = args.columns % 4 == 0 && reinterpret_cast<uintptr_t>(args.logits) % 16 == 0;
  // Many rows fill the device with small blocks; few rows want all threads that a row can have.
  const unsigned threads = args.rows >= 512 || args.columns <= 2048 ? 256 : 1024;
  return Launch(LogSoftmaxTileRows, dim3(static_cast<unsigned>(args.rows)), dim3(threads), 0,
                stream, args, aligned);
}

}  // namespace longdoc::kernels::cuda
