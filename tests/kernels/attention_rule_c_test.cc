// Rule C, which skips tiles of gathered keys: what it promises, against inputs made to break it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/gathered_case.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

double LongestValue(const AttentionCase& c, const AttentionTensors& t) {
  double longest = 0;
  for (size_t i = 0; i < t.v.size(); i += c.dim) {
    double square = 0;
    for (int d = 0; d < c.dim; ++d) square += static_cast<double>(t.v[i + d]) * t.v[i + d];
    longest = std::max(longest, std::sqrt(square));
  }
  return longest;
}

class AttentionRuleC : public ::testing::TestWithParam<const CpuKernels*> {
 protected:
  const CpuKernels& kernels() const { return *GetParam(); }
  bool emulated() const {
    return std::string(kernels().name).find("emulated") != std::string::npos;
  }
};

TEST_P(AttentionRuleC, RandomLogitsStayWithinTheBound) {
  for (float epsilon : {1e-6f, 1e-3f, 0.3f}) {
    int64_t computed = 0, dense = 0;
    for (AttentionCase& c : GatheredPatterns(emulated() ? 300 : 600)) {
      c.heads = 3;
      c.kv_heads = 1;
      c.slopes = {0.02f, 0.5f, 0.0f};
      c.skip = SkipMode::kTolerance;
      c.epsilon = epsilon;
      const AttentionTensors t = RandomTensors(c, 37);
      const AttentionResult result = RunKernels(kernels(), c, t);
      EXPECT_LE(MaxDifference(result.out, RunReference(c, t)),
                2 * epsilon * LongestValue(c, t) + kAttentionF32 * MaxAbs(t.v));
      computed += result.stats.tiles_computed;
      dense += result.stats.tiles_dense;
    }
    EXPECT_LT(computed, dense * 9 / 10);
  }
}

// Which tiles of 64 keys a rule leaves out for one block of queries, computed in double.
class NaiveRule {
 public:
  NaiveRule(const AttentionCase& c, double bound) : c_(c), bound_(bound), slope_(c.slopes[0]) {}

  // Rule A on positions: by the distance from the block alone. Unsound here.
  std::vector<bool> RuleA() const {
    std::vector<bool> skipped(c_.k_positions.size());
    const double distance = (2 * bound_ + std::log(2 / c_.epsilon)) / slope_;
    for (size_t j = 0; j < skipped.size(); ++j) {
      const auto [low, high] = TileOf(j);
      const int64_t gap = std::max(
          {int64_t{c_.q_positions.front()} - high, low - c_.q_positions.back(), int64_t{0}});
      skipped[j] = static_cast<double>(gap) >= distance;
    }
    return skipped;
  }

  // Rule C before the loop.
  std::vector<bool> RuleC() const {
    const int64_t keys = static_cast<int64_t>(c_.k_positions.size());
    std::vector<bool> skipped(keys);
    for (int64_t j = kKeyBlock - 1; j < keys && Fits(0, j + 1); j += kKeyBlock) {
      std::fill(skipped.begin(), skipped.begin() + j + 1, true);
    }
    for (int64_t j = (keys - 1) / kKeyBlock * kKeyBlock; j >= 0 && Fits(j, keys); j -= kKeyBlock) {
      std::fill(skipped.begin() + j, skipped.end(), true);
    }
    return skipped;
  }

 private:
  struct Range {
    int64_t low, high;
  };
  Range TileOf(size_t key) const {
    const size_t first = key / kKeyBlock * kKeyBlock;
    return {c_.k_positions[first],
            c_.k_positions[std::min(first + kKeyBlock, c_.k_positions.size()) - 1]};
  }

  // Whether keys [begin, end) weigh at most epsilon / 2 for every row, all at +B, others at −B.
  bool Fits(int64_t begin, int64_t end) const {
    for (int32_t row : c_.q_positions) {
      double nearest = std::numeric_limits<double>::infinity(), mass = 0, all = 0;
      for (int32_t key : c_.k_positions) {
        nearest = std::min(nearest, std::abs(static_cast<double>(row) - key));
      }
      for (int64_t j = 0; j < static_cast<int64_t>(c_.k_positions.size()); ++j) {
        const double away = std::abs(static_cast<double>(row) - c_.k_positions[j]) - nearest;
        const double weight = std::exp(-slope_ * away);
        all += weight;
        if (j >= begin && j < end) mass += weight;
      }
      if (mass * std::exp(2 * bound_) > c_.epsilon / 2 * all) return false;
    }
    return true;
  }

  const AttentionCase& c_;
  const double bound_, slope_;
};

// +bound on the keys that rule C skips, −bound on those that it keeps. Value component 3 tells
// these apart; component 4 the keys from `far_begin` to `far_end` from the others.
AttentionTensors Adversarial(const AttentionCase& c, float bound, const std::vector<bool>& skipped,
                             int64_t far_begin, int64_t far_end) {
  AttentionTensors t;
  t.q.assign(c.tokens() * c.dim, 0.0f);
  t.k.assign(c.keys() * c.dim, 0.0f);
  t.v.assign(c.keys() * c.dim, 0.0f);
  const float side = std::sqrt(bound * std::sqrt(static_cast<float>(c.dim)));
  for (int64_t i = 0; i < c.tokens(); ++i) t.q[i * c.dim] = side;
  for (int64_t j = 0; j < c.keys(); ++j) {
    t.k[j * c.dim] = skipped[j] ? side : -side;
    t.v[j * c.dim + 3] = skipped[j] ? 1.0f : -1.0f;
    t.v[j * c.dim + 4] = j >= far_begin && j < far_end ? 1.0f : -1.0f;
  }
  return t;
}

// The largest error of an output component when `skipped` keys are left out, in double.
double ErrorOfSkipping(const AttentionCase& c, const AttentionTensors& t,
                       const std::vector<bool>& skipped) {
  AttentionCase kept = c;
  AttentionTensors rest{t.q, {}, {}};
  kept.k_positions.clear();
  for (int64_t j = 0; j < c.keys(); ++j) {
    if (skipped[j]) continue;
    kept.k_positions.push_back(c.k_positions[j]);
    rest.k.insert(rest.k.end(), t.k.begin() + j * c.dim, t.k.begin() + (j + 1) * c.dim);
    rest.v.insert(rest.v.end(), t.v.begin() + j * c.dim, t.v.begin() + (j + 1) * c.dim);
  }
  kept.key_lengths = {static_cast<int64_t>(kept.k_positions.size())};
  return MaxDifference(RunReference(c, t), RunReference(kept, rest));
}

// A dense run of keys just beyond the distance of rule A, and a single key just within it on the
// other side: the run outweighs it by far, so a rule that looks at distances alone loses nearly
// everything. At the same time every key that rule C leaves out stands at +B, all others at −B.
TEST_P(AttentionRuleC, AdversarialLogitsAndPositions) {
  const float bound = 4;
  for (bool mirrored : {false, true}) {
    for (float epsilon : {1e-2f, 1e-4f}) {
      const float slope = 0.05f;
      const double distance = (2 * bound + std::log(2 / epsilon)) / slope;
      const int64_t reach = static_cast<int64_t>(distance) + 10, run = 14 * kKeyBlock;
      const Positions far = Spaced(1000000 - reach - run + 1, run), rows = Spaced(1000000, 128);
      // The rest of the near key's tile weighs nothing.
      const Positions near = Spaced(1000127 + static_cast<int64_t>(distance) - 12, kKeyBlock, 1000);
      AttentionCase c = OneHead(rows, Join(far, near), slope);
      if (mirrored) {
        const int32_t top = 2000000;
        const auto mirror = [&](Positions* p) {
          for (int32_t& x : *p) x = top - x;
          std::reverse(p->begin(), p->end());
        };
        mirror(&c.q_positions);
        mirror(&c.k_positions);
      }
      c.skip = SkipMode::kTolerance;
      c.epsilon = epsilon;
      const NaiveRule naive(c, bound);
      const std::vector<bool> rule_c = naive.RuleC(), rule_a = naive.RuleA();
      const AttentionTensors t =
          Adversarial(c, bound, rule_c, mirrored ? kKeyBlock : 0, mirrored ? kKeyBlock + run : run);
      const double allowed = 2 * epsilon * LongestValue(c, t);
      EXPECT_GT(ErrorOfSkipping(c, t, rule_a), 10 * allowed) << "rule A is not under attack";
      EXPECT_LE(ErrorOfSkipping(c, t, rule_c), allowed);

      const AttentionResult result = RunKernels(kernels(), c, t);
      ASSERT_EQ(result.error, "");
      const double error = MaxDifference(result.out, RunReference(c, t));
      EXPECT_LE(error, allowed + kAttentionF32);
      EXPECT_GE(error, 0.01 * epsilon) << "the attack is too weak to test anything";
      EXPECT_LT(result.stats.tiles_computed, result.stats.tiles_dense);
      // About half of the tiles stand at +B, so the centre is about 0 and the bound tight.
      EXPECT_GE(result.stats.max_bound, bound * 0.99f);
      EXPECT_LE(result.stats.max_bound, bound * 1.3f);
    }
  }
}

// The same attack on random clusters of keys around a block of queries.
TEST_P(AttentionRuleC, AdversarialLogitsOnRandomClusters) {
  int64_t saved = 0, attacked = 0;
  for (uint32_t seed = 0; seed < (emulated() ? 6 : 30); ++seed) {
    std::mt19937 generator(seed);
    Positions keys;
    int64_t at = 0;
    while (keys.size() < (emulated() ? 600u : 1200u)) {
      at += generator() % 2 == 0 ? generator() % 800 : 0;
      const int64_t step = 1 + generator() % 4;
      const Positions cluster = Spaced(at, 1 + generator() % 200, step);
      keys = Join(keys, cluster);
      at = keys.back() + 1;
    }
    const int64_t first = static_cast<int64_t>(generator() % static_cast<uint64_t>(at));
    AttentionCase c = OneHead(Spaced(first, 1 + generator() % 128, 1 + generator() % 3), keys,
                              0.02f + 0.001f * static_cast<float>(generator() % 200));
    c.skip = SkipMode::kTolerance;
    c.epsilon = seed % 2 == 0 ? 1e-2f : 1e-3f;
    const float bound = 1 + static_cast<float>(generator() % 5);
    const std::vector<bool> skipped = NaiveRule(c, bound).RuleC();
    const AttentionTensors t = Adversarial(c, bound, skipped, 0, c.keys() / 2);
    const AttentionResult result = RunKernels(kernels(), c, t);
    const double error = MaxDifference(result.out, RunReference(c, t));
    EXPECT_LE(error, 2 * c.epsilon * LongestValue(c, t) + kAttentionF32) << seed;
    saved += result.stats.tiles_dense - result.stats.tiles_computed;
    attacked += error > 0.01 * c.epsilon ? 1 : 0;
  }
  EXPECT_GT(saved, 0);
  EXPECT_GT(attacked, 0);
}

TEST_P(AttentionRuleC, ZeroSlopesAndNonFiniteInputAreDense) {
  AttentionCase c = OneHead(Spaced(0, 300, 100), Spaced(0, 600, 50), 0.0f);
  c.skip = SkipMode::kTolerance;
  c.epsilon = 0.5f;
  AttentionTensors t = RandomTensors(c, 38);
  EXPECT_EQ(RunKernels(kernels(), c, t).stats.tiles_computed, 3 * 10);
  c.slopes = {4.0f};
  const AttentionResult clean = RunKernels(kernels(), c, t);
  EXPECT_LT(clean.stats.tiles_computed, 3 * 10);
  for (int where = 0; where < 3; ++where) {
    AttentionTensors bad = t;
    std::vector<float>& tensor = where == 0 ? bad.q : where == 1 ? bad.k : bad.v;
    tensor[200 * c.dim + 5] = std::numeric_limits<float>::quiet_NaN();
    const AttentionResult result = RunKernels(kernels(), c, bad);
    EXPECT_TRUE(std::isinf(result.stats.max_bound));
    EXPECT_GE(result.stats.tiles_computed, where == 0 ? 10 : 3 * 10);
    if (where == 0) {  // a bad query harms its own row alone
      EXPECT_TRUE(std::isnan(result.out[200 * c.dim]));
      EXPECT_TRUE(std::isfinite(result.out[199 * c.dim]));
      EXPECT_EQ(result.out[0], clean.out[0]);
    }
  }
}

// The routing of 100,000 tokens: kernels keep what the rule promises, and no more.
TEST_P(AttentionRuleC, TilesKeptAtHundredThousandTokens) {
  if (emulated()) GTEST_SKIP();
  const int64_t n = 100000;
  AttentionCase c;
  AddSequence(Uniform(n / 16, n, 7), Uniform(n / 8, n, 8), &c);
  c.heads = c.kv_heads = 8;
  c.skip = SkipMode::kTolerance;
  c.epsilon = 1e-3f;
  AttentionTensors t = RandomTensors(c, 39);
  const float norm = std::sqrt(20.0f * std::sqrt(static_cast<float>(c.dim)));
  for (std::vector<float>* tensor : {&t.q, &t.k}) {
    for (size_t i = 0; i < tensor->size(); i += c.dim) {
      float square = 0;
      for (int d = 0; d < c.dim; ++d) square += (*tensor)[i + d] * (*tensor)[i + d];
      for (int d = 0; d < c.dim; ++d) (*tensor)[i + d] *= norm / std::sqrt(square);
    }
  }
  const AttentionResult result = RunKernels(kernels(), c, t);
  EXPECT_NEAR(result.stats.max_bound, 20.0f, 1.0f);
  EXPECT_EQ(result.stats.tiles_dense, 8 * CeilDiv(n / 16, 128) * CeilDiv(n / 8, 64));
  const double kept = static_cast<double>(result.stats.tiles_computed) /
                      static_cast<double>(result.stats.tiles_dense);
  std::printf("[   KEPT   ] %s: %.2f %%\n", kernels().name, 100 * kept);
  EXPECT_GT(kept, 0.045);
  EXPECT_LT(kept, 0.086);
}

std::string TableName(const ::testing::TestParamInfo<const CpuKernels*>& info) {
  std::string name = info.param->name;
  for (char& c : name) c = std::isalnum(c) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionRuleC, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
