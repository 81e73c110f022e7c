// Compiled with AVX-512 F, BW, DQ, VL: nothing here may have external linkage but the table. The
// tests compile it a second time through SIMDe (LONGDOC_EMULATE_AVX512).
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table-inl.h"

namespace longdoc::kernels {

#if defined(LONGDOC_EMULATE_AVX512)
constexpr CpuKernels kTable = MakeTable<SimdAvx512, WidenedBf16Storage<SimdAvx512>>(
    CpuIsa::kAvx512, "avx512 (emulated)", /*native_bf16=*/false);
const CpuKernels kAvx512EmulatedKernels = kTable;
#else
constexpr CpuKernels kTable = MakeTable<SimdAvx512, WidenedBf16Storage<SimdAvx512>>(
    CpuIsa::kAvx512, "avx512", /*native_bf16=*/false);
const CpuKernels kAvx512Kernels = kTable;
#endif

}  // namespace longdoc::kernels
