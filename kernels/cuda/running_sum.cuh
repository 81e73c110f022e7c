// Maximum and sum of exponentials of numbers that come one after the other.
#pragma once

#include <cfloat>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {

// A maximum, from -FLT_MAX on, and the sum of e^(x - max). Joined in a fixed order the result is
// deterministic.
struct RunningSum {
  float max = -FLT_MAX;
  float sum = 0.0f;

  __device__ void Join(float other_max, float other_sum) {
    const float top = fmaxf(max, other_max);
    sum = sum * Exp2((max - top) * 1.44269504f) + other_sum * Exp2((other_max - top) * 1.44269504f);
    max = top;
  }
  __device__ void Add(float x) {
    if (x > max) {  // rarely, after the first few
      sum *= Exp2((max - x) * 1.44269504f);
      max = x;
    }
    sum += Exp2((x - max) * 1.44269504f);
  }
  // That of a warp, in every lane.
  __device__ void JoinWarp() {
    for (int step = 16; step > 0; step /= 2) {
      const float other_max = __shfl_xor_sync(0xffffffffu, max, step);
      const float other_sum = __shfl_xor_sync(0xffffffffu, sum, step);
      Join(other_max, other_sum);
    }
  }
};

}  // namespace longdoc::kernels::cuda
