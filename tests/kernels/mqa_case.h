// Cases of multi-query attention and their inputs. No GoogleTest here: the CUDA parity tests run
// without it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/decode.h"
#include "tests/kernels/attention_data.h"
#include "tests/kernels/random_floats.h"

namespace longdoc::kernels::testing {

struct MqaCase {
  int64_t rows = 8, keys = 1000;
  int32_t dim = 64;
  DType storage = DType::kF32;
  bool causal = false;
  float score_scale = 1;  // standard deviation of the scores, about
  int64_t parts = 1;
  int64_t page_blocks = 0;  // 0: contiguous
  int64_t store_rows = kKeyBlock;
  DType out_type = DType::kF32;
};

// q [rows, D], k and v [keys, D], rounded to the storage type so that storing changes nothing.
struct MqaTensors {
  std::vector<float> q, k, v, slopes;
  std::vector<int32_t> positions;
};

inline MqaTensors MakeTensors(const MqaCase& c, uint32_t seed) {
  MqaTensors t;
  const float scale = std::sqrt(c.score_scale);
  t.q = RandomFloats(c.rows * c.dim, seed, scale);
  t.k = RandomFloats(c.keys * c.dim, seed + 1, scale);
  t.v = RandomFloats(c.keys * c.dim, seed + 2, 1.0f, 0.2f);
  for (std::vector<float>* x : {&t.q, &t.k, &t.v}) {
    for (float& value : *x) value = RoundTo(c.storage, value);
  }
  // Positions with gaps, in no order, from before the first key to beyond the last.
  const int64_t span = c.keys + 3;
  for (int64_t r = 0; r < c.rows; ++r) {
    t.slopes.push_back(r % 4 == 3 ? 0.0f : std::exp2(-static_cast<float>(r % 9)));
    t.positions.push_back(static_cast<int32_t>((r * 7919 + c.keys - 1) % span) - 1);
  }
  return t;
}

inline float ScaleOf(const MqaCase& c) { return 1.0f / std::sqrt(static_cast<float>(c.dim)); }

}  // namespace longdoc::kernels::testing
