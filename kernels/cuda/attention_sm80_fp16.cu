// The sm_80 forward kernels for fp16.
#include "kernels/cuda/attention_sm80.cuh"

namespace longdoc::kernels::cuda {

cudaError_t LaunchAttentionSm80Fp16(const AttentionParams& params, int multiprocessors,
                                    cudaStream_t stream) {
  return LaunchSm80<Fp16>(params, multiprocessors, stream);
}

}  // namespace longdoc::kernels::cuda
