#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/table-inl.h"

namespace longdoc::kernels {

constexpr CpuKernels kTable = MakeTable<SimdPortable, WidenedBf16Storage<SimdPortable>>(
    CpuIsa::kPortable, "portable", /*native_bf16=*/false);
const CpuKernels kPortableKernels = kTable;

}  // namespace longdoc::kernels
