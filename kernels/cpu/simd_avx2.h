// Vector primitives for AVX2 + FMA + F16C. The contract of every member: simd_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

struct SimdAvx2 {
  static constexpr int kLanes = 8;
  static constexpr int kVecs = 2;
  static constexpr int kRows = 6;  // 12 accumulators, 2 panel vectors, 1 broadcast: 15 of 16
  // 12 accumulators, 3 broadcasts, 1 panel vector: 16, and fewer loads for as many multiply-adds.
  static constexpr int kPairRows = 3;

  using Vec = __m256;
  using Mask = __m256;

  static Vec Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static Vec Set1(float x) { return _mm256_set1_ps(x); }
  static Vec Iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
  static Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec Sqrt(Vec v) { return _mm256_sqrt_ps(v); }
  static Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec Fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
  static Vec Residual(Vec a, Vec b, Vec product) { return _mm256_fmsub_ps(a, b, product); }
  static Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec Abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Mask Lt(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask Ge(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
  static Mask And(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Mask Or(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static bool All(Mask m) { return _mm256_movemask_ps(m) == 0xff; }
  static Vec Select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }
  static Vec ZeroWhere(Mask m, Vec v) { return _mm256_andnot_ps(m, v); }
  static Vec ScaleByLowBits(Vec p, Vec t) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
  }
  static Vec ExponentBits(Vec v) {
    return _mm256_cvtepi32_ps(
        _mm256_sub_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0x3f800000)));
  }
  static Vec Distance(const int32_t* p, int32_t from, int32_t less) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i d = _mm256_abs_epi32(_mm256_sub_epi32(v, _mm256_set1_epi32(from)));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(d, _mm256_set1_epi32(less)));
  }
  static float MaxOf(Vec v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static float SumOf(Vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static Vec LoadBf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(LoadHalf(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  // The second four and the third four columns change places: then interleaving with zeros, which
  // takes one instruction with its operand in memory, gives eight columns in their order.
  static constexpr int64_t PanelPlace(int64_t column) {
    const int64_t four = column / 4 % 4;
    return four == 1 ? column + 4 : four == 2 ? column - 4 : column;
  }
  static Vec LoadPanelBf16(const uint16_t* row, int v) {
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + v / 2 * 16));
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_castsi256_ps(v % 2 == 0 ? _mm256_unpacklo_epi16(zero, b)
                                          : _mm256_unpackhi_epi16(zero, b));
  }
  static Vec LoadF16(const uint16_t* p) { return _mm256_cvtph_ps(LoadHalf(p)); }
  static void StoreBf16(uint16_t* p, Vec v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i out = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
  }
  static void LoadBf16Pairs(const uint16_t* p, Vec* low, Vec* high) {
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    *low = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
    *high =
        _mm256_castsi256_ps(_mm256_and_si256(b, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

 private:
  static __m128i LoadHalf(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
};

}  // namespace
}  // namespace longdoc::kernels
