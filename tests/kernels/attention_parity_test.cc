// Every instruction set x storage type x mask against the naive reference in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

struct MaskKind {
  const char* name;
  bool causal;
  int64_t radius;
  int64_t globals;
};

constexpr MaskKind kMasks[] = {
    {"full", false, -1, 0},          {"causal", true, -1, 0},
    {"window", false, 50, 0},        {"window_globals", false, 33, 5},
    {"window_zero", false, 0, 0},    {"window_zero_global", false, 0, 1},
    {"window_wide", false, 5000, 3}, {"causal_window", true, 70, 2},
    {"all_global", false, 4, 5000},
};

// Prints the worst error of a suite once, so that a log shows how much of a tolerance is used.
class WorstError {
 public:
  void Add(double error) { worst_ = std::max(worst_, error); }
  void Report(const std::string& what) const {
    ::testing::Test::RecordProperty(what, std::to_string(worst_));
    std::printf("[   WORST  ] %s: %.2e of max|v|\n", what.c_str(), worst_);
  }

 private:
  double worst_ = 0;
};

class AttentionParity : public ::testing::TestWithParam<std::tuple<const CpuKernels*, DType>> {
 protected:
  const CpuKernels& kernels() const { return *std::get<0>(GetParam()); }
  DType storage() const { return std::get<1>(GetParam()); }
  bool emulated() const { return Emulated(kernels()); }

  void Check(AttentionCase c, uint32_t seed, const std::string& what) {
    c.storage = storage();
    const AttentionTensors tensors = RandomTensors(c, seed, 2.0f);
    const AttentionResult result = RunKernels(kernels(), c, tensors);
    ASSERT_EQ(result.error, "") << what;
    const double scale = MaxAbs(tensors.v);
    const double error =
        scale == 0 ? 0 : MaxDifference(result.out, RunReference(c, tensors)) / scale;
    EXPECT_LE(error, AttentionTolerance(storage(), kernels().native_bf16)) << what;
    worst_.Add(error);
  }

  void TearDown() override { worst_.Report(kernels().name); }

  WorstError worst_;
};

TEST_P(AttentionParity, AwkwardLengthsUnderEveryMask) {
  for (const MaskKind& kind : kMasks) {
    AttentionCase c;
    c.lengths = {0, 1, 63, 64, 65, 0, 127, 128, 129, 5, 0};
    if (!emulated()) c.lengths.push_back(300);
    c.mask.causal = kind.causal;
    c.mask.window_radius = kind.radius;
    c.mask.num_global = kind.globals;
    Check(c, 1, kind.name);
  }
}

TEST_P(AttentionParity, LongSequenceUnderEveryMaskAndSkipMode) {
  for (const MaskKind& kind : kMasks) {
    for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact}) {
      AttentionCase c;
      c.lengths = {emulated() ? 390 : 1000};
      c.heads = 3;
      c.kv_heads = 1;
      c.slopes = {0.0f, 0.4f, 3.0f};
      c.skip = skip;
      c.mask.causal = kind.causal;
      c.mask.window_radius = kind.radius;
      c.mask.num_global = kind.globals;
      Check(c, 2, kind.name);
    }
  }
}

TEST_P(AttentionParity, HeadDimsAndGroupedHeads) {
  for (int32_t dim : {16, 32, 48, 64, 80, 96, 112, 128, 256}) {
    AttentionCase c;
    c.lengths = {70, 150};
    c.heads = 4;
    c.kv_heads = dim == 32 ? 4 : dim == 64 ? 2 : 1;
    c.dim = dim;
    Check(c, 3, "dim " + std::to_string(dim));
  }
}

TEST_P(AttentionParity, TwelveHeads) {
  AttentionCase c;
  c.lengths = {200};
  c.heads = 12;
  c.kv_heads = 12;
  c.dim = 64;
  Check(c, 4, "twelve heads");
}

TEST_P(AttentionParity, OneLongAndManyShort) {
  AttentionCase c;
  for (int i = 0; i < 40; ++i) c.lengths.push_back(i % 7 + (i % 3) * 11);
  c.lengths.insert(c.lengths.begin() + 20, emulated() ? 300 : 777);
  c.heads = 2;
  c.kv_heads = 1;
  c.dim = 32;
  c.skip = SkipMode::kExact;
  Check(c, 5, "mixed");
}

TEST_P(AttentionParity, SteepAndShallowSlopes) {
  AttentionCase c;
  c.lengths = {emulated() ? 300 : 600};
  c.heads = 4;
  c.kv_heads = 2;
  c.slopes = {0.0f, 1e-6f, 20.0f, 1e6f};
  c.skip = SkipMode::kExact;
  Check(c, 6, "slopes");
}

TEST_P(AttentionParity, BlockLists) {
  // Two sequences; blocks of 64, 128 and 192 tokens (192 straddles the query blocks of 128). Row r
  // sees itself, a far block and, for odd r, nothing near: rows without the diagonal are legal.
  for (int64_t block : {64, 128, 192}) {
    AttentionCase c;
    c.lengths = {500, 100};
    std::vector<int64_t> offsets{0};
    std::vector<int32_t> columns;
    for (int64_t length : c.lengths) {
      const int64_t blocks = CeilDiv(length, block);
      for (int64_t r = 0; r < blocks; ++r) {
        for (int64_t j = 0; j < blocks; ++j) {
          if ((r % 2 == 0 && j == r) || (j * 3 + r) % 4 == 1) {
            columns.push_back(static_cast<int32_t>(j));
          }
        }
        offsets.push_back(static_cast<int64_t>(columns.size()));
      }
    }
    c.mask.block_tokens = block;
    c.mask.block_row_offsets = offsets.data();
    c.mask.block_columns = columns.data();
    for (bool causal : {false, true}) {
      c.mask.causal = causal;
      Check(c, 7, "list of " + std::to_string(block));
      c.skip = SkipMode::kExact;
      Check(c, 8, "list of " + std::to_string(block) + " exact");
      c.skip = SkipMode::kDense;
    }
  }
}

TEST_P(AttentionParity, EmptyBlockListGivesZero) {
  AttentionCase c;
  c.lengths = {130};
  c.storage = storage();
  const std::vector<int64_t> offsets{0, 0, 0, 0};
  c.mask.block_tokens = 64;
  c.mask.block_row_offsets = offsets.data();
  const AttentionResult result = RunKernels(kernels(), c, RandomTensors(c, 9));
  ASSERT_EQ(result.error, "");
  EXPECT_EQ(MaxAbs(result.out), 0.0);
  EXPECT_EQ(result.stats.tiles_computed, 0);
}

std::string ParamName(const ::testing::TestParamInfo<std::tuple<const CpuKernels*, DType>>& info) {
  std::string name = std::get<0>(info.param)->name;
  name += std::get<1>(info.param) == DType::kF32 ? "_f32" : "_bf16";
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionParity,
                         ::testing::Combine(::testing::ValuesIn(AllTables()),
                                            ::testing::Values(DType::kF32, DType::kBF16)),
                         ParamName);

}  // namespace
}  // namespace longdoc::kernels::testing
