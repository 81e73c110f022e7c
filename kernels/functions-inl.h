// exp and GELU, templates over a Simd struct (cpu/simd_portable.h says what its members do): the
// same formulas for every instruction set of the CPU and, a lane at a time, for the GPU.
#pragma once

#include <cstdint>

// In a CUDA source these functions are for the device alone.
#if defined(__CUDACC__)
#define LONGDOC_DEVICE __device__
#else
#define LONGDOC_DEVICE
#endif

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see cpu/layout.h

// Below this argument Exp() is exactly 0; e^-87.3 is still a normal float.
constexpr float kExpCutoff = -87.3f;

// 2^n · (1 + r + r²·q(r)), n the low bits of `shifted`; 0 where x < kExpCutoff. q interpolates
// (e^r − 1 − r) / r² at Chebyshev points of |r| <= ln 2 / 2 (error 1.1e-8).
template <class S>
LONGDOC_DEVICE inline typename S::Vec ExpTail(typename S::Vec x, typename S::Vec shifted,
                                              typename S::Vec r) {
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
LONGDOC_DEVICE inline typename S::Vec ReduceExponent(typename S::Vec x, typename S::Vec* shifted) {
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
LONGDOC_DEVICE inline typename S::Vec Exp(typename S::Vec x) {
  typename S::Vec shifted;
  const typename S::Vec r = ReduceExponent<S>(x, &shifted);
  return ExpTail<S>(x, shifted, r);
}

// e^x as Exp(), to a relative error of 1.6e-5: for weights that are rounded to bf16 (2^-8) anyway.
template <class S>
LONGDOC_DEVICE inline typename S::Vec CoarseExp(typename S::Vec x) {
  using Vec = typename S::Vec;
  Vec shifted;
  const Vec r = ReduceExponent<S>(x, &shifted);
  Vec q = S::Fma(S::Set1(0.04179450916898449f), r, S::Set1(0.1674341414262737f));
  q = S::Fma(q, r, S::Set1(0.5f));
  const Vec p = S::Add(S::Fma(S::Mul(r, r), q, r), S::Set1(1.0f));
  return S::ZeroWhere(S::Lt(x, S::Set1(kExpCutoff)), S::ScaleByLowBits(p, shifted));
}

// e^x as Exp(), to a relative error of 3e-7 + 3e-9·|x|, in as few instructions as it takes: of the
// weights of a softmax there are very many. 1 + r·q(r), q interpolates (e^r − 1) / r at Chebyshev
// points of |r| <= ln 2 / 2 (error 2.0e-7).
template <class S>
LONGDOC_DEVICE inline typename S::Vec WeightExp(typename S::Vec x) {
  using Vec = typename S::Vec;
  const Vec magic = S::Set1(12582912.0f), one = S::Set1(1.0f);
  const Vec shifted = S::Fma(x, S::Set1(1.44269504088896341f), magic);
  const Vec r = S::Fnma(S::Sub(shifted, magic), S::Set1(0.693147180559945f), x);
  Vec p = S::Fma(S::Set1(0.008363203145563602f), r, S::Set1(0.04187585413455963f));
  p = S::Fma(p, r, S::Set1(0.16666576266288757f));
  p = S::Fma(p, r, S::Set1(0.4999937117099762f));
  p = S::Fma(S::Fma(p, r, one), r, one);
  return S::ZeroWhere(S::Lt(x, S::Set1(kExpCutoff)), S::ScaleByLowBits(p, shifted));
}

// e^(x + low), for `low` far below the precision of x.
template <class S>
LONGDOC_DEVICE inline typename S::Vec Exp(typename S::Vec x, typename S::Vec low) {
  typename S::Vec shifted;
  const typename S::Vec r = ReduceExponent<S>(x, &shifted);
  return ExpTail<S>(x, shifted, S::Add(r, low));
}

// x · Phi(x), Phi the standard normal distribution function: the exact (erf) GELU.
//   Phi(−a) = e^(−a²/2) · t·g(t),  t = 1 / (1 + a/4),  a >= 0
// g interpolates at Chebyshev points for a <= 13.5 (error 1.2e-8); beyond, e^(−a²/2) is 0 here. The
// rounding error of a² goes into the exponential, where it would otherwise be multiplied by a².
template <class S>
LONGDOC_DEVICE inline typename S::Vec Gelu(typename S::Vec x) {
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
LONGDOC_DEVICE inline typename S::Vec TanhGelu(typename S::Vec x) {
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

}  // namespace
}  // namespace longdoc::kernels
