// Inputs made to break rule C, and what the rule allows, computed naively.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernels/attention_data.h"
#include "tests/kernels/gathered_case.h"

namespace longdoc::kernels::testing {

// Which tiles of 64 keys a rule leaves out for one block of queries, computed in double.
class NaiveRule {
 public:
  NaiveRule(const AttentionCase& c, double bound)
      : c_(c), bound_(bound), slope_(c.slopes[0]), keys_(c.keys()) {
    for (int32_t row : c.q_positions) {
      double nearest = std::numeric_limits<double>::infinity();
      for (int32_t key : c.k_positions) {
        nearest = std::min(nearest, std::abs(static_cast<double>(row) - key));
      }
      std::vector<double> sums{0};
      for (int32_t key : c.k_positions) {
        const double away = std::abs(static_cast<double>(row) - key) - nearest;
        sums.push_back(sums.back() + std::exp(-slope_ * away));
      }
      prefix_.push_back(sums);
    }
  }

  // Rule A on positions: by the distance from the block alone. Unsound here.
  std::vector<bool> RuleA() const {
    std::vector<bool> skipped(keys_);
    const double distance = (2 * bound_ + std::log(2 / c_.epsilon)) / slope_;
    for (int64_t j = 0; j < keys_; ++j) {
      const int64_t first = j / kKeyBlock * kKeyBlock,
                    last = std::min(first + kKeyBlock, keys_) - 1;
      const int64_t gap = std::max<int64_t>(c_.q_positions.front() - c_.k_positions[last],
                                            c_.k_positions[first] - c_.q_positions.back());
      skipped[j] = static_cast<double>(gap) >= distance;
    }
    return skipped;
  }

  // Rule C before the loop, and `inward` more tiles on each side where it skips any.
  std::vector<bool> RuleC(int64_t inward = 0) const {
    std::vector<bool> skipped(keys_);
    int64_t left = 0, right = keys_;
    while (left + kKeyBlock <= keys_ && Fits(0, left + kKeyBlock)) left += kKeyBlock;
    while (right > 0 && Fits((right - 1) / kKeyBlock * kKeyBlock, keys_)) {
      right = (right - 1) / kKeyBlock * kKeyBlock;
    }
    if (left > 0) left = std::min(keys_, left + inward * kKeyBlock);
    if (right < keys_) right = std::max<int64_t>(0, right - inward * kKeyBlock);
    for (int64_t j = 0; j < keys_; ++j) skipped[j] = j < left || j >= right;
    return skipped;
  }

 private:
  // Whether keys [begin, end) weigh at most epsilon / 2 for every row, all at +B, others at −B.
  bool Fits(int64_t begin, int64_t end) const {
    return std::all_of(prefix_.begin(), prefix_.end(), [&](const std::vector<double>& sums) {
      const double mass = sums[end] - sums[begin];
      return mass * std::exp(2 * bound_) <= c_.epsilon / 2 * sums.back();
    });
  }

  const AttentionCase& c_;
  const double bound_, slope_;
  const int64_t keys_;
  std::vector<std::vector<double>> prefix_;  // per row: weights of the keys before each, all at 0
};

// +bound on the keys that are `high`, −bound on the others (but for the rounding to the storage
// type), told apart by value component 3, which is 1 and `low_value`. Component 4 tells keys from
// `far_begin` to `far_end` from the others.
inline AttentionTensors AdversarialGathered(const AttentionCase& c, float bound,
                                            const std::vector<bool>& high, float low_value,
                                            int64_t far_begin, int64_t far_end) {
  AttentionTensors t;
  t.q.assign(c.tokens() * c.dim, 0.0f);
  t.k.assign(c.keys() * c.dim, 0.0f);
  t.v.assign(c.keys() * c.dim, 0.0f);
  const float side = std::sqrt(bound * std::sqrt(static_cast<float>(c.dim)));
  for (int64_t i = 0; i < c.tokens(); ++i) t.q[i * c.dim] = RoundTo(c.storage, side);
  for (int64_t j = 0; j < c.keys(); ++j) {
    t.k[j * c.dim] = RoundTo(c.storage, high[j] ? side : -side);
    t.v[j * c.dim + 3] = high[j] ? 1.0f : low_value;
    t.v[j * c.dim + 4] = j >= far_begin && j < far_end ? 1.0f : -1.0f;
  }
  return t;
}

// A block of queries among random clusters of keys, `keys` at least, and the bound to attack with.
struct ClusterCase {
  AttentionCase c;
  float bound;
};

inline ClusterCase RandomClusters(uint32_t seed, size_t keys) {
  std::mt19937 generator(seed);
  Positions positions;
  int64_t at = 0;
  while (positions.size() < keys) {
    if (generator() % 2 == 0) at += generator() % 800;
    const int64_t step = 1 + generator() % 4;
    positions = Join(positions, Spaced(at, 1 + generator() % 200, step));
    at = positions.back() + 1;
  }
  const int64_t first = generator() % static_cast<uint32_t>(at);
  const int64_t count = 1 + generator() % 128;
  const Positions queries = Spaced(first, count, 1 + generator() % 3);
  const float slope = 0.02f + 0.001f * static_cast<float>(generator() % 200);
  return {OneHead(queries, positions, slope), 1 + static_cast<float>(generator() % 5)};
}

// Everything in reverse order.
inline void Mirror(AttentionCase* c) {
  for (Positions* p : {&c->q_positions, &c->k_positions}) {
    for (int32_t& x : *p) x = 2000000 - x;
    std::reverse(p->begin(), p->end());
  }
}

}  // namespace longdoc::kernels::testing
