// What the attention calls promise beside numbers: independence, plans, sizes, 64-bit offsets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/layout.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class AttentionContract : public TableTest {};

AttentionCase MixedCase(DType storage) {
  AttentionCase c;
  c.lengths = {3, 700, 0, 64, 129, 31};
  c.heads = 4;
  c.kv_heads = 2;
  c.slopes = {0.5f, 0.05f, 0.0f, 3.0f};
  c.skip = SkipMode::kTolerance;
  c.storage = storage;
  return c;
}

TEST_P(AttentionContract, ResultDependsOnNeitherThreadsNorPartition) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    const AttentionCase c = MixedCase(storage);
    const AttentionTensors t = RandomTensors(c, 21);
    const AttentionResult first = RunKernels(kernels(), c, t);
    const Partition partitions[] = {
        {37, 256, 1, false}, {1, 128, 3, false}, {1000, 100000, 2, true}, {65, 1, 4, true}};
    for (const Partition& partition : partitions) {
      const AttentionResult other = RunKernels(kernels(), c, t, partition);
      EXPECT_EQ(first.out, other.out);
      EXPECT_EQ(first.stats.tiles_computed, other.stats.tiles_computed);
      EXPECT_EQ(first.stats.tiles_dense, other.stats.tiles_dense);
      EXPECT_EQ(first.stats.max_bound, other.stats.max_bound);
    }
  }
}

TEST_P(AttentionContract, ResultDoesNotDependOnTheOtherSequences) {
  const AttentionCase c = MixedCase(DType::kF32);
  const AttentionTensors t = RandomTensors(c, 22);
  const AttentionResult packed = RunKernels(kernels(), c, t);
  int64_t begin = 0;
  for (int64_t length : c.lengths) {
    AttentionCase alone = c;
    alone.lengths = {length};
    auto slice = [&](const std::vector<float>& all, int64_t heads) {
      const int64_t width = heads * c.dim;
      return std::vector<float>(all.begin() + begin * width,
                                all.begin() + (begin + length) * width);
    };
    AttentionTensors part{slice(t.q, c.heads), slice(t.k, c.kv_heads), slice(t.v, c.kv_heads)};
    EXPECT_EQ(RunKernels(kernels(), alone, part).out, slice(packed.out, c.heads));
    begin += length;
  }
}

TEST_P(AttentionContract, PlanCoversEveryRowOfEveryHeadOnce) {
  AttentionProblem p;
  const std::vector<int64_t> cu{0, 0, 5, 261, 518, 1000518};
  const std::vector<float> slopes = DefaultSlopes(4);
  p.num_sequences = 5;
  p.cu_seqlens = cu.data();
  p.num_heads = 4;
  p.num_kv_heads = 1;
  p.head_dim = 64;
  p.slopes = slopes.data();
  for (SkipMode skip : {SkipMode::kDense, SkipMode::kTolerance}) {
    p.skip = skip;
    p.epsilon = 1e-4f;
    for (int64_t rows : {1, 128, 1000, 10000000}) {
      std::map<std::pair<int64_t, int32_t>, std::vector<std::pair<int64_t, int64_t>>> covered;
      double last_cost = std::numeric_limits<double>::infinity();
      for (const AttentionUnit& u : kernels().PlanUnits(p, rows)) {
        EXPECT_LE(u.cost, last_cost);
        EXPECT_GT(u.cost, 0);
        last_cost = u.cost;
        EXPECT_EQ(u.query_begin % kQueryBlock, 0);
        if (u.head_end - u.head_begin == 1) {
          EXPECT_LE(u.query_end - u.query_begin, RoundUp(rows, kQueryBlock));
        }
        for (int32_t h = u.head_begin; h < u.head_end; ++h) {
          covered[{u.sequence, h}].push_back({u.query_begin, u.query_end});
        }
      }
      EXPECT_EQ(covered.size(), 4u * 4u);
      for (auto& [key, ranges] : covered) {
        std::sort(ranges.begin(), ranges.end());
        int64_t next = 0;
        for (const auto& [begin, end] : ranges) {
          EXPECT_EQ(begin, next);
          next = end;
        }
        EXPECT_EQ(next, cu[key.first + 1] - cu[key.first]);
      }
    }
  }
}

TEST_P(AttentionContract, PredictedCostIsTheDenseTileCount) {
  AttentionCase c;
  c.lengths = {1000, 100};
  c.heads = c.kv_heads = 3;
  for (bool causal : {false, true}) {
    c.mask.causal = causal;
    const AttentionResult result = RunKernels(kernels(), c, RandomTensors(c, 23));
    AttentionProblem p;
    const std::vector<int64_t> cu{0, 1000, 1100};
    const std::vector<float> slopes = DefaultSlopes(3);
    p.num_sequences = 2;
    p.cu_seqlens = cu.data();
    p.num_heads = p.num_kv_heads = 3;
    p.slopes = slopes.data();
    p.mask.causal = causal;
    double cost = 0;
    for (const AttentionUnit& u : kernels().PlanUnits(p, 256)) cost += u.cost;
    EXPECT_EQ(static_cast<int64_t>(cost), result.stats.tiles_dense);
  }
}

// More than 46,341² pairs: tile numbers and distances must not be 32-bit products anywhere.
TEST_P(AttentionContract, HundredThousandTokens) {
  if (emulated()) GTEST_SKIP();
  AttentionCase c;
  c.lengths = {100003};
  c.heads = c.kv_heads = 1;
  c.slopes = {1.0f};
  c.skip = SkipMode::kExact;
  const AttentionTensors t = RandomTensors(c, 24);
  const AttentionResult result = RunKernels(kernels(), c, t);
  EXPECT_EQ(result.stats.tiles_dense, int64_t{782} * 1563);
  EXPECT_LT(result.stats.tiles_computed, result.stats.tiles_dense / 50);
  // A few rows against a local sum in double; keys farther than 400 weigh less than e^-300.
  for (int64_t i : {0, 1, 46341, 65536, 99999, 100002}) {
    const int64_t low = std::max<int64_t>(0, i - 400), high = std::min<int64_t>(100002, i + 400);
    AttentionCase local = c;
    local.lengths = {high - low + 1};
    auto slice = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + low * c.dim, all.begin() + (high + 1) * c.dim);
    };
    const std::vector<float> expected = RunReference(local, {slice(t.q), slice(t.k), slice(t.v)});
    for (int d = 0; d < c.dim; ++d) {
      EXPECT_NEAR(result.out[i * c.dim + d], expected[(i - low) * c.dim + d], 4 * kAttentionF32);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionContract, ::testing::ValuesIn(AllTables()), TableName);

TEST(AttentionLayout, OffsetsAreDistinctAndWithinTheBuffer) {
  // Every slot is used at most once, for lengths around the block size.
  const std::vector<int64_t> lengths{0, 1, 63, 64, 65, 0, 127, 128, 129, 1000, 1, 1, 1, 0};
  std::vector<int64_t> cu{0};
  for (int64_t length : lengths) cu.push_back(cu.back() + length);
  AttentionProblem p;
  p.num_sequences = static_cast<int64_t>(lengths.size());
  p.cu_seqlens = cu.data();
  p.num_heads = 6;
  p.num_kv_heads = 3;
  p.head_dim = 16;
  const int64_t elements = AttentionKvBytes(p) / 4, block = BlockElements(16);
  std::vector<char> used(elements / block, 0);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    for (int64_t h = 0; h < 3; ++h) {
      for (int64_t b = 0; b < Blocks(lengths[s]); ++b) {
        const int64_t offset = KvBlockOffset(p, s, h, b);
        ASSERT_EQ(offset % block, 0);
        ASSERT_LT(offset / block, static_cast<int64_t>(used.size()));
        EXPECT_EQ(used[offset / block]++, 0);
      }
      EXPECT_LE((BoundsNormOffset(p, s, h) + 2 * Blocks(lengths[s])) * 4, AttentionBoundsBytes(p));
    }
  }
  EXPECT_LE(AttentionKvBytes(p), AttentionKvBytesUpperBound(cu.back(), 14, 3, 16, DType::kF32));
}

TEST(AttentionLayout, OffsetsBeyondTwoGigabytes) {
  // 3,000,000 tokens of 12 heads of 64: 18 GB of keys and values, nothing is allocated here.
  const std::vector<int64_t> cu{0, 1000, 3001000};
  AttentionProblem p;
  p.num_sequences = 2;
  p.cu_seqlens = cu.data();
  p.num_heads = p.num_kv_heads = 12;
  p.head_dim = 64;
  const int64_t blocks = Blocks(3000000);
  EXPECT_EQ(blocks, 46875);
  // Slots: floor(1000/64) + 1 = 16 before the second sequence.
  EXPECT_EQ(KvBlockOffset(p, 1, 11, 46874), (int64_t{16} * 12 + 11 * blocks + 46874) * 8192);
  EXPECT_GT(KvBlockOffset(p, 1, 11, 46874), int64_t{1} << 32);
  EXPECT_EQ(AttentionKvBytes(p), (3001000 / 64 + int64_t{2}) * 12 * 8192 * 4);
  EXPECT_GT(AttentionKvBytes(p), int64_t{17} << 30);
  EXPECT_GT(BoundsNormOffset(p, 1, 11), BoundsNormOffset(p, 1, 10));
  p.storage = DType::kBF16;
  EXPECT_EQ(AttentionKvBytes(p), (3001000 / 64 + int64_t{2}) * 12 * 8192 * 2);
}

TEST(AttentionSkipDistance, ClosedForm) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(SkipDistance(SkipMode::kDense, 1.0f, 1.0f, 1e-3f), kNever);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 0.0f, 1.0f, 0), kNever);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1.0f, infinity, 0), kNever);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1.0f, std::nanf(""), 0), kNever);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1e-30f, 1.0f, 0), kNever);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 0.5f, 10.0f, 0), 215);  // (20 + 87.4) / 0.5
  // kernels.md's table of one-sided windows, B = 20, epsilon = 1e-3: slopes 2^-1 .. 2^-8.
  const int64_t windows[] = {96, 191, 381, 762, 1524, 3047, 6093, 12186};
  for (int h = 0; h < 8; ++h) {
    const double exact = (40 + std::log(2000.0)) * std::exp2(h + 1);
    EXPECT_EQ(SkipDistance(SkipMode::kTolerance, std::exp2(-1.0f - h), 20.0f, 1e-3f),
              static_cast<int64_t>(std::ceil(exact)));
    EXPECT_NEAR(exact, windows[h], 1.0 + 0.001 * windows[h]);
  }
  // A tiny epsilon never asks for more than exactness does.
  EXPECT_EQ(SkipDistance(SkipMode::kTolerance, 0.5f, 10.0f, 1e-44f), 215);
}

// Checks one broken field of an otherwise sound problem.
TEST(AttentionCheck, NamesWhatIsWrong) {
  const std::vector<int64_t> cu{0, 10, 200};
  const std::vector<int64_t> descending{0, 10, 5}, late{1, 2, 3};
  const std::vector<float> slopes{0.5f, 0.25f}, negative{0.5f, -1.0f}, nan{0.5f, std::nanf("")};
  std::vector<float> memory(16);
  const std::vector<int64_t> rows{0, 1, 2, 3, 4}, rows_back{0, 1, 0, 3, 4};
  const std::vector<int32_t> columns{0, 0, 1, 2}, columns_far{1, 0, 1, 2};
  AttentionProblem good;
  good.num_sequences = 2;
  good.cu_seqlens = cu.data();
  good.num_heads = 2;
  good.num_kv_heads = 1;
  good.head_dim = 64;
  good.scale = 0.125f;
  good.slopes = slopes.data();
  good.q = good.kv = good.bounds = memory.data();
  EXPECT_STREQ(CheckAttentionProblem(good), "");
  auto error = [&](auto change) {
    AttentionProblem p = good;
    change(p);
    return std::string(CheckAttentionProblem(p));
  };
  using P = AttentionProblem;
  EXPECT_NE(error([](P& p) { p.num_sequences = -1; }), "");
  EXPECT_NE(error([](P& p) { p.cu_seqlens = nullptr; }), "");
  EXPECT_NE(error([&](P& p) { p.cu_seqlens = descending.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.cu_seqlens = late.data(); }), "");
  EXPECT_NE(error([](P& p) { p.num_heads = 0; }), "");
  EXPECT_NE(error([](P& p) { p.num_heads = 3, p.num_kv_heads = 2; }), "");
  EXPECT_NE(error([](P& p) { p.num_kv_heads = 0; }), "");
  EXPECT_NE(error([](P& p) { p.head_dim = 24; }), "");
  EXPECT_NE(error([](P& p) { p.head_dim = 272; }), "");
  EXPECT_NE(error([](P& p) { p.scale = std::nanf(""); }), "");
  EXPECT_NE(error([](P& p) { p.slopes = nullptr; }), "");
  EXPECT_NE(error([&](P& p) { p.slopes = negative.data(); }), "");
  EXPECT_NE(error([&](P& p) { p.slopes = nan.data(); }), "");
  EXPECT_NE(error([](P& p) { p.storage = DType::kF16; }), "");
  EXPECT_NE(error([](P& p) { p.skip = SkipMode::kTolerance, p.epsilon = 0; }), "");
  EXPECT_NE(error([](P& p) { p.skip = SkipMode::kTolerance, p.epsilon = 1; }), "");
  EXPECT_NE(error([](P& p) { p.q = nullptr; }), "");
  EXPECT_NE(error([](P& p) { p.mask.num_global = -1; }), "");
  // Lists: 10 and 190 tokens in blocks of 64 are 1 + 3 rows.
  auto listed = [&](const std::vector<int64_t>& r, const std::vector<int32_t>& col) {
    return [&](P& p) {
      p.mask.block_tokens = 64;
      p.mask.block_row_offsets = r.data();
      p.mask.block_columns = col.data();
    };
  };
  EXPECT_EQ(error(listed(rows, columns)), "");
  EXPECT_NE(error(listed(rows_back, columns)), "");
  EXPECT_NE(error(listed(rows, columns_far)), "");
  EXPECT_NE(error([&](P& p) {
              listed(rows, columns)(p);
              p.mask.window_radius = 3;
            }),
            "");
  EXPECT_NE(error([&](P& p) {
              listed(rows, columns)(p);
              p.mask.block_tokens = 96;
            }),
            "");
}

}  // namespace
}  // namespace longdoc::kernels::testing
