#include "kernels/cpu/tables.h"
#include "kernels/cpu_kernels.h"

#if defined(LONGDOC_X86_KERNELS)
#include <cpuid.h>
#endif

namespace longdoc::kernels {

#if defined(LONGDOC_X86_KERNELS)

namespace {

bool HasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// __builtin_cpu_supports also asks the OS whether it saves the registers.
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
}

bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

bool CpuSupports(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return true;
    case CpuIsa::kAvx2:
      return HasAvx2();
    case CpuIsa::kAvx512:
      return HasAvx512();
    case CpuIsa::kAvx512Bf16:
      return HasAvx512() && __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

const CpuKernels* GetCpuKernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return &kPortableKernels;
    case CpuIsa::kAvx2:
      return &kAvx2Kernels;
    case CpuIsa::kAvx512:
      return &kAvx512Kernels;
    case CpuIsa::kAvx512Bf16:
      return &kAvx512Bf16Kernels;
  }
  return nullptr;
}

#else

bool CpuSupports(CpuIsa isa) { return isa == CpuIsa::kPortable; }

const CpuKernels* GetCpuKernels(CpuIsa isa) {
  return isa == CpuIsa::kPortable ? &kPortableKernels : nullptr;
}

#endif

CpuIsa BestCpuIsa() {
  for (CpuIsa isa : {CpuIsa::kAvx512Bf16, CpuIsa::kAvx512, CpuIsa::kAvx2}) {
    if (CpuSupports(isa) && GetCpuKernels(isa) != nullptr) return isa;
  }
  return CpuIsa::kPortable;
}

}  // namespace longdoc::kernels
