// Scalars of the skipping rules, compiled once for the baseline CPU.
#pragma once

namespace longdoc::kernels {

// ln(2 / ((1 − e^−slope)·epsilon)) of rule B, plus a slack of 0.02 for the rounding of the running
// sums and of the bias. slope > 0, epsilon in (0, 1).
float RuleBConstant(float slope, float epsilon);

// ln(2 / epsilon) of rule C, with the same slack.
float RuleCConstant(float epsilon);

// What a score must lie below the running maximum for its weight to be exactly 0: exp() gives 0
// below -87.3, and 0.1 covers the rounding of the bias.
constexpr double kExactSpread = 87.4;

}  // namespace longdoc::kernels
