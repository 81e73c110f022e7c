// The sm_80 forward kernels for bf16, and the choice by type. One type to a file: they are slow to
// compile.
#include "kernels/cuda/attention_sm80.cuh"

namespace longdoc::kernels::cuda {

cudaError_t LaunchAttentionSm80(const AttentionParams& params, int multiprocessors,
                                cudaStream_t stream) {
  return params.type == DType::kBF16 ? LaunchSm80<Bf16>(params, multiprocessors, stream)
                                     : LaunchAttentionSm80Fp16(params, multiprocessors, stream);
}

}  // namespace longdoc::kernels::cuda
