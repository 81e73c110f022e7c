// What every implementation of gemm.h shares.
#include "kernels/cuda/gemm.h"

namespace longdoc::kernels::cuda {

const char* CheckGemm(const GemmArgs& args) {
  constexpr int64_t kMaxDim = 0x7fffffff;  // cuBLASLt counts in 32 bits
  if (args.rows < 0 || args.rows > kMaxDim) return "rows of a product outside [0, 2^31)";
  if (args.n < 1 || args.n > kMaxDim || args.k < 1 || args.k > kMaxDim) {
    return "dimension of a product outside [1, 2^31)";
  }
  if (args.in_type == DType::kF32) return "a product needs bf16 or fp16 input";
  if (args.out_type != DType::kF32 && args.out_type != args.in_type) {
    return "output of a product is neither fp32 nor of the input's type";
  }
  if (args.a_stride < args.k || args.c_stride < args.n) {
    return "stride of a product below its row length";
  }
  if (args.activation == GemmActivation::kGelu &&
      (args.out_type == DType::kF32 || args.bias == nullptr || args.accumulate)) {
    return "a product with GELU needs a bias, 16-bit output and nothing to add to";
  }
  if (args.rows > 0 && (args.a == nullptr || args.w == nullptr || args.c == nullptr)) {
    return "a product lacks an operand";
  }
  if (args.workspace_bytes < 0 || (args.workspace_bytes > 0 && args.workspace == nullptr) ||
      reinterpret_cast<uintptr_t>(args.workspace) % 256 != 0) {
    return "workspace of a product missing or not aligned to 256 bytes";
  }
  return nullptr;
}

int64_t GemmRowBucket(int64_t rows) {
  int64_t step = 16;
  while (rows > 8 * step) step *= 2;
  return RoundUp(rows < 1 ? 1 : rows, step);
}

}  // namespace longdoc::kernels::cuda
