// The skipping rules on the device: what they promise, against inputs made to break them, and that
// the preparation computes the ranges of kernels/ranges.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/cuda/attention_device.h"
#include "tests/kernels/gathered_case.h"
#include "tests/kernels/rule_c_case.h"
#include "tests/kernels/skip_case.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using namespace kernels::testing;  // NOLINT: its cases are what this file is about

AttentionCase SkipCase(int64_t length, SkipMode skip, float slope) {
  AttentionCase c;
  c.lengths = {length};
  c.heads = c.kv_heads = 1;
  c.dim = 64;
  c.storage = DType::kBF16;
  c.slopes = {slope};
  c.skip = skip;
  return c;
}

// The tiles of the kernel that serves a case.
Grain GrainOf(const AttentionCase& c, int major) {
  DeviceProblem problem(c, RandomTensors(c, 1));
  const TileShape tile = TileOf(problem.args(), major);
  return {tile.queries, tile.keys};
}

int64_t Length() { return SmallShapes() ? 1024 : 4096; }

PARITY_TEST(attention_skip_exact_changes_no_bit) {
  struct Kind {
    bool causal;
    int64_t radius, globals;
  };
  for (int major : Capabilities()) {
    UseCapability(major);
    for (const Kind& kind :
         {Kind{false, -1, 0}, Kind{true, -1, 0}, Kind{false, 400, 150}, Kind{true, 300, 3}}) {
      for (float score_scale : {0.1f, 30.0f}) {
        if (SmallShapes() && kind.radius >= 0 && score_scale < 1) continue;
        AttentionCase c;
        c.lengths = {100, SmallShapes() ? 700 : 1500, 257};
        c.heads = 2;
        c.kv_heads = 1;
        c.slopes = {0.7f, 50.0f};
        c.dim = 64;
        c.storage = kind.causal ? DType::kF16 : DType::kBF16;
        c.mask.causal = kind.causal;
        c.mask.window_radius = kind.radius;
        c.mask.num_global = kind.globals;
        const AttentionTensors t = RandomTensors(c, 12, score_scale);
        const DeviceResult dense = RunDevice(c, t);
        c.skip = SkipMode::kExact;
        const DeviceResult exact = RunDevice(c, t);
        EXPECT(dense.out == exact.out);
        EXPECT(dense.lse == exact.lse);
        EXPECT(dense.stats.tiles_dense == exact.stats.tiles_dense);
        EXPECT(exact.stats.tiles_computed < dense.stats.tiles_computed);
      }
    }
  }
}

PARITY_TEST(attention_skip_exact_changes_no_bit_under_attack) {
  for (int major : Capabilities()) {
    UseCapability(major);
    Attack attack;
    attack.bound = 20;
    attack.target = (Length() - 128) / 2;
    attack.slope = (2 * attack.bound + 87.4f) / static_cast<float>(Length() / 4 - 32);
    AttentionCase c = SkipCase(Length(), SkipMode::kDense, attack.slope);
    const int64_t distance = SkipDistance(SkipMode::kExact, attack.slope, attack.bound, 0);
    const AttentionTensors t = Adversarial(c, attack, distance, GrainOf(c, major));
    const DeviceResult dense = RunDevice(c, t);
    c.skip = SkipMode::kExact;
    const DeviceResult exact = RunDevice(c, t);
    EXPECT(dense.out == exact.out);
    EXPECT(exact.stats.tiles_computed < dense.stats.tiles_computed);
  }
}

PARITY_TEST(attention_skip_adversarial_logits_stay_within_the_bound) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (bool causal : {false, true}) {
      for (float epsilon : {0.2f, 1e-2f}) {
        AttentionCase c = SkipCase(Length(), SkipMode::kTolerance, 0);
        c.epsilon = epsilon;
        c.storage = DType::kF16;
        c.mask.causal = causal;
        Attack attack;
        attack.bound = 4;
        attack.causal = causal;
        const Grain grain = GrainOf(c, major);
        attack.target = causal ? Length() - grain.queries
                               : (Length() - grain.queries) / 2 / grain.queries * grain.queries;
        const int64_t wanted = causal ? Length() / 2 : Length() / 4;
        attack.slope = (2 * attack.bound + std::log(2 / epsilon)) / static_cast<float>(wanted - 32);
        c.slopes = {attack.slope};
        const int64_t distance =
            SkipDistance(SkipMode::kTolerance, attack.slope, attack.bound, epsilon);
        const AttentionTensors t = Adversarial(c, attack, distance, grain);
        const DeviceResult result = RunDevice(c, t);
        const double error = MaxDifference(result.out, RunReference(c, t));
        EXPECT(error <= 2 * epsilon + Tolerance(c.storage));
        if (epsilon > 0.1f) EXPECT(error >= 0.02 * epsilon);  // else the attack tests nothing
        EXPECT(result.stats.tiles_computed < result.stats.tiles_dense * 9 / 10);
        EXPECT(result.stats.max_bound >= attack.bound * 0.99f);
        EXPECT(result.stats.max_bound <= attack.bound * 1.6f);
      }
    }
  }
}

PARITY_TEST(attention_skip_adversarial_logits_under_windows_and_lists) {
  const HoledMasks masks(Length());
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int kind = 0; kind < HoledMasks::kCount; ++kind) {
      AttentionCase c = SkipCase(Length(), SkipMode::kTolerance, 0);
      c.mask = masks[kind];
      const AttentionTensors t = AttackMiddle(&c);
      const DeviceResult result = RunDevice(c, t);
      EXPECT(MaxDifference(result.out, RunReference(c, t)) <= 2 * c.epsilon + Tolerance(c.storage));
      AttentionCase dense = c;
      dense.skip = SkipMode::kDense;
      EXPECT(result.stats.tiles_computed < RunDevice(dense, t).stats.tiles_computed);
    }
  }
}

PARITY_TEST(attention_skip_random_logits_stay_within_the_bound) {
  for (int major : Capabilities()) {
    UseCapability(major);
    int64_t previous = std::numeric_limits<int64_t>::max();
    for (float epsilon : {1e-6f, 1e-3f, 0.3f}) {
      AttentionCase c = SkipCase(Length() / 2, SkipMode::kTolerance, 0);
      c.lengths.push_back(300);
      c.heads = 4;
      c.kv_heads = 2;
      c.slopes = {0.05f, 0.2f, 1.0f, 0.0f};
      c.epsilon = epsilon;
      const AttentionTensors t = RandomTensors(c, 11);
      const DeviceResult result = RunDevice(c, t);
      EXPECT(MaxDifference(result.out, RunReference(c, t)) <=
             2 * epsilon * LongestValue(c, t) + Tolerance(c.storage) * MaxAbs(t.v));
      EXPECT(result.stats.tiles_computed <= previous);
      previous = result.stats.tiles_computed;
    }
  }
}

// All keys equal: centring makes the bound 0 (but for slack), so the distance is known.
PARITY_TEST(attention_skip_equal_keys_leave_only_the_slope) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (bool causal : {false, true}) {
      AttentionCase c = SkipCase(Length(), SkipMode::kExact, 0.5f);
      c.mask.causal = causal;
      const Grain grain = GrainOf(c, major);
      AttentionTensors t = RandomTensors(c, 14, 0.1f);
      for (size_t i = 0; i < t.k.size(); ++i) {
        t.k[i] = 0.5f * static_cast<float>(static_cast<int>(i % 8) - 3);
      }
      const DeviceResult result = RunDevice(c, t);
      EXPECT(result.stats.max_bound < 0.02f);
      const int64_t distance = SkipDistance(c.skip, 0.5f, result.stats.max_bound, 0);
      EXPECT(distance == 175);
      EXPECT(result.stats.tiles_computed ==
             KeptTilesOfAllBlocks(Length(), distance, causal, grain));
      c.skip = SkipMode::kTolerance;
      const DeviceResult tolerance = RunDevice(c, t);
      EXPECT(MaxDifference(tolerance.out, RunReference(c, t)) <=
             2 * c.epsilon * LongestValue(c, t) + Tolerance(c.storage) * MaxAbs(t.v));
      EXPECT(tolerance.stats.tiles_computed <= KeptTilesOfAllBlocks(Length(), 16, causal, grain));
    }
  }
}

PARITY_TEST(attention_skip_rule_b_stops_earlier_than_rule_a) {
  for (int major : Capabilities()) {
    UseCapability(major);
    const AttentionCase c = SkipCase(2 * Length(), SkipMode::kTolerance, 0.1f);
    const DeviceResult result = RunDevice(c, RandomTensors(c, 15, 4.0f));
    const int64_t distance = SkipDistance(c.skip, 0.1f, result.stats.max_bound, c.epsilon);
    EXPECT(result.stats.tiles_computed <
           KeptTilesOfAllBlocks(2 * Length(), distance * 3 / 4, false, GrainOf(c, major)));
  }
}

PARITY_TEST(attention_skip_tile_counts) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = SkipCase(1000, SkipMode::kDense, 2.0f);
    c.lengths = {1000, 64, 0, 1};
    const Grain grain = GrainOf(c, major);
    const AttentionTensors t = RandomTensors(c, 13);
    const DeviceResult dense = RunDevice(c, t);
    const int64_t tiles = CeilDiv(1000, grain.queries) * CeilDiv(1000, grain.keys);
    EXPECT(dense.by_sequence[0].tiles_computed == tiles);
    EXPECT(dense.by_sequence[0].tiles_dense == tiles);
    EXPECT(dense.by_sequence[1].tiles_computed == 1);
    EXPECT(dense.by_sequence[2].tiles_dense == 0);
    EXPECT(dense.by_sequence[3].tiles_computed == 1);
    EXPECT(dense.stats.max_bound == 0);
    c.mask.causal = true;
    const DeviceResult causal = RunDevice(c, t);
    const int64_t lower = KeptTilesOfAllBlocks(1000, 1 << 30, true, grain);
    EXPECT(causal.by_sequence[0].tiles_dense == lower);
    EXPECT(causal.by_sequence[0].tiles_computed == lower);
    // Counts are added to what is there.
    DeviceProblem twice(c, t);
    EXPECT_OK(Attention(twice.args(), nullptr));
    EXPECT_OK(Attention(twice.args(), nullptr));
    EXPECT(twice.Result().by_sequence[0].tiles_computed == 2 * lower);
  }
}

PARITY_TEST(attention_skip_not_finite_is_dense_and_stays_in_its_sequence) {
  const float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                        std::numeric_limits<float>::infinity(),
                        -std::numeric_limits<float>::infinity()};
  for (int major : Capabilities()) {
    UseCapability(major);
    for (float bad : kBad) {
      for (int where = 0; where < 3; ++where) {
        AttentionCase c = SkipCase(300, SkipMode::kExact, 4.0f);
        c.lengths = {300, 600, 300};
        AttentionTensors t = RandomTensors(c, 17);
        const Grain grain = GrainOf(c, major);
        const DeviceResult clean = RunDevice(c, t);
        EXPECT(clean.stats.tiles_computed < clean.stats.tiles_dense);
        const int64_t at = (300 + 211) * c.dim + 5;
        (where == 0 ? t.q : where == 1 ? t.k : t.v)[at] = bad;
        for (SkipMode mode : {SkipMode::kExact, SkipMode::kTolerance}) {
          if (SmallShapes() && mode == SkipMode::kTolerance && !std::isnan(bad)) continue;
          c.skip = mode;
          const DeviceResult result = RunDevice(c, t);
          EXPECT(std::isinf(result.by_sequence[1].max_bound));
          EXPECT(std::isfinite(result.by_sequence[0].max_bound));
          const int64_t row = CeilDiv(600, grain.keys);
          EXPECT(result.by_sequence[1].tiles_computed >=
                 (where == 0 ? row : row * CeilDiv(600, grain.queries)));
          if (mode == SkipMode::kTolerance) continue;
          bool same = true;
          for (int64_t i = 0; i < 300 * c.dim; ++i) {
            same = same && result.out[i] == clean.out[i] &&
                   result.out[900 * c.dim + i] == clean.out[900 * c.dim + i];
          }
          EXPECT(same);
          // An infinite key may weigh nothing, but nothing that is not finite may vanish.
          EXPECT(std::isfinite(result.out[at]) == std::isfinite(RunReference(c, t)[at]));
        }
      }
    }
  }
}

// ---- gathered tokens ----------------------------------------------------------------------------

PARITY_TEST(attention_skip_gathered_exact_changes_no_bit) {
  for (int major : Capabilities()) {
    UseCapability(major);
    int64_t saved = 0;
    for (AttentionCase& c : GatheredPatterns(SmallShapes() ? 300 : 1000)) {
      c.heads = 2;
      c.kv_heads = 1;
      c.dim = 64;
      c.slopes = {0.7f, 0.03f};
      c.storage = DType::kBF16;
      const AttentionTensors t = RandomTensors(c, 36, 2.0f);
      const DeviceResult dense = RunDevice(c, t);
      c.skip = SkipMode::kExact;
      const DeviceResult exact = RunDevice(c, t);
      EXPECT(dense.out == exact.out);
      EXPECT(dense.lse == exact.lse);
      EXPECT(dense.stats.tiles_computed == dense.stats.tiles_dense);
      saved += dense.stats.tiles_computed - exact.stats.tiles_computed;
    }
    EXPECT(saved > 0);
  }
}

// Keys at +B from some distance on are the only ones with a value: a weight that was not exactly 0
// would show.
PARITY_TEST(attention_skip_gathered_exact_changes_no_bit_under_attack) {
  const float bound = 10, slope = 0.1f;
  const int64_t distance = static_cast<int64_t>((2 * bound + 87.4f) / slope);  // 1074
  const int64_t run = 40 * kKeyBlock;
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int64_t nearest : {1, 700000}) {
      for (int64_t inward : {0, 2, 6, 12}) {
        AttentionCase c =
            OneHead(Spaced(1000000, 128), Spaced(1000000 - nearest - run + 1, run), slope);
        c.dim = 64;
        c.storage = DType::kBF16;
        std::vector<bool> high(run);
        const int64_t skipped = run - CeilDiv(distance, kKeyBlock) * kKeyBlock;
        for (int64_t j = 0; j < skipped + inward * kKeyBlock; ++j) high[j] = true;
        if (inward % 4 == 2) {
          Mirror(&c);
          std::reverse(high.begin(), high.end());
        }
        const AttentionTensors t = AdversarialGathered(c, bound, high, 0.0f, 0, 0);
        const DeviceResult dense = RunDevice(c, t);
        c.skip = SkipMode::kExact;
        const DeviceResult exact = RunDevice(c, t);
        EXPECT(dense.out == exact.out);
        EXPECT(exact.stats.tiles_computed < dense.stats.tiles_computed);
      }
    }
  }
}

PARITY_TEST(attention_skip_adversarial_random_clusters) {
  for (int major : Capabilities()) {
    UseCapability(major);
    int64_t saved = 0, attacked = 0;
    for (uint32_t seed = 0; seed < (SmallShapes() ? 8 : 40); ++seed) {
      auto [c, bound] = RandomClusters(seed, SmallShapes() ? 600 : 1200);
      c.skip = SkipMode::kTolerance;
      c.storage = DType::kF16;
      c.dim = 64;
      c.epsilon = seed % 2 == 0 ? 0.1f : 1e-2f;
      const NaiveRule naive(c, bound);
      for (int64_t inward : {0, 1, 3}) {
        const AttentionTensors t =
            AdversarialGathered(c, bound, naive.RuleC(inward), -1.0f, 0, c.keys() / 2);
        const DeviceResult result = RunDevice(c, t);
        const double error = MaxDifference(result.out, RunReference(c, t));
        EXPECT(error <= 2 * c.epsilon + Tolerance(c.storage));
        saved += result.stats.tiles_dense - result.stats.tiles_computed;
        attacked += error > 0.05 * c.epsilon ? 1 : 0;
      }
    }
    EXPECT(saved > 0);
    EXPECT(attacked > 0);
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
