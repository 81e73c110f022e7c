// Gated GELU and scatter-add: one thread for every 16 bytes of input or more.
//
// Bytes: GatedGelu 3·F elements per row (2·F in, F out); ScatterAdd 12·C per row. The gate is a
// kernel of its own because cuBLASLt has no gated epilogue: at 100,000 tokens and F = 3072 it moves
// 1.8 GB where the product before writes bf16 (3.7 GB from fp32 to fp32), 0.45 ms at 4.1 TB/s.
#include <cstdint>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/functions.cuh"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/rows.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 256;
// Of one launch: threads are counted in 32 bits, which divide several times faster than 64.
constexpr int64_t kMaxItems = int64_t{1} << 31;

// Calls launch(first row, rows) for parts of the rows such that a part has at most kMaxItems items;
// a row has `items` <= kMaxItems.
template <class F>
cudaError_t ForRowParts(int64_t rows, int64_t items, const F& launch) {
  const int64_t part = kMaxItems / items;
  for (int64_t first = 0; first < rows; first += part) {
    const int64_t count = rows - first < part ? rows - first : part;
    const cudaError_t error = launch(first, count);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

// The item (row, column of its first element) of a thread; row is `rows` beyond the last one.
struct Item {
  uint32_t row;
  int64_t column;
};
template <int kElements>
__device__ __forceinline__ Item ItemOf(uint32_t items_per_row) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;  // < 2^31 + kThreads
  const uint32_t row = i / items_per_row;
  return {row, static_cast<int64_t>(i - row * items_per_row) * kElements};
}

// ---- gated GELU --------------------------------------------------------------------------------

struct GeluForm {
  bool second_half, tanh;
};

// kExact: to 1e-6, for fp32 out; otherwise short formulas.
template <bool kExact, bool kTanh>
__device__ __forceinline__ float GeluOf(float x) {
  if constexpr (kExact) return kTanh ? TanhGelu<Lane>(x) : Gelu<Lane>(x);
  return kTanh ? CoarseTanhGelu(x) : CoarseGelu(x);
}

template <class In, class Out, int kElements>
__global__ void __launch_bounds__(kThreads)
    GatedGeluRows(const In* in, Out* out, uint32_t rows, uint32_t items_per_row, GeluForm form) {
  constexpr bool kExact = sizeof(Out) == sizeof(float);
  const Item item = ItemOf<kElements>(items_per_row);
  if (item.row >= rows) return;
  const int64_t dim = static_cast<int64_t>(items_per_row) * kElements;
  const In* row = in + item.row * 2 * dim + item.column;
  float x[kElements], gate[kElements];
  LoadVector(row + (form.second_half ? dim : 0), x);
  LoadVector(row + (form.second_half ? 0 : dim), gate);
  if (form.tanh) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) x[i] = GeluOf<kExact, true>(x[i]) * gate[i];
  } else {
#pragma unroll
    for (int i = 0; i < kElements; ++i) x[i] = GeluOf<kExact, false>(x[i]) * gate[i];
  }
  StoreVector(out + item.row * dim + item.column, x);
}

template <class In, class Out>
cudaError_t GatedGeluAs(const GatedGeluArgs& args, cudaStream_t stream) {
  constexpr int kElements = 16 / sizeof(In);
  const In* in = static_cast<const In*>(args.in);
  Out* out = static_cast<Out*>(args.out);
  const bool vector = args.dim % kElements == 0 && VectorRows(in, 0) && VectorRows(out, 0);
  const int64_t items = vector ? args.dim / kElements : args.dim;
  const auto kernel = vector ? GatedGeluRows<In, Out, kElements> : GatedGeluRows<In, Out, 1>;
  const GeluForm form = {args.activate_second_half, args.tanh_form};
  return ForRowParts(args.rows, items, [&](int64_t first, int64_t rows) {
    return Launch(kernel, GridOf(rows * items, kThreads), dim3(kThreads), 0, stream,
                  in + first * 2 * args.dim, out + first * args.dim, static_cast<uint32_t>(rows),
                  static_cast<uint32_t>(items), form);
  });
}

// ---- scatter-add -------------------------------------------------------------------------------

template <int kElements>
__global__ void __launch_bounds__(kThreads)
    ScatterAddRows(ScatterAddArgs p, int64_t first, uint32_t rows, uint32_t items_per_row) {
  const Item item = ItemOf<kElements>(items_per_row);
  if (item.row >= rows) return;
  const int64_t row = first + item.row;
  const int64_t to = p.indices != nullptr ? p.indices[row] : row;
  const float scale = p.row_scale != nullptr ? p.row_scale[row] : 1.0f;
  float* out = p.out + to * p.dim + item.column;
  float x[kElements], sum[kElements];
  LoadVector(p.in + row * p.dim + item.column, x);
  LoadVector(out, sum);
#pragma unroll
  for (int i = 0; i < kElements; ++i) sum[i] = fmaf(x[i], scale, sum[i]);
  StoreVector(out, sum);
}

}  // namespace

cudaError_t GatedGelu(const GatedGeluArgs& args, cudaStream_t stream) {
  if (args.rows < 0 || args.dim < 0 || args.dim > kMaxItems || args.in_type == DType::kF16 ||
      args.out_type == DType::kF16) {
    return cudaErrorInvalidValue;
  }
  if (args.rows == 0 || args.dim == 0) return cudaSuccess;
  const bool narrow_out = args.out_type == DType::kBF16;
  if (args.in_type == DType::kBF16) {
    return narrow_out ? GatedGeluAs<Bf16, Bf16>(args, stream)
                      : GatedGeluAs<Bf16, float>(args, stream);
  }
  return narrow_out ? GatedGeluAs<float, Bf16>(args, stream)
                    : GatedGeluAs<float, float>(args, stream);
}

cudaError_t ScatterAdd(const ScatterAddArgs& args, cudaStream_t stream) {
  if (args.rows < 0 || args.dim < 0 || args.dim > kMaxItems) return cudaErrorInvalidValue;
  if (args.rows == 0 || args.dim == 0) return cudaSuccess;
  const bool vector = args.dim % 4 == 0 && VectorRows(args.in, 0) && VectorRows(args.out, 0);
  const int64_t items = vector ? args.dim / 4 : args.dim;
  return ForRowParts(args.rows, items, [&](int64_t first, int64_t rows) {
    return Launch(vector ? ScatterAddRows<4> : ScatterAddRows<1>, GridOf(rows * items, kThreads),
                  dim3(kThreads), 0, stream, args, first, static_cast<uint32_t>(rows),
                  static_cast<uint32_t>(items));
  });
}

}  // namespace longdoc::kernels::cuda
