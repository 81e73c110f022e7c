// Attention on a CUDA device, behind the seam's interface.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/attention_steps.h"
#include "engine/backend.h"

namespace longdoc {

namespace kernels::cuda {
class Runtime;
}

// Backend::MakeAttention and AttentionBytes of `backend`, whose runtime is given.
absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeCudaAttention(
    Backend& backend, kernels::cuda::Runtime& runtime, const kernels::AttentionProblem& problem);
int64_t CudaAttentionBytes(const kernels::AttentionProblem& problem);

}  // namespace longdoc
