// Attention over gathered tokens: results at awkward counts and positions, and independence.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cpu/layout.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/gathered_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class AttentionGathered : public TableTest {
 protected:
  int64_t many() const { return emulated() ? 300 : 1000; }

  void CheckParity(AttentionCase c, DType storage, uint32_t seed, const std::string& what) {
    c.storage = storage;
    const AttentionTensors t = RandomTensors(c, seed, 2.0f);
    const AttentionResult result = RunKernels(kernels(), c, t);
    ASSERT_EQ(result.error, "") << what;
    EXPECT_LE(MaxDifference(result.out, RunReference(c, t)),
              AttentionTolerance(storage, kernels().native_bf16) * MaxAbs(t.v))
        << what;
  }
};

TEST_P(AttentionGathered, AwkwardCountsPacked) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    AttentionCase c;
    uint32_t seed = 0;
    for (int64_t keys : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, many()}) {
      for (int64_t queries : {0, 1, 127, 129}) {
        seed += 2;
        AddSequence(Uniform(queries, 4 * queries + 3, seed), Uniform(keys, 2 * keys + 2, seed + 1),
                    &c);
      }
    }
    c.heads = 4;
    c.kv_heads = 2;
    c.slopes = {0.0f, 0.01f, 0.3f, 8.0f};
    for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact}) {
      c.skip = skip;
      CheckParity(c, storage, 31, "awkward counts");
    }
  }
}

TEST_P(AttentionGathered, EveryPatternDimAndSlope) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    int number = 0;
    for (AttentionCase& c : GatheredPatterns(emulated() ? 300 : 600)) {
      for (int32_t dim : {16, 64, 128}) {
        if (emulated() && dim != (number % 2 == 0 ? 16 : 128)) continue;
        c.heads = 3;
        c.kv_heads = dim == 64 ? 3 : 1;
        c.dim = dim;
        c.slopes = {1e-7f, 0.02f, 0.7f};
        c.skip = dim == 16 ? SkipMode::kDense : SkipMode::kExact;
        CheckParity(c, storage, 32,
                    "pattern " + std::to_string(number) + " dim " + std::to_string(dim));
      }
      ++number;
    }
  }
}

TEST_P(AttentionGathered, QueryWithoutKeysGivesZero) {
  AttentionCase c = OneHead(Spaced(3, 130), {}, 0.5f);
  AddSequence({}, Spaced(0, 70), &c);
  AddSequence(Spaced(0, 2), Spaced(1, 1), &c);
  for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact, SkipMode::kTolerance}) {
    c.skip = skip;
    const AttentionTensors t = RandomTensors(c, 33);
    const AttentionResult result = RunKernels(kernels(), c, t);
    ASSERT_EQ(result.error, "");
    for (int64_t i = 0; i < 130 * c.dim; ++i) ASSERT_EQ(result.out[i], 0.0f);
    EXPECT_EQ(result.out[130 * c.dim], t.v[70 * c.dim]);  // one key: its value
    EXPECT_EQ(result.stats.tiles_dense, 1);
  }
}

TEST_P(AttentionGathered, AllTokensEqualTheUngathered) {
  AttentionCase plain;
  plain.lengths = {700, 3, 260};
  plain.heads = 2;
  plain.slopes = {0.03f, 0.0f};
  AttentionCase gathered = plain;
  gathered.lengths.clear();
  for (int64_t length : plain.lengths) AddSequence(Spaced(0, length), Spaced(0, length), &gathered);
  const AttentionTensors t = RandomTensors(plain, 34);
  const AttentionResult a = RunKernels(kernels(), plain, t);
  const AttentionResult b = RunKernels(kernels(), gathered, t);
  EXPECT_LE(MaxDifference(a.out, b.out), 2 * kAttentionF32 * MaxAbs(t.v));
  EXPECT_EQ(a.stats.tiles_dense, b.stats.tiles_dense);
  EXPECT_EQ(b.stats.tiles_computed, b.stats.tiles_dense);
}

// Only distances count, however large the numbers are.
TEST_P(AttentionGathered, ShiftedPositionsChangeNoBit) {
  AttentionCase c = OneHead(Uniform(200, 4000, 5), Uniform(500, 4000, 6), 0.05f);
  c.skip = SkipMode::kTolerance;
  const AttentionTensors t = RandomTensors(c, 35);
  const AttentionResult before = RunKernels(kernels(), c, t);
  for (int32_t& p : c.q_positions) p += 2147000000;
  for (int32_t& p : c.k_positions) p += 2147000000;
  const AttentionResult after = RunKernels(kernels(), c, t);
  EXPECT_EQ(before.out, after.out);
  EXPECT_EQ(before.stats.tiles_computed, after.stats.tiles_computed);
}

TEST_P(AttentionGathered, ExactChangesNoBit) {
  int64_t saved = 0;
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (AttentionCase& c : GatheredPatterns(emulated() ? 300 : 600)) {
      for (float score_scale : {0.1f, 2.0f, 30.0f}) {
        c.heads = 4;
        c.kv_heads = 2;
        c.slopes = {0.7f, 0.03f, 50.0f, 0.0f};
        c.storage = storage;
        c.skip = SkipMode::kDense;
        const AttentionTensors t = RandomTensors(c, 36, score_scale);
        const AttentionResult dense = RunKernels(kernels(), c, t);
        c.skip = SkipMode::kExact;
        const AttentionResult exact = RunKernels(kernels(), c, t);
        ASSERT_EQ(dense.error + exact.error, "");
        EXPECT_EQ(dense.out, exact.out);
        EXPECT_EQ(dense.stats.tiles_dense, exact.stats.tiles_dense);
        EXPECT_EQ(dense.stats.tiles_computed, dense.stats.tiles_dense);
        saved += dense.stats.tiles_computed - exact.stats.tiles_computed;
      }
    }
  }
  EXPECT_GT(saved, 0);
}

TEST_P(AttentionGathered, ManyShortSequences) {
  AttentionCase c;
  int64_t tiles = 0, with_queries = 0;
  for (int64_t s = 0; s < 300; ++s) {
    AddSequence(Uniform(s % 7, 40, s + 1), Uniform(s % 11 * (s % 3), 40, s + 2), &c);
    tiles += c.lengths.back() > 0 && c.key_lengths.back() > 0 ? 1 : 0;
    with_queries += c.lengths.back() > 0 ? 1 : 0;
  }
  c.heads = 4;
  c.kv_heads = 1;
  c.skip = SkipMode::kTolerance;
  CheckParity(c, DType::kF32, 40, "short sequences");
  const AttentionResult result = RunKernels(kernels(), c, RandomTensors(c, 40));
  EXPECT_EQ(result.stats.tiles_dense, 4 * tiles);
  EXPECT_EQ(result.stats.tiles_computed, 4 * tiles);
  EXPECT_GT(with_queries, tiles);
}

TEST_P(AttentionGathered, ResultDependsOnNeitherPartitionNorOtherSequences) {
  AttentionCase c;
  AddSequence(Uniform(40, 500, 9), Uniform(30, 500, 10), &c);
  AddSequence(Uniform(400, 6000, 11), Uniform(700, 6000, 12), &c);
  AddSequence({}, Uniform(100, 500, 13), &c);
  AddSequence(Uniform(130, 900, 14), Uniform(65, 900, 15), &c);
  c.heads = 4;
  c.kv_heads = 2;
  c.slopes = {0.5f, 0.05f, 0.0f, 3.0f};
  c.skip = SkipMode::kTolerance;
  const AttentionTensors t = RandomTensors(c, 41);
  const AttentionResult first = RunKernels(kernels(), c, t);
  const Partition partitions[] = {{1, 128, 3, false}, {1000, 100000, 2, true}, {65, 1, 4, true}};
  for (const Partition& partition : partitions) {
    const AttentionResult other = RunKernels(kernels(), c, t, partition);
    EXPECT_EQ(first.out, other.out);
    EXPECT_EQ(first.stats.tiles_computed, other.stats.tiles_computed);
  }
  AttentionCase alone = c;
  alone.lengths = alone.key_lengths = {};
  alone.q_positions = alone.k_positions = {};
  AddSequence(Uniform(400, 6000, 11), Uniform(700, 6000, 12), &alone);
  const auto slice = [&](const std::vector<float>& all, int64_t begin, int64_t rows,
                         int64_t heads) {
    const int64_t width = heads * c.dim;
    return std::vector<float>(all.begin() + begin * width, all.begin() + (begin + rows) * width);
  };
  const AttentionTensors part{slice(t.q, 40, 400, 4), slice(t.k, 30, 700, 2),
                              slice(t.v, 30, 700, 2)};
  EXPECT_EQ(RunKernels(kernels(), alone, part).out, slice(first.out, 40, 400, 4));
}

// A plan covers every row of every head once, whatever the counts, and orders by what is near.
TEST_P(AttentionGathered, PlanFollowsPositions) {
  AttentionCase c;
  AddSequence(Uniform(1000, 90000, 16), {5}, &c);
  AddSequence(Spaced(0, 2), Uniform(1000, 90000, 17), &c);
  AddSequence({}, Spaced(0, 5), &c);
  AddSequence(Spaced(7, 130), {}, &c);
  // Half of the queries stand among many keys, half among few.
  AddSequence(Join(Spaced(0, 256), Spaced(5000000, 256)),
              Join(Spaced(0, 6400), Spaced(4000000, 6400, 1000)), &c);
  const std::vector<float> slopes{0.05f, 0.05f};
  std::vector<int64_t> cu{0}, cu_k{0};
  for (int64_t n : c.lengths) cu.push_back(cu.back() + n);
  for (int64_t n : c.key_lengths) cu_k.push_back(cu_k.back() + n);
  AttentionProblem p;
  p.num_sequences = static_cast<int64_t>(c.lengths.size());
  p.cu_seqlens = cu.data();
  p.cu_seqlens_k = cu_k.data();
  p.q_positions = c.q_positions.data();
  p.k_positions = c.k_positions.data();
  p.num_heads = p.num_kv_heads = 2;
  p.slopes = slopes.data();
  p.skip = SkipMode::kTolerance;
  p.epsilon = 1e-3f;
  std::vector<std::vector<int>> covered(2, std::vector<int>(c.tokens()));
  double last = std::numeric_limits<double>::infinity(), among_many = 0, among_few = 0;
  for (const AttentionUnit& u : kernels().PlanUnits(p, 128)) {
    EXPECT_GT(u.cost, 0);
    EXPECT_LE(u.cost, last);
    last = u.cost;
    for (int32_t h = u.head_begin; h < u.head_end; ++h) {
      for (int64_t i = u.query_begin; i < u.query_end; ++i) ++covered[h][cu[u.sequence] + i];
    }
    if (u.sequence == 4 && u.query_begin == 0) among_many = u.cost;
    if (u.sequence == 4 && u.query_begin == 256) among_few = u.cost;
  }
  EXPECT_EQ(covered, std::vector<std::vector<int>>(2, std::vector<int>(c.tokens(), 1)));
  EXPECT_GE(among_many, 10);
  EXPECT_LE(among_few, 2);
}

TEST(AttentionGatheredLayout, BytesFollowTheKeys) {
  const std::vector<int64_t> cu{0, 100000, 100000}, cu_k{0, 65, 70};
  AttentionProblem p;
  p.num_sequences = 2;
  p.cu_seqlens = cu.data();
  p.num_heads = 4;
  p.num_kv_heads = 2;
  p.head_dim = 16;
  const int64_t all = AttentionBoundsBytes(p);
  p.cu_seqlens_k = cu_k.data();
  EXPECT_EQ(AttentionKvBytes(p), AttentionKvBytesUpperBound(70, 2, 2, 16, DType::kF32));
  // Two sums per key and head behind the records and norms.
  p.cu_seqlens = cu_k.data();
  p.cu_seqlens_k = nullptr;
  const int64_t plain = AttentionBoundsBytes(p);
  p.cu_seqlens_k = cu_k.data();
  EXPECT_EQ(AttentionBoundsBytes(p), plain + 70 * 4 * 2 * 4);
  EXPECT_LT(AttentionBoundsBytes(p), all);
  EXPECT_EQ(PositionSumsOffset(p, 1, 3) + 2 * 5, AttentionBoundsBytes(p) / 4);
  EXPECT_GE(PositionSumsOffset(p, 0, 0), BoundsNormOffset(p, 1, 1) + 2 * Blocks(5));
}

TEST(AttentionGatheredCheck, NamesWhatIsWrong) {
  const std::vector<int64_t> cu{0, 2, 5}, cu_k{0, 3, 4}, late{1, 3, 4}, back{0, 3, 2},
      none{0, 0, 0};
  const Positions q{4, 9, 0, 1, 2147483647}, k{0, 5, 6, 2}, twice{4, 4, 0, 1, 2},
      falling{0, 6, 5, 2};
  const Positions negative{-1, 5, 6, 2};
  const std::vector<float> slopes{0.5f};
  const std::vector<int64_t> offsets{0, 0, 0, 0};
  float memory[16];
  AttentionProblem good;
  good.num_sequences = 2;
  good.cu_seqlens = cu.data();
  good.cu_seqlens_k = cu_k.data();
  good.q_positions = q.data();
  good.k_positions = k.data();
  good.num_heads = good.num_kv_heads = 1;
  good.head_dim = 16;
  good.slopes = slopes.data();
  good.q = good.kv = good.bounds = memory;
  using P = AttentionProblem;
  const auto error = [&](auto change) {
    P p = good;
    change(p);
    return std::string(CheckAttentionProblem(p));
  };
  EXPECT_EQ(error([](P&) {}), "");
  EXPECT_NE(error([](P& p) { p.cu_seqlens_k = nullptr; }), "");
  EXPECT_NE(error([](P& p) { p.q_positions = nullptr; }), "");
  EXPECT_NE(error([](P& p) { p.k_positions = nullptr; }), "");
  EXPECT_NE(error([&](P& p) { p.cu_seqlens_k = late.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.cu_seqlens_k = back.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.q_positions = twice.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.k_positions = falling.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.k_positions = negative.data(); }), "");
  EXPECT_NE(error([](P& p) { p.mask.causal = true; }), "");
  EXPECT_NE(error([](P& p) { p.mask.window_radius = 0; }), "");
  EXPECT_NE(error([&](P& p) {
              p.mask.block_tokens = 64;
              p.mask.block_row_offsets = offsets.data();
            }),
            "");
  EXPECT_NE(error([](P& p) { p.kv = nullptr; }), "");
  // Nothing routed: there may be nothing to point at.
  EXPECT_EQ(error([&](P& p) {
              p.cu_seqlens = p.cu_seqlens_k = none.data();
              p.q_positions = p.k_positions = nullptr;
              p.q = p.kv = p.bounds = nullptr;
            }),
            "");
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionGathered, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
