// gemm.h by plain loops over the emulator's device memory, which is the host's: a grid of one
// thread, so that a stream under capture records it like a kernel.
#include <cmath>
#include <vector>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/gemm.h"

namespace longdoc::kernels::cuda {
namespace {

float Load(DType type, const void* base, int64_t i) {
  switch (type) {
    case DType::kF32:
      return static_cast<const float*>(base)[i];
    case DType::kBF16:
      return ToFloat(static_cast<const Bf16*>(base)[i]);
    case DType::kF16:
      return ToFloat(static_cast<const Fp16*>(base)[i]);
  }
  return 0;
}

void Store(DType type, void* base, int64_t i, float value) {
  switch (type) {
    case DType::kF32:
      static_cast<float*>(base)[i] = value;
      return;
    case DType::kBF16:
      static_cast<Bf16*>(base)[i] = FromFloat<Bf16>(value);
      return;
    case DType::kF16:
      static_cast<Fp16*>(base)[i] = FromFloat<Fp16>(value);
      return;
  }
}

float Dot(const float* a, const float* w, int64_t k) {
  float sums[8] = {};  // as many as the compiler needs for vectors
  int64_t i = 0;
  for (; i + 8 <= k; i += 8) {
    for (int l = 0; l < 8; ++l) sums[l] += a[i + l] * w[i + l];
  }
  for (; i < k; ++i) sums[0] += a[i] * w[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

float TanhGelu(float x) {
  return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}

void Multiply(const GemmArgs& args) {
  std::vector<float> w(args.n * args.k), row(args.k);
  for (int64_t i = 0; i < args.n * args.k; ++i) w[i] = Load(args.in_type, args.w, i);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t i = 0; i < args.k; ++i) {
      row[i] = Load(args.in_type, args.a, r * args.a_stride + i);
    }
    for (int64_t j = 0; j < args.n; ++j) {
      const int64_t at = r * args.c_stride + j;
      float sum = Dot(row.data(), w.data() + j * args.k, args.k);
      if (args.accumulate) sum += Load(args.out_type, args.c, at);
      if (args.bias != nullptr) sum += Load(args.out_type, args.bias, j);
      if (args.activation == GemmActivation::kGelu) sum = TanhGelu(sum);
      Store(args.out_type, args.c, at, sum);
    }
  }
}

class EmulatedGemm : public Gemm {
 public:
  cudaError_t Run(const GemmArgs& args, cudaStream_t stream) override {
    if (CheckGemm(args) != nullptr) return cudaErrorInvalidValue;
    if (args.rows == 0) return cudaSuccess;
    return emulation::LaunchGrid(dim3(1), dim3(1), 0, stream, [args] { Multiply(args); });
  }
};

}  // namespace

cudaError_t Gemm::Create(int device, std::unique_ptr<Gemm>* gemm) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return error;
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;
  *gemm = std::make_unique<EmulatedGemm>();
  return cudaSuccess;
}

}  // namespace longdoc::kernels::cuda
