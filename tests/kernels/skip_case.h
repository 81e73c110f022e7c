// Inputs made to break rule A, and how many tiles it keeps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/kernels/attention_data.h"

namespace longdoc::kernels::testing {

// The tiles of a backend.
struct Grain {
  int64_t queries = kQueryBlock, keys = kKeyBlock;
};

// Tiles that rule A keeps for the query tile that starts at `first`, with skip distance `distance`.
inline int64_t KeptTiles(int64_t tokens, int64_t first, int64_t distance, bool causal,
                         Grain grain = {}) {
  const int64_t last = std::min(tokens, first + grain.queries) - 1;
  int64_t kept = 0;
  for (int64_t tile = 0; tile * grain.keys < tokens; ++tile) {
    const int64_t begin = tile * grain.keys, end = begin + grain.keys - 1;
    if (causal && begin > last) continue;
    const int64_t gap = end < first ? first - end : begin > last ? begin - last : 0;
    if (gap == 0 || gap < distance) ++kept;
  }
  return kept;
}

inline int64_t KeptTilesOfAllBlocks(int64_t tokens, int64_t distance, bool causal,
                                    Grain grain = {}) {
  int64_t kept = 0;
  for (int64_t i = 0; i < tokens; i += grain.queries) {
    kept += KeptTiles(tokens, i, distance, causal, grain);
  }
  return kept;
}

struct Attack {
  float bound;  // |q·k|·scale of every pair
  float slope;
  int64_t target;  // first row of the query tile under attack
  bool causal = false;
};

// q·k·scale = +bound on every key that rule A skips for the target tile and −bound on every key it
// keeps, with values of opposite sign: the worst case of the derivation, with norms that are real.
inline AttentionTensors Adversarial(const AttentionCase& c, const Attack& attack, int64_t distance,
                                    Grain grain = {}) {
  const int64_t tokens = c.tokens(), dim = c.dim;
  AttentionTensors t;
  t.q.assign(tokens * dim, 0.0f);
  t.k.assign(tokens * dim, 0.0f);
  t.v.assign(tokens * dim, 0.0f);
  const float side = std::sqrt(attack.bound * std::sqrt(static_cast<float>(dim)));
  for (int64_t j = 0; j < tokens; ++j) {
    const int64_t first = j / grain.keys * grain.keys, end = first + grain.keys - 1;
    const int64_t last = attack.target + grain.queries - 1;
    const int64_t gap = end < attack.target ? attack.target - end : first > last ? first - last : 0;
    const float sign = gap >= distance ? 1.0f : -1.0f;
    t.q[j * dim] = RoundTo(c.storage, side);
    t.k[j * dim] = RoundTo(c.storage, side * sign);
    t.v[j * dim + 3] = sign;
  }
  return t;
}

// Masks under which the attack still goes: a window, a window with global tokens, and a list of
// blocks with holes, which this object keeps.
class HoledMasks {
 public:
  static constexpr int kCount = 3;

  explicit HoledMasks(int64_t tokens) : tokens_(tokens) {
    const int64_t blocks = tokens / kBlock;
    for (int64_t r = 0; r < blocks; ++r) {
      for (int64_t j = 0; j < blocks; ++j) {
        if (j != r && (j + r) % 3 != 0) columns_.push_back(static_cast<int32_t>(j));
      }
      offsets_.push_back(static_cast<int64_t>(columns_.size()));
    }
  }

  AttentionMask operator[](int kind) const {
    AttentionMask mask;
    if (kind < 2) {
      mask.window_radius = tokens_ / 3;
      mask.num_global = kind == 0 ? 0 : 200;
    } else {
      mask.block_tokens = kBlock;
      mask.block_row_offsets = offsets_.data();
      mask.block_columns = columns_.data();
    }
    return mask;
  }

 private:
  static constexpr int32_t kBlock = 128;
  const int64_t tokens_;
  std::vector<int64_t> offsets_{0};
  std::vector<int32_t> columns_;
};

// An attack on the middle of the case's one sequence; sets the slope, with which rule A reaches a
// quarter of it.
inline AttentionTensors AttackMiddle(AttentionCase* c) {
  Attack attack;
  attack.bound = 3;
  attack.target = (c->tokens() - kQueryBlock) / 2;
  attack.slope =
      (2 * attack.bound + std::log(2 / c->epsilon)) / static_cast<float>(c->tokens() / 4);
  c->slopes = {attack.slope};
  return Adversarial(*c, attack, SkipDistance(c->skip, attack.slope, attack.bound, c->epsilon));
}

}  // namespace longdoc::kernels::testing
