// RMS normalisation with router scores, soft top-k routing and scatter-add of every table.
#include "kernels/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class Routing : public TableTest {};

struct NormCase {
  int64_t rows = 7, dim = 33;
  bool gather = false, scaled = false;
  int routers = 0;
};

struct NormResult {
  std::vector<float> out;
  std::vector<float> scores[2];
};

template <class Function>
NormResult RunRmsNorm(const NormCase& c, const Function& function) {
  const int64_t source_rows = c.rows + 5, stride = c.dim + 3;
  const std::vector<float> x = RandomFloats(source_rows * stride, 1, 2.0f, 0.5f);
  const std::vector<float> gamma = RandomFloats(c.dim, 2), scale = RandomFloats(c.rows, 3);
  const std::vector<float> routers[2] = {RandomFloats(c.dim, 4), RandomFloats(c.dim, 5)};
  std::vector<int32_t> indices(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) {
    indices[r] = static_cast<int32_t>((r * 5 + 3) % source_rows);
  }
  NormResult result;
  result.out.assign(c.rows * c.dim, -7.0f);
  RmsNormArgs args;
  args.rows = c.rows;
  args.dim = c.dim;
  args.x = x.data();
  args.x_stride = stride;
  args.indices = c.gather ? indices.data() : nullptr;
  args.gamma = gamma.data();
  args.epsilon = 1e-6f;
  args.row_scale = c.scaled ? scale.data() : nullptr;
  args.out = result.out.data();
  args.num_routers = c.routers;
  for (int s = 0; s < c.routers; ++s) {
    result.scores[s].resize(c.rows);
    args.routers[s] = routers[s].data();
    args.scores[s] = result.scores[s].data();
  }
  function(args);

  // The scores alone are the same; so is a rounded copy.
  NormResult alone = result;
  RmsNormArgs scores_only = args;
  scores_only.out = nullptr;
  for (int s = 0; s < c.routers; ++s) scores_only.scores[s] = alone.scores[s].data();
  function(scores_only);
  for (int s = 0; s < c.routers; ++s) EXPECT_EQ(alone.scores[s], result.scores[s]);
  std::vector<uint16_t> bf16(c.rows * c.dim);
  args.out_type = DType::kBF16;
  args.out = bf16.data();
  function(args);
  for (size_t i = 0; i < bf16.size(); ++i) {
    EXPECT_EQ(FromBf16(bf16[i]), RoundTo(DType::kBF16, result.out[i]));
  }
  return result;
}

TEST_P(Routing, RmsNorm) {
  for (int64_t rows : {0, 1, 6, 9}) {
    for (int64_t dim : {1, 7, 16, 33, 512, 1023}) {
      for (int variant = 0; variant < 12; ++variant) {
        NormCase c;
        c.rows = rows;
        c.dim = dim;
        c.gather = (variant & 1) != 0;
        c.scaled = (variant & 2) != 0;
        c.routers = variant / 4;
        const NormResult expected = RunRmsNorm(c, reference::RmsNorm);
        const NormResult result = RunRmsNorm(c, kernels().RmsNorm);
        for (size_t i = 0; i < expected.out.size(); ++i) {
          ASSERT_NEAR(result.out[i], expected.out[i], kRmsNorm * std::abs(expected.out[i]));
        }
        for (int s = 0; s < c.routers; ++s) {
          // A sum of dim terms of about 1: relative to its size without cancellation.
          EXPECT_LE(MaxDifference(result.scores[s], expected.scores[s]),
                    kRmsNorm * static_cast<double>(dim));
        }
      }
    }
  }
}

TEST_P(Routing, RmsNormInPlace) {
  const int64_t rows = 5, dim = 70;
  std::vector<float> x = RandomFloats(rows * dim, 6), out(rows * dim);
  const std::vector<float> gamma = RandomFloats(dim, 7);
  RmsNormArgs args;
  args.rows = rows;
  args.dim = args.x_stride = dim;
  args.x = x.data();
  args.gamma = gamma.data();
  args.out = out.data();
  kernels().RmsNorm(args);
  args.out = x.data();
  kernels().RmsNorm(args);
  EXPECT_EQ(x, out);
}

TEST_P(Routing, ScatterAdd) {
  for (int64_t dim : {1, 16, 77}) {
    for (int variant = 0; variant < 4; ++variant) {
      const int64_t rows = 6, out_rows = 11;
      const std::vector<float> in = RandomFloats(rows * dim, 8), scale = RandomFloats(rows, 9);
      const std::vector<int32_t> indices{10, 0, 3, 4, 7, 1};
      const std::vector<float> before = RandomFloats(out_rows * dim, 10);
      ScatterAddArgs args;
      args.rows = rows;
      args.dim = dim;
      args.indices = (variant & 1) != 0 ? indices.data() : nullptr;
      args.row_scale = (variant & 2) != 0 ? scale.data() : nullptr;
      args.in = in.data();
      std::vector<float> expected = before, out = before;
      args.out = expected.data();
      reference::ScatterAdd(args);
      args.out = out.data();
      kernels().ScatterAdd(args);
      EXPECT_LE(MaxDifference(out, expected), 1e-6);
      EXPECT_NE(expected, before);
      args.rows = 0;
      const std::vector<float> after = out;
      kernels().ScatterAdd(args);
      EXPECT_EQ(out, after);
    }
  }
}

struct Routed {
  std::vector<int32_t> indices;
  std::vector<float> weights;
};

template <class Function>
Routed RunRoute(const std::vector<float>& scores, int64_t k, const Function& function) {
  const int64_t n = static_cast<int64_t>(scores.size());
  const Buffer scratch(RouteScratchBytes(n), 0xff);
  const Buffer indices(k * static_cast<int64_t>(sizeof(int32_t)), 0xff);
  const Buffer weights(k * static_cast<int64_t>(sizeof(float)), 0xff);
  RouteArgs args;
  args.n = n;
  args.k = k;
  args.scores = scores.data();
  args.indices = static_cast<int32_t*>(indices.get());
  args.weights = static_cast<float*>(weights.get());
  args.scratch = scratch.get();
  function(args);
  EXPECT_TRUE(scratch.GuardIntact() && indices.GuardIntact() && weights.GuardIntact());
  return {std::vector<int32_t>(args.indices, args.indices + k),
          std::vector<float>(args.weights, args.weights + k)};
}

// Against the naive definition, and bit for bit the same as the portable table.
void ExpectRouted(const CpuKernels& kernels, const std::vector<float>& scores, int64_t k) {
  const Routed expected = RunRoute(scores, k, reference::Route);
  const Routed result = RunRoute(scores, k, kernels.Route);
  ASSERT_EQ(result.indices, expected.indices);
  for (int64_t r = 0; r < k; ++r) {
    ASSERT_NEAR(result.weights[r], expected.weights[r], kSoftTopK * expected.weights[r] + 1e-37)
        << "entry " << r << " score " << scores[result.indices[r]];
  }
  const Routed portable = RunRoute(scores, k, GetCpuKernels(CpuIsa::kPortable)->Route);
  EXPECT_EQ(portable.indices, result.indices);
  EXPECT_EQ(portable.weights, result.weights);
}

TEST_P(Routing, RandomScores) {
  for (int64_t n : {1, 2, 3, 5, 64, 1000, 4099}) {
    for (float spread : {0.0f, 0.01f, 1.0f, 5.0f, 40.0f, 1e4f, 1e30f}) {
      const std::vector<float> scores = RandomFloats(n, static_cast<uint32_t>(n), spread, -0.3f);
      for (int64_t k : {int64_t{0}, int64_t{1}, n / 16, n / 8, n / 2, n - 1, n}) {
        SCOPED_TRACE(::testing::Message() << "n " << n << " k " << k << " spread " << spread);
        ExpectRouted(kernels(), scores, k);
      }
    }
  }
}

TEST_P(Routing, HundredThousandScores) {
  const std::vector<float> scores = RandomFloats(100000, 11, 2.0f);
  for (int64_t k : {6250, 12500}) ExpectRouted(kernels(), scores, k);
}

TEST_P(Routing, TiesGoToTheLowerIndex) {
  std::vector<float> scores(50, 1.5f);
  for (int64_t k : {0, 1, 7, 49, 50}) {
    const Routed all = RunRoute(scores, k, kernels().Route);
    for (int64_t r = 0; r < k; ++r) {
      EXPECT_EQ(all.indices[r], r);
      EXPECT_FLOAT_EQ(all.weights[r], static_cast<float>(k) / 50);
    }
  }
  scores[30] = 4.0f;
  scores[3] = -4.0f;
  ExpectRouted(kernels(), scores, 4);
  EXPECT_EQ(RunRoute(scores, 4, kernels().Route).indices, (std::vector<int32_t>{0, 1, 2, 30}));
  ExpectRouted(kernels(), scores, 49);
  // Few distinct values, so that the pivot is always a tie.
  std::mt19937 generator(12);
  std::vector<float> coarse(3001);
  for (float& x : coarse) x = static_cast<float>(generator() % 7) - 3.0f;
  for (int64_t k : {1, 400, 1500, 3000}) ExpectRouted(kernels(), coarse, k);
}

TEST_P(Routing, ZerosOfEitherSignTie) {
  const std::vector<float> scores{-0.0f, -1.0f, 0.0f, -0.0f, 0.0f, -2.0f};
  const Routed routed = RunRoute(scores, 3, kernels().Route);
  EXPECT_EQ(routed.indices, (std::vector<int32_t>{0, 2, 3}));
  EXPECT_EQ(routed.weights[0], routed.weights[1]);
  ExpectRouted(kernels(), scores, 3);
}

TEST_P(Routing, ExtremeScores) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float huge = std::numeric_limits<float>::max();
  std::vector<float> denormal(100);
  for (size_t i = 0; i < denormal.size(); ++i) {
    denormal[i] = tiny * static_cast<float>((i * 37) % 100) * (i % 2 == 0 ? 1.0f : -1.0f);
  }
  for (int64_t k : {1, 10, 99}) ExpectRouted(kernels(), denormal, k);
  // Half far above the rest: with k beyond that half, all of it is clipped and the rest share.
  std::vector<float> halves(64);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = i % 2 == 0 ? 1e4f : -1e4f;
  for (int64_t k : {1, 31, 32, 33, 48, 63}) ExpectRouted(kernels(), halves, k);
  const std::vector<float> ends{huge, -huge, 0.0f, tiny, -tiny, huge, -huge, 1.0f};
  for (int64_t k = 0; k <= 8; ++k) ExpectRouted(kernels(), ends, k);
  // Every step of the solution clips one more.
  std::vector<float> stairs(40);
  for (size_t i = 0; i < stairs.size(); ++i) stairs[i] = -static_cast<float>(i) * 1.7f;
  for (int64_t k : {1, 5, 39}) ExpectRouted(kernels(), stairs, k);
}

TEST_P(Routing, NanRanksLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores{nan, -1e30f, -nan, 2.0f, nan, 1.0f};
  const Routed three = RunRoute(scores, 3, kernels().Route);
  EXPECT_EQ(three.indices, (std::vector<int32_t>{1, 3, 5}));
  EXPECT_EQ(three.weights, (std::vector<float>{1, 1, 1}));
  const Routed five = RunRoute(scores, 5, kernels().Route);
  EXPECT_EQ(five.indices, (std::vector<int32_t>{0, 1, 2, 3, 5}));
  EXPECT_EQ(five.weights, (std::vector<float>{0, 1, 0, 1, 1}));
  for (int64_t k = 0; k <= 6; ++k) ExpectRouted(kernels(), scores, k);
  const std::vector<float> none(5, nan);
  EXPECT_EQ(RunRoute(none, 2, kernels().Route).indices, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(RunRoute(none, 2, kernels().Route).weights, (std::vector<float>{0, 0}));
}

// What the weights mean, without the reference: with t from the smallest weight, the clipped
// exponentials of all scores add up to k.
TEST_P(Routing, WeightsOfAllTokensAddUpToK) {
  for (float spread : {0.5f, 3.0f, 10.0f}) {
    const int64_t n = 20000, k = 1250;
    const std::vector<float> scores = RandomFloats(n, 13, spread);
    const Routed routed = RunRoute(scores, k, kernels().Route);
    const auto least = std::min_element(routed.weights.begin(), routed.weights.end());
    const double t = std::log(static_cast<double>(*least)) -
                     scores[routed.indices[least - routed.weights.begin()]];
    double sum = 0;
    for (float score : scores) sum += std::min(1.0, std::exp(score + t));
    EXPECT_NEAR(sum, k, 1e-6 * k) << spread;
    EXPECT_TRUE(std::is_sorted(routed.indices.begin(), routed.indices.end()));
  }
}

// The algorithm of the CoLT5 paper, appendix C, at epsilon 1 and 50 iterations.
std::vector<double> IterativeSoftTopK(const std::vector<float>& scores, int64_t k) {
  const size_t n = scores.size();
  std::vector<double> b(n);
  for (size_t i = 0; i < n; ++i) b[i] = -static_cast<double>(scores[i]);
  double a = 0;
  for (int iteration = 0; iteration < 50; ++iteration) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(scores[i] + b[i]);
    a = std::log(static_cast<double>(k)) - std::log(sum);
    for (size_t i = 0; i < n; ++i) b[i] = -std::max(scores[i] + a, 0.0);
  }
  std::vector<double> weights(n);
  for (size_t i = 0; i < n; ++i) weights[i] = std::exp(scores[i] + a + b[i]);
  return weights;
}

TEST_P(Routing, AgreesWithTheIterativeAlgorithm) {
  for (float spread : {0.5f, 1.0f, 3.0f}) {
    const int64_t n = 4096, k = 288;
    const std::vector<float> scores = RandomFloats(n, 14, spread);
    const std::vector<double> expected = IterativeSoftTopK(scores, k);
    const Routed routed = RunRoute(scores, k, kernels().Route);
    double worst = 0;
    for (int64_t r = 0; r < k; ++r) {
      worst = std::max(worst, std::abs(routed.weights[r] - expected[routed.indices[r]]));
    }
    EXPECT_LE(worst, 2e-6) << spread;
  }
}

// The same from PyTorch in float64: exact form and iterative algorithm, special cases.
TEST_P(Routing, AgreesWithTheGoldenTable) {
  std::ifstream file(std::string(LONGDOC_SOURCE_DIR) + "/tests/golden/colt5/soft_topk.json");
  const nlohmann::json table = nlohmann::json::parse(file);
  ASSERT_GE(table["cases"].size(), 10u);
  for (const nlohmann::json& golden : table["cases"]) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const std::vector<float> scores = golden["scores"].get<std::vector<float>>();
    const std::vector<double> weights = golden["weights"].get<std::vector<double>>();
    const std::vector<double> iterative = golden["iterative"].get<std::vector<double>>();
    const double iterative_error = golden["iterative_error"].get<double>();
    const int64_t k = golden["k"].get<int64_t>();
    const Routed routed = RunRoute(scores, k, kernels().Route);
    for (int64_t r = 0; r < k; ++r) {
      const int32_t i = routed.indices[r];
      EXPECT_NEAR(routed.weights[r], weights[i], kSoftTopK * weights[i] + 1e-12);
      EXPECT_NEAR(routed.weights[r], iterative[i], iterative_error + kSoftTopK);
    }
    ExpectRouted(kernels(), scores, k);
  }
}

INSTANTIATE_TEST_SUITE_P(Tables, Routing, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
