// The tables that exist, one object file each; use GetCpuKernels() instead, which knows the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu_kernels.h"

namespace longdoc::kernels {

extern const CpuKernels kPortableKernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;
// The same AVX-512 algorithms through SIMDe, for CPUs without it. Tests only.
extern const CpuKernels kAvx512EmulatedKernels;
extern const CpuKernels kAvx512Bf16EmulatedKernels;

// Shared by all instruction sets; compiled for the baseline CPU.
std::vector<AttentionUnit> PlanUnits(const AttentionProblem& p, int64_t rows_per_unit);
void Route(const RouteArgs& args);

}  // namespace longdoc::kernels
