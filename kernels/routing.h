// CoLT5 routing: which tokens take the heavy branch, and with which weight; the rows in and out.
// Formulas: docs/models.md (longdoc-CoLT5), after CoLT5 (arXiv 2303.09752) appendix C at epsilon 1.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace longdoc::kernels {

// out[r,:] = x[i,:] / sqrt(mean(x[i,:]²) + eps) · gamma · row_scale[r],   i = indices ? indices[r]
// : r
struct RmsNormArgs {
  int64_t rows = 0;
  int64_t dim = 0;           // C
  const float* x = nullptr;  // [T, C], row stride x_stride
  int64_t x_stride = 0;
  const int32_t* indices = nullptr;  // [rows] rows of x to gather, or null: rows 0, 1, …
  const float* gamma = nullptr;      // [C]
  float epsilon = 0;
  const float* row_scale = nullptr;  // [rows], or null: 1
  DType out_type = DType::kF32;      // kF32 or kBF16
  void* out = nullptr;               // [rows, C] dense, or null when only scores are wanted; may be
                                     // x when x is dense, fp32 and not gathered
  // scores[s][r] = out[r,:]·routers[s] in fp32, before any rounding of out and without row_scale.
  int num_routers = 0;                           // at most 2
  const float* routers[2] = {nullptr, nullptr};  // [C]
  float* scores[2] = {nullptr, nullptr};         // [rows]
};

// Routes `k` of `n` tokens: the k highest scores, ties to the lower index.
//   indices[0..k)  ascending
//   weights[0..k)  soft top-k of the chosen: min(1, exp(score + t)) with t such that the sum over
//                  all n tokens is k (exact form, epsilon 1); all 1 when k = n
// O(n) time; 0 <= k <= n. Scores are finite or NaN (as when x overflowed); a NaN ranks below every
// number, so that the indices are always k distinct ones, and gets weight 0.
// Deterministic: the same scores give the same bits on every instruction set and thread count.
struct RouteArgs {
  int64_t n = 0, k = 0;
  const float* scores = nullptr;  // [n]
  int32_t* indices = nullptr;     // [k]
  float* weights = nullptr;       // [k]
  void* scratch = nullptr;        // RouteScratchBytes(n), 64-byte aligned
};
int64_t RouteScratchBytes(int64_t n);

// out[indices[r],:] += row_scale[r] · in[r,:]. Indices are distinct.
struct ScatterAddArgs {
  int64_t rows = 0;
  int64_t dim = 0;
  const int32_t* indices = nullptr;  // [rows], or null: rows 0, 1, … (a plain residual add)
  const float* row_scale = nullptr;  // [rows], or null: 1
  const float* in = nullptr;         // [rows, C] dense
  float* out = nullptr;              // [T, C] dense
};

}  // namespace longdoc::kernels
