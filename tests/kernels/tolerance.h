// What a kernel may differ from the naive reference in double, and why. Every number is relative to
// the largest input value that can reach the output (attention: max |v| of the problem).
#pragma once

#include "kernels/types.h"

namespace longdoc::kernels::testing {

// fp32: a weight's relative error is that of its exponent, 2^-24 of every rounded sum behind a
// score of about 10 (dot product, bias), exp (1.5e-7) and the running rescales.
constexpr double kAttentionF32 = 4e-6;

// bf16 storage, products in fp32: the output is rounded once to 8 significant bits, half a unit of
// which is 2^-8 of the value at worst.
constexpr double kAttentionBf16Widened = 0x1p-8 + kAttentionF32;

// bf16 products: every weight is rounded as well, again by 2^-8 at worst.
constexpr double kAttentionBf16Native = 2 * 0x1p-8 + kAttentionF32;

// GELU: exp (squared in the tanh form) and the polynomial (1.5e-7 each), the division and four
// roundings of 2^-24; the division counts about threefold near 0. Relative, while the result is a
// normal float.
constexpr double kGelu = 1e-6;

// Layer normalisation in fp32: relative to the largest output; sums of up to 4096 terms.
constexpr double kLayerNorm = 5e-6;

// RMS normalisation in fp32: relative to each value.
constexpr double kRmsNorm = 2e-6;

// Soft top-k weights: the exponentials of the weight and of the sum (1.5e-7 each). Relative.
constexpr double kSoftTopK = 5e-7;

// Parts of multi-query attention merged against one part: only the order of the sums differs.
constexpr double kMerge = 1e-6;

// Log-probability: that of the sum, and one rounding of logit and maximum (2^-24 of each).
constexpr double kLogSoftmax = 1e-6;

// Compensated mean: relative to the mean absolute value.
constexpr double kMeanPool = 1e-6;

// Rounding to bf16.
constexpr double kBf16 = 0x1p-8;

inline double AttentionTolerance(DType storage, bool native_bf16) {
  if (storage == DType::kF32) return kAttentionF32;
  return native_bf16 ? kAttentionBf16Native : kAttentionBf16Widened;
}

}  // namespace longdoc::kernels::testing
