// Vector primitives without any instruction-set intrinsics: GCC/Clang vector extensions, four
// lanes.
//
// Every simd_*.h defines one struct with the same members; the algorithms in *-inl.h are templates
// over it. What each member does is written down here once.
#pragma once

#include <cstdint>
#include <cstring>

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

struct SimdPortable {
  static constexpr int kLanes = 4;  // floats in a Vec
  static constexpr int kVecs =
      2;  // vectors in a row of the micro-kernel; kLanes * kVecs divides 64
  static constexpr int kRows = 6;      // rows of the micro-kernel
  static constexpr int kPairRows = 0;  // the same on two chunks at once; 0: never (math-inl.h)

  typedef float Vec __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));  // all ones or zero per lane
  typedef uint32_t Bits __attribute__((vector_size(16)));

  static Vec Load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }
  static Vec Set1(float x) { return Vec{x, x, x, x}; }
  static Vec Iota() { return Vec{0, 1, 2, 3}; }
  static Vec Add(Vec a, Vec b) { return a + b; }
  static Vec Sub(Vec a, Vec b) { return a - b; }
  static Vec Mul(Vec a, Vec b) { return a * b; }
  static Vec Div(Vec a, Vec b) { return a / b; }
  static Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }   // here with two roundings
  static Vec Fnma(Vec a, Vec b, Vec c) { return c - a * b; }  // c - a * b
  // a·b − product in full precision, for product = Mul(a, b) (exact unless it underflows).
  static Vec Residual(Vec a, Vec b, Vec product) {
    Vec out;
    for (int i = 0; i < kLanes; ++i) {
      out[i] = static_cast<float>(static_cast<double>(a[i]) * b[i] - product[i]);
    }
    return out;
  }
  static Vec Max(Vec a, Vec b) { return (a > b) ? a : b; }  // b when either is NaN
  static Vec Abs(Vec a) { return FromBits(ToBits(a) & 0x7fffffffu); }
  static Mask Lt(Vec a, Vec b) { return a < b; }  // false for NaN
  static Mask Ge(Vec a, Vec b) { return a >= b; }
  static Mask And(Mask a, Mask b) { return a & b; }
  static Mask Or(Mask a, Mask b) { return a | b; }
  static bool All(Mask m) { return (m[0] & m[1] & m[2] & m[3]) != 0; }
  static Vec Select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
  // Zero where m, else v.
  static Vec ZeroWhere(Mask m, Vec v) { return FromBits(ToBits(v) & ~(Bits)m); }
  // p * 2^n where the low mantissa bits of t hold the integer n; p and the product are normal.
  static Vec ScaleByLowBits(Vec p, Vec t) { return FromBits(ToBits(p) + (ToBits(t) << 23)); }
  // The bits of v - 1.0f read as a signed integer, as a float (a piecewise linear log2, see
  // Attend).
  static Vec ExponentBits(Vec v) {
    const Mask m = (Mask)v - 0x3f800000;
    return __builtin_convertvector(m, Vec);
  }
  // |p[l] − from| − less per lane, exact in integers and then rounded once; p[l] and from >= 0.
  static Vec Distance(const int32_t* p, int32_t from, int32_t less) {
    Mask v;
    std::memcpy(&v, p, sizeof(v));
    v -= from;
    v = v < 0 ? -v : v;
    return __builtin_convertvector(v - less, Vec);
  }
  static float MaxOf(Vec v) {
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
  }
  static float SumOf(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
  static Vec LoadBf16(const uint16_t* p) {
    const Bits b{p[0], p[1], p[2], p[3]};
    return FromBits(b << 16);
  }
  // A row of a bf16 panel may have its columns in an order that is quick to widen: every 16 of them
  // are permuted, column c of a row being its element PanelPlace(c).
  static constexpr int64_t PanelPlace(int64_t column) { return column; }
  // Columns [v·kLanes, (v + 1)·kLanes) of such a row.
  static Vec LoadPanelBf16(const uint16_t* row, int v) { return LoadBf16(row + v * kLanes); }
  static Vec LoadF16(const uint16_t* p) {
    return Vec{HalfToFloat(p[0]), HalfToFloat(p[1]), HalfToFloat(p[2]), HalfToFloat(p[3])};
  }
  // Round to nearest even; NaN stays NaN.
  static void StoreBf16(uint16_t* p, Vec v) {
    const Bits b = ToBits(v);
    const Bits rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
    const Mask nan = v != v;
    const Bits kept = (b >> 16) | 0x40u;
    const Bits out = nan ? kept : rounded;
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(out[i]);
  }
  static Vec Sqrt(Vec v) {
    return Vec{__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]),
               __builtin_sqrtf(v[3])};
  }
  // Splits pairs of bf16 (low half first) into the two floats of every pair.
  static void LoadBf16Pairs(const uint16_t* p, Vec* low, Vec* high) {
    Bits b;
    std::memcpy(&b, p, sizeof(b));
    *low = FromBits(b << 16);
    *high = FromBits(b & 0xffff0000u);
  }

 private:
  static Bits ToBits(Vec v) { return (Bits)v; }
  static Vec FromBits(Bits b) { return (Vec)b; }
  static float HalfToFloat(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31, fraction = h & 1023, bits;
    if (exponent == 0) {  // zero and subnormals: exact in float
      const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;
      std::memcpy(&bits, &value, sizeof(bits));
    } else {
      bits = ((exponent == 31 ? 255 : exponent + 112) << 23) | (fraction << 13);
    }
    bits |= sign;
    float out;
    std::memcpy(&out, &bits, sizeof(out));
    return out;
  }
};

}  // namespace
}  // namespace longdoc::kernels
