// Multi-query attention on bf16.
#include "kernels/cuda/mqa_kernels.cuh"

namespace longdoc::kernels::cuda {

cudaError_t LaunchMqaBf16(const MqaPlan& plan, int64_t sequences, const MqaParams& params,
                          cudaStream_t stream) {
  return LaunchMqa<Bf16>(plan, sequences, params, stream);
}

}  // namespace longdoc::kernels::cuda
