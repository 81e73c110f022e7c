// kernels/reference behind the same table as the CPU kernels, so that one host backend serves both.
#pragma once

#include "kernels/cpu_kernels.h"

namespace longdoc {

// Attention keeps k and v as plain rows in the problem's kv buffer and computes in double. fp32
// storage only.
const kernels::CpuKernels& ReferenceKernels();

}  // namespace longdoc
