// Attention by a table of host kernels: rows are packed for the kernels, norms bounded, and the
// work cut into units of similar cost for all workers.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/memory_pool.h"
#include "kernels/cpu_kernels.h"

namespace longdoc {

// All that is passed by reference outlives the steps.
absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeHostAttention(
    const kernels::CpuKernels& kernels, const BackendInfo& info, MemoryPool& memory,
    const kernels::AttentionProblem& problem);

// Backend::AttentionBytes of it.
int64_t HostAttentionBytes(const kernels::AttentionProblem& problem);

}  // namespace longdoc
