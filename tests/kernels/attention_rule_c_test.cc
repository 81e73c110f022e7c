// Rule C, which skips tiles of gathered keys: what it promises, against inputs made to break it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/gathered_case.h"
#include "tests/kernels/rule_c_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class AttentionRuleC : public TableTest {};

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
// everything. At the same time every key that rule C leaves out stands at +B, all others at −B; or
// the change of sign lies some tiles nearer, in case a rule goes too far. The run may consist of
// clumps of one tile each, so that far from a clump's edge is not what the edge is.
TEST_P(AttentionRuleC, AdversarialLogitsAndPositions) {
  const float bound = 4, slope = 0.01f;
  for (int kind = 0; kind < 8; ++kind) {
    const float epsilon = kind % 2 == 0 ? 1e-2f : 1e-4f;
    const double distance = (2 * bound + std::log(2 / epsilon)) / slope;
    const int64_t reach = static_cast<int64_t>(distance) + 10, run = 56 * kKeyBlock;
    const bool mirrored = (kind & 2) != 0, clumped = (kind & 4) != 0;
    Positions far = Spaced(1000000 - reach - run + 1, run);
    for (int64_t j = 0; clumped && j < run; ++j) {
      far[j] -= static_cast<int32_t>((run - 1 - j) / kKeyBlock * 200);
    }
    const Positions rows = Spaced(1000000, 128);
    // The rest of the near key's tile weighs nothing.
    const Positions near = Spaced(1000127 + static_cast<int64_t>(distance) - 12, kKeyBlock, 5000);
    AttentionCase c = OneHead(rows, Join(far, near), slope);
    if (mirrored) Mirror(&c);
    c.skip = SkipMode::kTolerance;
    c.epsilon = epsilon;
    const NaiveRule naive(c, bound);
    for (int64_t inward :
         clumped ? std::vector<int64_t>{0, 1, 2} : std::vector<int64_t>{0, 4, 12}) {
      const AttentionTensors t = AdversarialGathered(
          c, bound, naive.RuleC(inward), -1.0f, mirrored ? kKeyBlock : 0, c.keys() - kKeyBlock);
      // Values are within [−1, 1] and only one side has anything to skip: 2·epsilon/2.
      const double allowed = epsilon;
      if (inward == 0) {
        EXPECT_GT(ErrorOfSkipping(c, t, naive.RuleA()), 10 * allowed);
        EXPECT_LE(ErrorOfSkipping(c, t, naive.RuleC()), allowed);
      }
      const AttentionResult result = RunKernels(kernels(), c, t);
      ASSERT_EQ(result.error, "");
      const double error = MaxDifference(result.out, RunReference(c, t));
      EXPECT_LE(error, allowed + kAttentionF32) << inward;
      if (inward == 0 && !clumped) {
        EXPECT_GE(error, 0.1 * allowed) << "the attack is too weak to test anything";
      }
      EXPECT_LT(result.stats.tiles_computed, result.stats.tiles_dense);
      EXPECT_GE(result.stats.max_bound, bound * 0.99f);
    }
  }
}

// The same attack on random clusters of keys around a block of queries.
TEST_P(AttentionRuleC, AdversarialLogitsOnRandomClusters) {
  int64_t saved = 0, attacked = 0;
  for (uint32_t seed = 0; seed < (emulated() ? 6 : 40); ++seed) {
    auto [c, bound] = RandomClusters(seed, emulated() ? 600 : 1200);
    c.skip = SkipMode::kTolerance;
    c.epsilon = seed % 2 == 0 ? 1e-2f : 1e-3f;
    const NaiveRule naive(c, bound);
    for (int64_t inward : {0, 1, 3}) {
      const AttentionTensors t =
          AdversarialGathered(c, bound, naive.RuleC(inward), -1.0f, 0, c.keys() / 2);
      const AttentionResult result = RunKernels(kernels(), c, t);
      const double error = MaxDifference(result.out, RunReference(c, t));
      EXPECT_LE(error, 2 * c.epsilon + kAttentionF32) << seed;
      saved += result.stats.tiles_dense - result.stats.tiles_computed;
      attacked += error > 0.1 * c.epsilon ? 1 : 0;
    }
  }
  EXPECT_GT(saved, 0);
  EXPECT_GT(attacked, 0);
}

// Keys at +B from some distance on are the only ones with a value: a weight that was not exactly 0
// would show.
TEST_P(AttentionRuleC, ExactChangesNoBitUnderAttack) {
  const float bound = 10, slope = 0.1f;
  const int64_t distance = static_cast<int64_t>((2 * bound + 87.4f) / slope);  // 1074
  const int64_t run = 40 * kKeyBlock;
  for (int64_t nearest : {1, 700000}) {
    for (bool mirrored : {false, true}) {
      for (int64_t inward : {0, 2, 4, 6}) {
        AttentionCase c =
            OneHead(Spaced(1000000, 128), Spaced(1000000 - nearest - run + 1, run), slope);
        std::vector<bool> high(run);
        const int64_t skipped = run - CeilDiv(distance, kKeyBlock) * kKeyBlock;
        for (int64_t j = 0; j < skipped + inward * kKeyBlock; ++j) high[j] = true;
        if (mirrored) {
          Mirror(&c);
          std::reverse(high.begin(), high.end());
        }
        const AttentionTensors t = AdversarialGathered(c, bound, high, 0.0f, 0, 0);
        const AttentionResult dense = RunKernels(kernels(), c, t);
        c.skip = SkipMode::kExact;
        const AttentionResult exact = RunKernels(kernels(), c, t);
        ASSERT_EQ(dense.error + exact.error, "");
        EXPECT_EQ(dense.out, exact.out) << nearest << " " << inward;
        EXPECT_LT(exact.stats.tiles_computed, dense.stats.tiles_computed);
      }
    }
  }
}

// A block of queries that spans many tiles sees the keys of its last rows only after many others,
// whose weights have then decayed step by step to denormal numbers, which still are not 0.
TEST_P(AttentionRuleC, ExactChangesNoBitOfAWideBlock) {
  AttentionCase c = OneHead(Spaced(1000000, 128, 20), Spaced(1000000, 40 * kKeyBlock), 0.1f);
  std::vector<bool> high(c.keys());
  std::fill(high.begin(), high.begin() + 10 * kKeyBlock, true);
  const AttentionTensors t = AdversarialGathered(c, 0.01f, high, 0.0f, 0, 0);
  const AttentionResult dense = RunKernels(kernels(), c, t);
  c.skip = SkipMode::kExact;
  EXPECT_EQ(dense.out, RunKernels(kernels(), c, t).out);
  EXPECT_TRUE(std::any_of(dense.out.begin(), dense.out.end(), [](float x) {
    return x > 0 && x < std::numeric_limits<float>::min();
  })) << "nothing decays";
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

INSTANTIATE_TEST_SUITE_P(Tables, AttentionRuleC, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
