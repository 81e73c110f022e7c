// Scalars of the skipping rules, compiled once for the baseline CPU.
#pragma once

namespace longdoc::kernels {

// ln(2 / ((1 − e^−slope)·epsilon)) of rule B, plus a slack of 0.02 for the rounding of the running
// sums and of the bias. slope > 0, epsilon in (0, 1).
float RuleBConstant(float slope, float epsilon);

}  // namespace longdoc::kernels
