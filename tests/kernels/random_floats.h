// Normal values from a seed. No GoogleTest here: the CUDA parity tests run without it.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace longdoc::kernels::testing {

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float scale = 1.0f,
                                       float offset = 0.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = offset + scale * normal(generator);
  return out;
}

}  // namespace longdoc::kernels::testing
