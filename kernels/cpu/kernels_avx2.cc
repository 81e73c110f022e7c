// Compiled with -mavx2 -mfma -mf16c: nothing here may have external linkage but the table.
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/table-inl.h"

namespace longdoc::kernels {

constexpr CpuKernels kTable =
    MakeTable<SimdAvx2, WidenedBf16Storage<SimdAvx2>>(CpuIsa::kAvx2, "avx2", /*native_bf16=*/false);
const CpuKernels kAvx2Kernels = kTable;

}  // namespace longdoc::kernels
