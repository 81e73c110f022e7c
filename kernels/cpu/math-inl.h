// exp, the normal distribution and the micro-kernel: templates over a Simd struct
// (simd_portable.h).
#pragma once

#include <cstdint>

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// Below this argument Exp() is exactly 0; e^-87.3 is still a normal float.
constexpr float kExpCutoff = -87.3f;

// 2^n · (1 + r + r²·q(r)), n the low bits of `shifted`; 0 where x < kExpCutoff. q interpolates
// (e^r − 1 − r) / r² at Chebyshev points of |r| <= ln 2 / 2 (error 1.1e-8).
template <class S>
inline typename S::Vec ExpTail(typename S::Vec x, typename S::Vec shifted, typename S::Vec r) {
  using Vec = typename S::Vec;
  Vec q = S::Set1(0.0013926926613891033f);
  q = S::Fma(q, r, S::Set1(0.008363773874405574f));
  q = S::Fma(q, r, S::Set1(0.04166655011030713f));
  q = S::Fma(q, r, S::Set1(0.16666573381900845f));
  q = S::Fma(q, r, S::Set1(0.5f));
  const Vec p = S::Add(S::Fma(S::Mul(r, r), q, r), S::Set1(1.0f));
  return S::ZeroWhere(S::Lt(x, S::Set1(kExpCutoff)), S::ScaleByLowBits(p, shifted));
}

// x = n·ln 2 + r with n = round(x / ln 2), which stands in the low bits of shifted = x / ln 2
// + 1.5·2^23.
template <class S>
inline typename S::Vec ReduceExponent(typename S::Vec x, typename S::Vec* shifted) {
  using Vec = typename S::Vec;
  const Vec magic = S::Set1(12582912.0f);
  *shifted = S::Fma(x, S::Set1(1.44269504088896341f), magic);
  const Vec n = S::Sub(*shifted, magic);
  const Vec r = S::Fnma(n, S::Set1(0.693145751953125f), x);  // upper bits of ln 2: exact
  return S::Fnma(n, S::Set1(1.42860682030941723e-6f), r);    // the rest of ln 2
}

// e^x for x <= 88: relative error below 1.5e-7, exactly 1 at 0, exactly 0 for x < kExpCutoff, NaN
// for NaN.
template <class S>
inline typename S::Vec Exp(typename S::Vec x) {
  typename S::Vec shifted;
  const typename S::Vec r = ReduceExponent<S>(x, &shifted);
  return ExpTail<S>(x, shifted, r);
}

// e^x as Exp(), to a relative error of 1.6e-5: for weights that are rounded to bf16 (2^-8) anyway.
template <class S>
inline typename S::Vec CoarseExp(typename S::Vec x) {
  using Vec = typename S::Vec;
  Vec shifted;
  const Vec r = ReduceExponent<S>(x, &shifted);
  Vec q = S::Fma(S::Set1(0.04179450916898449f), r, S::Set1(0.1674341414262737f));
  q = S::Fma(q, r, S::Set1(0.5f));
  const Vec p = S::Add(S::Fma(S::Mul(r, r), q, r), S::Set1(1.0f));
  return S::ZeroWhere(S::Lt(x, S::Set1(kExpCutoff)), S::ScaleByLowBits(p, shifted));
}

// e^(x + low), for `low` far below the precision of x.
template <class S>
inline typename S::Vec Exp(typename S::Vec x, typename S::Vec low) {
  typename S::Vec shifted;
  const typename S::Vec r = ReduceExponent<S>(x, &shifted);
  return ExpTail<S>(x, shifted, S::Add(r, low));
}

// x · Phi(x), Phi the standard normal distribution function: the exact (erf) GELU.
//   Phi(−a) = e^(−a²/2) · t·g(t),  t = 1 / (1 + a/4),  a >= 0
// g interpolates at Chebyshev points for a <= 13.5 (error 1.2e-8); beyond, e^(−a²/2) is 0 here. The
// rounding error of a² goes into the exponential, where it would otherwise be multiplied by a².
template <class S>
inline typename S::Vec Gelu(typename S::Vec x) {
  using Vec = typename S::Vec;
  const Vec one = S::Set1(1.0f), half = S::Set1(-0.5f);
  const Vec limit = S::Set1(14.0f);
  const Vec abs = S::Abs(x);
  const Vec a = S::Select(S::Lt(limit, abs), limit, abs);  // keeps a² finite; NaN stays
  const Vec square = S::Mul(a, a);
  const Vec square_low = S::Residual(a, a, square);
  const Vec t = S::Div(one, S::Fma(a, S::Set1(0.25f), one));
  Vec g = S::Set1(0.014993632295230113f);
  g = S::Fma(g, t, S::Set1(-0.05412951097752604f));
  g = S::Fma(g, t, S::Set1(0.031143044278319983f));
  g = S::Fma(g, t, S::Set1(0.056012694345806885f));
  g = S::Fma(g, t, S::Set1(-0.010455066170036179f));
  g = S::Fma(g, t, S::Set1(0.09924572366427603f));
  g = S::Fma(g, t, S::Set1(0.06758126567566454f));
  g = S::Fma(g, t, S::Set1(0.0964802240357132f));
  g = S::Fma(g, t, S::Set1(0.09937381225057099f));
  g = S::Fma(g, t, S::Set1(0.09975418283294155f));
  const Vec e = Exp<S>(S::Mul(square, half), S::Mul(square_low, half));
  const Vec left = S::Mul(S::Mul(t, g), e);  // Phi(−a)
  return S::Mul(x, S::Select(S::Lt(x, S::Set1(0.0f)), left, S::Sub(one, left)));
}

// x / (1 + e^−z), z = √(8/π)·(x + 0.044715·x³) = x·(c + d·x²): the tanh form of GELU.
//   e^−|z| is the square of h = e^(−|z|/2), which keeps results far left from underflowing early; z
// carries a low part, since its rounding error goes into the exponential.
template <class S>
inline typename S::Vec TanhGelu(typename S::Vec x) {
  using Vec = typename S::Vec;
  const Vec one = S::Set1(1.0f), half = S::Set1(-0.5f), limit = S::Set1(14.0f);
  const Vec c = S::Set1(1.5957691669464111f), c_low = S::Set1(-4.534068e-8f);
  const Vec d = S::Set1(0.07135481387376785f), d_low = S::Set1(2.398832e-9f);
  const Vec abs = S::Abs(x);
  const Vec a = S::Select(S::Lt(limit, abs), limit, abs);  // keeps a² finite; NaN stays
  const Vec square = S::Mul(a, a);
  const Vec cubic = S::Mul(square, d);
  Vec low = S::Fma(S::Residual(a, a, square), d, S::Residual(square, d, cubic));
  low = S::Add(S::Fma(square, d_low, low), c_low);
  const Vec p = S::Add(c, cubic);
  const Vec back = S::Sub(p, c);  // the rounding error of the sum, whichever is larger
  low = S::Add(S::Add(S::Sub(c, S::Sub(p, back)), S::Sub(cubic, back)), low);
  const Vec z = S::Mul(a, p);
  const Vec z_low = S::Fma(a, low, S::Residual(a, p, z));
  const Vec h = Exp<S>(S::Mul(z, half), S::Mul(z_low, half));
  const Vec share = S::Div(one, S::Fma(h, h, one));
  return S::Select(S::Lt(x, S::Set1(0.0f)), S::Mul(S::Mul(x, h), S::Mul(h, share)),
                   S::Mul(x, share));
}

// How a micro-kernel multiplies. `Elem` is the type of the left operand in memory, `Panel` that of
// the panel's; a panel row holds kStep consecutive values of the inner dimension for every column,
// side by side.
template <class S>
struct F32Dot {
  using Simd = S;
  using Elem = float;
  using Panel = float;
  using Operand = typename S::Vec;
  static constexpr int kStep = 1;
  static Operand LoadB(const Panel* p) { return S::Load(p); }
  static Operand BroadcastA(const Elem* p) { return S::Set1(*p); }
  static typename S::Vec MulAdd(Operand a, Operand b, typename S::Vec c) { return S::Fma(a, b, c); }
  static typename S::Vec Weight(typename S::Vec x) { return Exp<S>(x); }
  static void StoreWeight(Elem* p, typename S::Vec v) { S::Store(p, v); }
};

// The same on a panel of bf16, widened as it is loaded: for few rows, which do not pay for widening
// it once for all of them. They wait for memory instead, so the lines that follow are asked for; a
// prefetch beyond the end does no harm.
template <class S>
struct WidenedBf16Dot : F32Dot<S> {
  using Panel = uint16_t;
  static constexpr int kAhead = 1024;  // elements: 2 KB, a fraction of a microsecond
  static typename S::Vec LoadB(const Panel* p) {
    __builtin_prefetch(p + kAhead);
    return S::LoadBf16(p);
  }
};

#define LONGDOC_UNROLL _Pragma("GCC unroll 8")

// c[r, 0..NV·lanes) (+)= sum over k of a[r, k] · b[k, ·],  r < R, `steps` = inner dimension /
// kStep. a: R rows, stride lda.  b: a panel, contiguous, rows of NV·lanes·kStep elements.  c:
// stride ldc. The accumulators stay in registers; nothing else may live there (never inlined).
template <class Dot, int R, int NV, bool kAccumulate>
[[gnu::noinline]] void MicroKernel(int64_t steps, const typename Dot::Elem* a, int64_t lda,
                                   const typename Dot::Panel* b, float* c, int64_t ldc) {
  using S = typename Dot::Simd;
  constexpr int kLanes = S::kLanes;
  typename S::Vec acc[R][NV];
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = S::Set1(0.0f);
  }
  for (int64_t k = 0; k < steps; ++k) {
    typename Dot::Operand panel[NV];
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) panel[v] = Dot::LoadB(b + v * kLanes * Dot::kStep);
    LONGDOC_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename Dot::Operand x = Dot::BroadcastA(a + r * lda);
      LONGDOC_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] = Dot::MulAdd(x, panel[v], acc[r][v]);
    }
    a += Dot::kStep;
    b += NV * kLanes * Dot::kStep;
  }
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) {
      float* to = c + r * ldc + v * kLanes;
      S::Store(to, kAccumulate ? S::Add(S::Load(to), acc[r][v]) : acc[r][v]);
    }
  }
}

// Any number of rows. From kRows + 1 to 2·kRows − 1 of them are cut into halves: a kernel of very
// few rows has too few independent sums to hide the latency of a multiply-add.
template <class Dot, int NV, bool kAccumulate>
inline void MicroRows(int rows, int64_t steps, const typename Dot::Elem* a, int64_t lda,
                      const typename Dot::Panel* b, float* c, int64_t ldc) {
  constexpr int kRows = Dot::Simd::kRows;
  static_assert(kRows == 6, "one case per row count");
  while (rows > 0) {
    const int count = rows <= kRows ? rows : rows >= 2 * kRows ? kRows : (rows + 1) / 2;
    switch (count) {
      case 1:
        MicroKernel<Dot, 1, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 2:
        MicroKernel<Dot, 2, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 3:
        MicroKernel<Dot, 3, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 4:
        MicroKernel<Dot, 4, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 5:
        MicroKernel<Dot, 5, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      default:
        MicroKernel<Dot, kRows, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
    }
    rows -= count;
    a += count * lda;
    c += count * ldc;
  }
}

// c[rows, columns) (+)= a[rows, inner) · panel, the panel cut into chunks of kVecs vectors: chunk i
// starts at element i · kVecs · lanes · panel_inner and is contiguous; the last may be narrower.
// `inner` <= panel_inner is how much of the inner dimension counts. All rows go through a chunk
// before the next one, which keeps it in the first-level cache.
template <class Dot, bool kAccumulate>
inline void MultiplyPanel(int rows, int64_t inner, int64_t panel_inner, int64_t columns,
                          const typename Dot::Elem* a, int64_t lda,
                          const typename Dot::Panel* panel, float* c, int64_t ldc) {
  using S = typename Dot::Simd;
  constexpr int64_t kChunk = S::kVecs * S::kLanes;
  const int64_t steps = (inner + Dot::kStep - 1) / Dot::kStep;
  int64_t column = 0;
  for (; column + kChunk <= columns; column += kChunk) {
    MicroRows<Dot, S::kVecs, kAccumulate>(rows, steps, a, lda, panel + column * panel_inner,
                                          c + column, ldc);
  }
  if constexpr (S::kVecs > 2) {  // narrower chunks only exist where a chunk exceeds 16 columns
    const typename Dot::Panel* rest = panel + column * panel_inner;
    switch ((columns - column) / S::kLanes) {
      case 3:
        return MicroRows<Dot, 3, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      case 2:
        return MicroRows<Dot, 2, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      case 1:
        return MicroRows<Dot, 1, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      default:
        return;
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
