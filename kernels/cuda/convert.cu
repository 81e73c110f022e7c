// Conversions between fp32, bf16 and fp16, eight elements a thread where the rows allow it.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/vector.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20;  // the rest by a loop

// One thread per kElements neighbours of a row: 8 by vector accesses, or 1.
template <typename In, typename Out, int kElements>
__global__ void __launch_bounds__(kThreads)
    ConvertRows(const In* in, Out* out, int64_t in_stride, int64_t out_stride, int64_t columns,
                int64_t items) {
  const int64_t per_row = columns / kElements;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < items;
       i += step) {
    const int64_t row = i / per_row, column = i % per_row * kElements;
    const In* from = in + row * in_stride + column;
    Out* to = out + row * out_stride + column;
    if constexpr (kElements == kVector) {
      float v[kVector];
      Load8(from, v);
      Store8(to, v);
    } else {
      *to = FromFloat<Out>(ToFloat(*from));
    }
  }
}

template <typename In, typename Out>
cudaError_t ConvertAs(const ConvertArgs& args, cudaStream_t stream) {
  const In* in = static_cast<const In*>(args.in);
  Out* out = static_cast<Out*>(args.out);
  const bool vector = args.columns % kVector == 0 && VectorRows(in, args.in_stride) &&
                      VectorRows(out, args.out_stride);
  const int64_t items = args.rows * (vector ? args.columns / kVector : args.columns);
  const int64_t blocks = CeilDiv(items, kThreads);
  const dim3 grid(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
  return Launch(vector ? ConvertRows<In, Out, kVector> : ConvertRows<In, Out, 1>, grid,
                dim3(kThreads), 0, stream, in, out, args.in_stride, args.out_stride, args.columns,
                items);
}

template <typename In>
cudaError_t ConvertFrom(const ConvertArgs& args, cudaStream_t stream) {
  switch (args.out_type) {
    case DType::kF32:
      return ConvertAs<In, float>(args, stream);
    case DType::kBF16:
      return ConvertAs<In, Bf16>(args, stream);
    case DType::kF16:
      return ConvertAs<In, Fp16>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t Convert(const ConvertArgs& args, cudaStream_t stream) {
  if (args.rows < 0 || args.columns < 0) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.columns == 0) return cudaSuccess;
  if (args.in == nullptr || args.out == nullptr) return cudaErrorInvalidValue;
  switch (args.in_type) {
    case DType::kF32:
      return ConvertFrom<float>(args, stream);
    case DType::kBF16:
      return ConvertFrom<Bf16>(args, stream);
    case DType::kF16:
      return ConvertFrom<Fp16>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace longdoc::kernels::cuda
