// exp and GELU on the device: the CPU's formulas a lane at a time, and shorter ones for results
// that are rounded to bf16 anyway.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "kernels/functions-inl.h"

namespace longdoc::kernels::cuda {
namespace {  // NOLINT: internal linkage

// The Simd struct (cpu/simd_portable.h) of one GPU thread. Products and sums are rounded apart: the
// compiler must not fuse them where a formula carries their rounding errors along.
struct Lane {
  using Vec = float;
  using Mask = bool;
  static __device__ Vec Set1(float x) { return x; }
  static __device__ Vec Add(Vec a, Vec b) { return __fadd_rn(a, b); }
  static __device__ Vec Sub(Vec a, Vec b) { return __fsub_rn(a, b); }
  static __device__ Vec Mul(Vec a, Vec b) { return __fmul_rn(a, b); }
  static __device__ Vec Div(Vec a, Vec b) { return a / b; }
  static __device__ Vec Fma(Vec a, Vec b, Vec c) { return fmaf(a, b, c); }
  static __device__ Vec Fnma(Vec a, Vec b, Vec c) { return fmaf(-a, b, c); }
  static __device__ Vec Residual(Vec a, Vec b, Vec product) { return fmaf(a, b, -product); }
  static __device__ Vec Abs(Vec a) { return fabsf(a); }
  static __device__ Mask Lt(Vec a, Vec b) { return a < b; }
  static __device__ Vec Select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
  static __device__ Vec ZeroWhere(Mask m, Vec v) { return m ? 0.0f : v; }
  static __device__ Vec ScaleByLowBits(Vec p, Vec t) {
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(t) << 23));
  }
};

// Gelu() to a relative error of 1e-4 (bf16 rounds by 4e-3) in half the instructions: kernels that
// write bf16 would otherwise wait for arithmetic, not for memory. The same form, Phi(−a) =
// e^(−a²/2)·t·g(t); g minimises the relative error over a <= 13.5 (4.9e-5). NaN stays.
__device__ inline float CoarseGelu(float x) {
  const float a = fabsf(x);
  const float t = __fdividef(1.0f, fmaf(a, 0.25f, 1.0f));
  float g = fmaf(0.24132827f, t, -0.1032291f);
  g = fmaf(g, t, 0.17983933f);
  g = fmaf(g, t, 0.08071583f);
  g = fmaf(g, t, 0.10132406f);
  const float left = t * g * Exp2(a * a * -0.72134752f);  // −log2(e) / 2; e^−inf is 0
  return x * (x < 0 ? left : 1 - left);
}

// TanhGelu() likewise: x / (1 + e^−z).
__device__ inline float CoarseTanhGelu(float x) {
  const float z = x * fmaf(x * x, -0.10294324f, -2.3022082f);  // −z·log2(e)
  return x * __fdividef(1.0f, 1 + Exp2(z));
}

}  // namespace
}  // namespace longdoc::kernels::cuda
