// AVX-512 with the bf16 dot product. Compiled with AVX-512 F, BW, DQ, VL, BF16: nothing here may
// have external linkage but the table. The tests compile it a second time through SIMDe.
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/table-inl.h"

namespace longdoc::kernels {
namespace {

// 16 lanes, each a pair of bf16: c += a.low·b.low + a.high·b.high, with fp32 accumulation.
struct Bf16Dot {
  using Simd = SimdAvx512;
  using Elem = uint16_t;
  using Panel = uint16_t;
  using Operand = __m512bh;
  static constexpr int kStep = 2;
  static constexpr int kPairRows = 0;

  static Operand LoadB(const Elem* row, int v) {
    Operand out;
    __builtin_memcpy(&out, row + v * Simd::kLanes * kStep, sizeof(out));
    return out;
  }
  static Operand BroadcastA(const Elem* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof(pair));
    const __m512i all = _mm512_set1_epi32(pair);
    Operand out;
    __builtin_memcpy(&out, &all, sizeof(out));
    return out;
  }
  static __m512 MulAdd(Operand a, Operand b, __m512 c) { return _mm512_dpbf16_ps(c, a, b); }
  static __m512 Weight(__m512 x) { return CoarseExp<SimdAvx512>(x); }
  static void StoreWeight(Elem* p, __m512 v) {
#if defined(LONGDOC_EMULATE_AVX512)
    SimdAvx512::StoreBf16(p, v);  // the same rounding; the instruction also flushes denormals
#else
    const __m256bh rounded = _mm512_cvtneps_pbh(v);
    __builtin_memcpy(p, &rounded, sizeof(rounded));
#endif
  }
};

// bf16 in memory and in the products: panels hold pairs along the inner dimension.
struct NativeBf16Storage {
  using Simd = SimdAvx512;
  using Dot = Bf16Dot;
  using Elem = uint16_t;
  using Vec = __m512;
  static constexpr bool kWiden = false;
  static Vec Load(const Elem* p) { return Simd::LoadBf16(p); }
  static void Store(Elem* p, Vec v) { Simd::StoreBf16(p, v); }
  static void StoreQuery(Elem* p, Vec v) { Simd::StoreBf16(p, v); }  // v came from bf16: exact
  static constexpr int64_t Place(int64_t column) { return column; }
  static void LoadRowPair(const Elem* chunk, int64_t d, int64_t width, int v, Vec* even, Vec* odd) {
    Simd::LoadBf16Pairs(chunk + d * width + 2 * v * Simd::kLanes, even, odd);
  }
};

}  // namespace

#if defined(LONGDOC_EMULATE_AVX512)
constexpr CpuKernels kTable = MakeTable<SimdAvx512, NativeBf16Storage>(
    CpuIsa::kAvx512Bf16, "avx512_bf16 (emulated)", /*native_bf16=*/true);
const CpuKernels kAvx512Bf16EmulatedKernels = kTable;
#else
constexpr CpuKernels kTable = MakeTable<SimdAvx512, NativeBf16Storage>(
    CpuIsa::kAvx512Bf16, "avx512_bf16", /*native_bf16=*/true);
const CpuKernels kAvx512Bf16Kernels = kTable;
#endif

}  // namespace longdoc::kernels
