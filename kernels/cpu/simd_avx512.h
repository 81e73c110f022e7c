// Vector primitives for AVX-512 (F, BW, DQ, VL). The contract of every member: simd_portable.h.
//
// With LONGDOC_EMULATE_AVX512 the intrinsics come from SIMDe, so that tests can run these kernels
// on any CPU; the few that SIMDe 0.7.4 lacks are spelled out under that macro.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(LONGDOC_EMULATE_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
using __mmask16 = simde__mmask16;
#else
#include <immintrin.h>
#endif

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

struct SimdAvx512 {
  static constexpr int kLanes = 16;
  static constexpr int kVecs = 4;
  static constexpr int kRows = 6;  // 24 accumulators, 4 panel vectors, 1 broadcast: 29 of 32
  static constexpr int kPairRows = 0;

  using Vec = __m512;
  using Mask = __mmask16;

  static Vec Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static Vec Set1(float x) { return _mm512_set1_ps(x); }
  static Vec Iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec Fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
  static Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec Abs(Vec a) {
    return FromBits(_mm512_and_si512(ToBits(a), _mm512_set1_epi32(0x7fffffff)));
  }
  static Mask Lt(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask Ge(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static Mask And(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask Or(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static bool All(Mask m) { return m == 0xffff; }
  static Vec Select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
  static Vec ZeroWhere(Mask m, Vec v) { return _mm512_maskz_mov_ps(static_cast<Mask>(~m), v); }
  static Vec ScaleByLowBits(Vec p, Vec t) {
    return FromBits(_mm512_add_epi32(ToBits(p), _mm512_slli_epi32(ToBits(t), 23)));
  }
  static Vec ExponentBits(Vec v) {
    return IntToFloat(_mm512_sub_epi32(ToBits(v), _mm512_set1_epi32(0x3f800000)));
  }
  static Vec Distance(const int32_t* p, int32_t from, int32_t less) {
    __m512i v;
    std::memcpy(&v, p, sizeof(v));
    const __m512i d = _mm512_abs_epi32(_mm512_sub_epi32(v, _mm512_set1_epi32(from)));
    return IntToFloat(_mm512_sub_epi32(d, _mm512_set1_epi32(less)));
  }
  static float MaxOf(Vec v) {
    const __m256 m = _mm256_max_ps(LowHalf(v), HighHalf(v));
    __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    n = _mm_max_ps(n, _mm_movehl_ps(n, n));
    return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
  }
  static float SumOf(Vec v) {
    const __m256 m = _mm256_add_ps(LowHalf(v), HighHalf(v));
    __m128 n = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    n = _mm_add_ps(n, _mm_movehl_ps(n, n));
    return _mm_cvtss_f32(_mm_add_ss(n, _mm_movehdup_ps(n)));
  }
  static Vec LoadBf16(const uint16_t* p) { return FromBits(_mm512_slli_epi32(LoadU16(p), 16)); }
  static constexpr int64_t PanelPlace(int64_t column) { return column; }
  static Vec LoadPanelBf16(const uint16_t* row, int v) { return LoadBf16(row + v * kLanes); }
  static void StoreBf16(uint16_t* p, Vec v) {
    const __m512i bits = ToBits(v);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    StoreU16(p, _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet));
  }
  static void LoadBf16Pairs(const uint16_t* p, Vec* low, Vec* high) {
    __m512i bits;
    std::memcpy(&bits, p, sizeof(bits));
    *low = FromBits(_mm512_slli_epi32(bits, 16));
    *high = FromBits(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }

#if defined(LONGDOC_EMULATE_AVX512)
  static Vec Residual(Vec a, Vec b, Vec product) {  // SIMDe's fmsub rounds twice
    float x[16], y[16], z[16];
    Store(x, a);
    Store(y, b);
    Store(z, product);
    for (int i = 0; i < 16; ++i) z[i] = static_cast<float>(static_cast<double>(x[i]) * y[i] - z[i]);
    return Load(z);
  }
  static Vec LoadF16(const uint16_t* p) {
    float out[16];
    for (int i = 0; i < 16; i += 4) {
      const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i));
      _mm_storeu_ps(out + i, _mm_cvtph_ps(half));
    }
    return Load(out);
  }

 private:
  static __m256 LowHalf(Vec v) { return Half(v, 0); }
  static __m256 HighHalf(Vec v) { return Half(v, 8); }
  static __m256 Half(Vec v, int from) {
    float lanes[16];
    Store(lanes, v);
    return _mm256_loadu_ps(lanes + from);
  }
  static Vec IntToFloat(__m512i v) {
    int32_t in[16];
    float out[16];
    std::memcpy(in, &v, sizeof(in));
    for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(in[i]);
    return Load(out);
  }
  static __m512i LoadU16(const uint16_t* p) {
    uint32_t wide[16];
    for (int i = 0; i < 16; ++i) wide[i] = p[i];
    __m512i out;
    std::memcpy(&out, wide, sizeof(out));
    return out;
  }
  static void StoreU16(uint16_t* p, __m512i v) {
    uint32_t wide[16];
    std::memcpy(wide, &v, sizeof(wide));
    for (int i = 0; i < 16; ++i) p[i] = static_cast<uint16_t>(wide[i]);
  }
#else
  static Vec Residual(Vec a, Vec b, Vec product) { return _mm512_fmsub_ps(a, b, product); }
  static Vec LoadF16(const uint16_t* p) { return _mm512_cvtph_ps(LoadHalf(p)); }

 private:
  static __m256 LowHalf(Vec v) { return _mm512_castps512_ps256(v); }
  static __m256 HighHalf(Vec v) { return _mm512_extractf32x8_ps(v, 1); }
  static Vec IntToFloat(__m512i v) { return _mm512_cvtepi32_ps(v); }
  static __m256i LoadHalf(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m512i LoadU16(const uint16_t* p) { return _mm512_cvtepu16_epi32(LoadHalf(p)); }
  static void StoreU16(uint16_t* p, __m512i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
  }
#endif
  static __m512i ToBits(Vec v) { return _mm512_castps_si512(v); }
  static Vec FromBits(__m512i v) { return _mm512_castsi512_ps(v); }
};

}  // namespace
}  // namespace longdoc::kernels
