// The skipping rules: what they promise, against inputs made to break them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/skip_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class AttentionSkip : public TableTest {
 protected:
  // Native kernels get the length at which a quarter is kept on each side, emulated ones less.
  int64_t length() const { return emulated() ? 1024 : 2048; }
};

TEST_P(AttentionSkip, AdversarialLogitsNeverExceedTheBound) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (bool causal : {false, true}) {
      for (float epsilon : {1e-2f, 1e-4f}) {
        AttentionCase c;
        c.lengths = {length()};
        c.heads = c.kv_heads = 1;
        c.storage = storage;
        c.skip = SkipMode::kTolerance;
        c.epsilon = epsilon;
        c.mask.causal = causal;
        Attack attack;
        attack.bound = 4;
        attack.causal = causal;
        // Half of the keys +, half −: the centre is 0 and the bound as tight as it can be.
        attack.target = causal ? length() - kQueryBlock : (length() - kQueryBlock) / 2;
        const int64_t wanted = causal ? length() / 2 : length() / 4;
        attack.slope = (2 * attack.bound + std::log(2 / epsilon)) / static_cast<float>(wanted - 32);
        c.slopes = {attack.slope};
        const int64_t distance =
            SkipDistance(SkipMode::kTolerance, attack.slope, attack.bound, epsilon);
        const AttentionTensors t = Adversarial(c, attack, distance);
        const AttentionResult result = RunKernels(kernels(), c, t);
        ASSERT_EQ(result.error, "");
        const double error = MaxDifference(result.out, RunReference(c, t));
        const double rounding = AttentionTolerance(storage, kernels().native_bf16);
        EXPECT_LE(error, 2 * epsilon + rounding);
        if (storage == DType::kF32) {
          EXPECT_GE(error, 0.05 * epsilon) << "the attack is too weak to test anything";
        }
        EXPECT_LT(result.stats.tiles_computed, result.stats.tiles_dense * 9 / 10);
        // Whole tiles change sign, so the mean is not quite 0 and the centred norms a little
        // longer.
        EXPECT_GE(result.stats.max_bound, attack.bound * 0.99f);
        EXPECT_LE(result.stats.max_bound, attack.bound * 1.3f);
      }
    }
  }
}

TEST_P(AttentionSkip, AdversarialLogitsUnderWindowsGlobalsAndLists) {
  const HoledMasks masks(length());
  for (int kind = 0; kind < HoledMasks::kCount; ++kind) {
    AttentionCase c;
    c.lengths = {length()};
    c.heads = c.kv_heads = 1;
    c.skip = SkipMode::kTolerance;
    c.epsilon = 1e-3f;
    c.mask = masks[kind];
    const AttentionTensors t = AttackMiddle(&c);
    const AttentionResult result = RunKernels(kernels(), c, t);
    ASSERT_EQ(result.error, "");
    EXPECT_LE(MaxDifference(result.out, RunReference(c, t)), 2 * c.epsilon + kAttentionF32);
    AttentionCase dense = c;
    dense.skip = SkipMode::kDense;
    EXPECT_LT(result.stats.tiles_computed, RunKernels(kernels(), dense, t).stats.tiles_computed)
        << "nothing was skipped, kind " << kind;
  }
}

// The bound holds for every epsilon and slope on ordinary data too, and skipping grows with both.
TEST_P(AttentionSkip, RandomLogitsStayWithinTheBound) {
  int64_t previous = std::numeric_limits<int64_t>::max();
  for (float epsilon : {1e-6f, 1e-3f, 0.3f}) {
    AttentionCase c;
    c.lengths = {length(), 300};
    c.heads = 4;
    c.kv_heads = 2;
    c.slopes = {0.05f, 0.2f, 1.0f, 0.0f};
    c.skip = SkipMode::kTolerance;
    c.epsilon = epsilon;
    const AttentionTensors t = RandomTensors(c, 11);
    const AttentionResult result = RunKernels(kernels(), c, t);
    EXPECT_LE(MaxDifference(result.out, RunReference(c, t)),
              2 * epsilon * LongestValue(c, t) + kAttentionF32 * MaxAbs(t.v));
    EXPECT_LE(result.stats.tiles_computed, previous);
    previous = result.stats.tiles_computed;
  }
}

TEST_P(AttentionSkip, ExactChangesNoBit) {
  struct Kind {
    bool causal;
    int64_t radius, globals;
  };
  for (const Kind& kind :
       {Kind{false, -1, 0}, Kind{true, -1, 0}, Kind{false, 400, 150}, Kind{true, 300, 3}}) {
    for (DType storage : {DType::kF32, DType::kBF16}) {
      for (float score_scale : {0.1f, 2.0f, 30.0f}) {
        AttentionCase c;
        c.lengths = {100, emulated() ? 500 : 1500, 257};
        c.heads = 4;
        c.kv_heads = 2;
        c.slopes = {0.7f, 0.25f, 50.0f, 0.0f};
        c.storage = storage;
        c.mask.causal = kind.causal;
        c.mask.window_radius = kind.radius;
        c.mask.num_global = kind.globals;
        const AttentionTensors t = RandomTensors(c, 12, score_scale);
        const AttentionResult dense = RunKernels(kernels(), c, t);
        c.skip = SkipMode::kExact;
        const AttentionResult exact = RunKernels(kernels(), c, t);
        EXPECT_EQ(dense.out, exact.out);
        EXPECT_EQ(dense.stats.tiles_dense, exact.stats.tiles_dense);
        if (score_scale < 3) {
          EXPECT_LT(exact.stats.tiles_computed, dense.stats.tiles_computed);
        }
      }
    }
  }
}

TEST_P(AttentionSkip, ExactChangesNoBitUnderAttack) {
  AttentionCase c;
  c.lengths = {length()};
  c.heads = c.kv_heads = 1;
  Attack attack;
  attack.bound = 20;
  attack.target = (length() - kQueryBlock) / 2;
  attack.slope = (2 * attack.bound + 87.4f) / static_cast<float>(length() / 4 - 32);
  c.slopes = {attack.slope};
  const int64_t distance = SkipDistance(SkipMode::kExact, attack.slope, attack.bound, 0);
  const AttentionTensors t = Adversarial(c, attack, distance);
  const AttentionResult dense = RunKernels(kernels(), c, t);
  c.skip = SkipMode::kExact;
  const AttentionResult exact = RunKernels(kernels(), c, t);
  EXPECT_EQ(dense.out, exact.out);
  EXPECT_LT(exact.stats.tiles_computed, dense.stats.tiles_computed);
}

TEST_P(AttentionSkip, TileCountsOfSimpleCases) {
  AttentionCase c;
  c.lengths = {1000, 64, 0, 1};
  c.heads = c.kv_heads = 2;
  c.slopes = {2.0f, 2.0f};
  // 1000 tokens: 8 query blocks x 16 tiles; 64 and 1 token: one tile each; two heads.
  const AttentionResult dense = RunKernels(kernels(), c, RandomTensors(c, 13));
  EXPECT_EQ(dense.stats.tiles_computed, 2 * (8 * 16 + 1 + 1));
  EXPECT_EQ(dense.stats.tiles_dense, 2 * (8 * 16 + 1 + 1));
  EXPECT_EQ(dense.stats.max_bound, 0);

  c.mask.causal = true;  // query block b sees 2b + 2 tiles
  const AttentionResult causal = RunKernels(kernels(), c, RandomTensors(c, 13));
  EXPECT_EQ(causal.stats.tiles_computed, 2 * (2 + 4 + 6 + 8 + 10 + 12 + 14 + 16 + 1 + 1));
  EXPECT_EQ(causal.stats.tiles_dense, causal.stats.tiles_computed);

  c.mask.causal = false;
  c.mask.window_radius = 64;  // the two diagonal tiles and one on each side; fewer at the ends
  c.lengths = {1024};
  EXPECT_EQ(RunKernels(kernels(), c, RandomTensors(c, 13)).stats.tiles_computed, 2 * (8 * 4 - 2));
  c.mask.num_global = 1;  // block 0 sees all 16, blocks 1..7 visit tile 0 as well
  EXPECT_EQ(RunKernels(kernels(), c, RandomTensors(c, 13)).stats.tiles_computed,
            2 * (8 * 4 - 2 + 13 + 7));
}

TEST_P(AttentionSkip, EqualKeysLeaveOnlyTheSlope) {
  // All keys equal: centring makes the bound 0 (but for slack), so the distance is known.
  for (bool causal : {false, true}) {
    AttentionCase c;
    c.lengths = {length()};
    c.heads = c.kv_heads = 1;
    c.slopes = {0.5f};
    c.mask.causal = causal;
    c.skip = SkipMode::kExact;
    AttentionTensors t = RandomTensors(c, 14);
    for (size_t i = 0; i < t.k.size(); ++i) t.k[i] = 10.0f * (static_cast<int>(i % c.dim) - 3);
    const AttentionResult result = RunKernels(kernels(), c, t);
    EXPECT_LT(result.stats.max_bound, 0.02f);
    const int64_t distance = SkipDistance(SkipMode::kExact, 0.5f, result.stats.max_bound, 0);
    EXPECT_EQ(distance, 175);
    EXPECT_EQ(result.stats.tiles_computed, KeptTilesOfAllBlocks(length(), distance, causal));
    c.skip = SkipMode::kTolerance;
    c.epsilon = 1e-3f;
    const AttentionResult tolerance = RunKernels(kernels(), c, t);
    EXPECT_LE(MaxDifference(tolerance.out, RunReference(c, t)), 2e-3 * 4 * MaxAbs(t.v));
    EXPECT_LE(tolerance.stats.tiles_computed, KeptTilesOfAllBlocks(length(), 16, causal));
  }
}

TEST_P(AttentionSkip, RuleBStopsEarlierThanRuleA) {
  AttentionCase c;
  c.lengths = {length()};
  c.heads = c.kv_heads = 1;
  c.dim = 64;
  c.slopes = {0.1f};
  c.skip = SkipMode::kTolerance;
  c.epsilon = 1e-3f;
  const AttentionTensors t = RandomTensors(c, 15, 4.0f);
  const AttentionResult result = RunKernels(kernels(), c, t);
  // Every block's own bound is below the largest, so this counts at least what rule A alone keeps
  // with it; half that distance is what rule B reaches when the near scores are not all −B.
  const int64_t distance = SkipDistance(c.skip, 0.1f, result.stats.max_bound, c.epsilon);
  EXPECT_LT(result.stats.tiles_computed,
            KeptTilesOfAllBlocks(length(), distance * 3 / 4, /*causal=*/false));
}

TEST_P(AttentionSkip, ShiftedKeysDoNotLoosenTheBound) {
  AttentionCase c;
  c.lengths = {length()};
  c.heads = c.kv_heads = 1;
  c.slopes = {0.3f};
  c.skip = SkipMode::kTolerance;
  AttentionTensors t = RandomTensors(c, 16);
  const AttentionResult plain = RunKernels(kernels(), c, t);
  for (size_t i = 0; i < t.k.size(); i += c.dim) t.k[i] += 8.0f;
  const AttentionResult shifted = RunKernels(kernels(), c, t);
  EXPECT_NEAR(shifted.stats.max_bound, plain.stats.max_bound, 0.1f);
  EXPECT_LE(MaxDifference(shifted.out, RunReference(c, t)), 2e-3 * 4 * MaxAbs(t.v));
}

TEST_P(AttentionSkip, NonFiniteInputIsDenseAndStaysInItsSequence) {
  const float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                        std::numeric_limits<float>::infinity(),
                        -std::numeric_limits<float>::infinity()};
  for (float bad : kBad) {
    for (int where = 0; where < 3; ++where) {
      AttentionCase c;
      c.lengths = {300, 600, 300};  // dense tiles: 3·5, 5·10, 3·5
      c.heads = c.kv_heads = 1;
      c.slopes = {4.0f};
      c.skip = SkipMode::kExact;
      AttentionTensors t = RandomTensors(c, 17);
      const AttentionResult clean = RunKernels(kernels(), c, t);
      ASSERT_LT(clean.stats.tiles_computed, clean.stats.tiles_dense);
      const int64_t at = (300 + 211) * c.dim + 5;
      (where == 0 ? t.q : where == 1 ? t.k : t.v)[at] = bad;
      for (SkipMode mode : {SkipMode::kExact, SkipMode::kTolerance, SkipMode::kDense}) {
        c.skip = mode;
        const AttentionResult result = RunKernels(kernels(), c, t);
        ASSERT_EQ(result.error, "");
        if (mode == SkipMode::kDense) continue;
        EXPECT_TRUE(std::isinf(result.stats.max_bound));
        // A bad key or value makes its sequence dense; a bad query only its own block.
        const int64_t dense_tiles = where == 0 ? 10 : 5 * 10;
        EXPECT_GE(result.stats.tiles_computed, dense_tiles);
        if (mode == SkipMode::kTolerance) continue;
        for (int64_t i = 0; i < 300 * c.dim; ++i) {
          ASSERT_EQ(result.out[i], clean.out[i]);
          ASSERT_EQ(result.out[900 * c.dim + i], clean.out[900 * c.dim + i]);
        }
        // An infinite key may weigh nothing, but nothing non-finite may vanish.
        EXPECT_EQ(std::isfinite(result.out[at]), std::isfinite(RunReference(c, t)[at])) << where;
      }
    }
  }
}

TEST_P(AttentionSkip, HugeFiniteInputOverflowsToDense) {
  AttentionCase c;
  c.lengths = {600};
  c.heads = c.kv_heads = 1;
  c.slopes = {4.0f};
  c.skip = SkipMode::kTolerance;
  AttentionTensors t = RandomTensors(c, 18);
  for (float& x : t.k) x *= 1e30f;
  const AttentionResult result = RunKernels(kernels(), c, t);
  EXPECT_TRUE(std::isinf(result.stats.max_bound));
  EXPECT_EQ(result.stats.tiles_computed, result.stats.tiles_dense);
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionSkip, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
