// Distributions, truncation and determinism of the sampler.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "engine/base/error_reason.h"
#include "gtest/gtest.h"
#include "tests/kernels/cuda/sample_oracle.h"

namespace longdoc {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> Draw(const SamplingOptions& options, const std::vector<float>& logits,
                          int count, float scale = 1) {
  Sampler sampler(options);
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<SampledToken> token = sampler.Next(logits, scale);
    EXPECT_TRUE(token.ok()) << token.status();
    ids.push_back(token->id);
  }
  return ids;
}

SamplingOptions Options(float temperature, int32_t top_k = 0, float top_p = 1, uint64_t seed = 1) {
  return {temperature, top_k, top_p, seed};
}

// Pearson's statistic of draws against probabilities; `expected` of 0 must never be drawn.
double ChiSquare(const std::vector<int32_t>& draws, const std::vector<double>& expected) {
  std::vector<double> counts(expected.size());
  for (const int32_t id : draws) counts[id] += 1;
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double want = expected[i] * static_cast<double>(draws.size());
    if (want == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
    } else {
      sum += (counts[i] - want) * (counts[i] - want) / want;
    }
  }
  return sum;
}

const std::vector<double> kProbabilities = {0.4, 0.25, 0.15, 0.1, 0.06, 0.04};

// Logits in an order that is not that of the probabilities: token i has kProbabilities[kPlace[i]].
const std::vector<int32_t> kPlace = {3, 0, 5, 2, 1, 4};

std::vector<float> Logits(double temperature, float scale) {
  std::vector<float> logits;
  for (const int32_t place : kPlace) {
    logits.push_back(static_cast<float>(std::log(kProbabilities[place]) * temperature) / scale + 3);
  }
  return logits;
}

std::vector<double> Expected(size_t kept) {
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += kProbabilities[i];
  std::vector<double> expected;
  for (const int32_t place : kPlace) {
    expected.push_back(place < static_cast<int32_t>(kept) ? kProbabilities[place] / sum : 0);
  }
  return expected;
}

// 99.9 % quantiles of chi-square with 1 … 5 degrees of freedom. The draws are fixed: the test
// cannot fail by chance.
constexpr double kQuantile[] = {0, 10.83, 13.82, 16.27, 18.47, 20.52};

TEST(Sampler, FollowsTheDistribution) {
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    for (uint64_t seed : {0, 1, 12345}) {
      const auto draws =
          Draw(Options(temperature, 0, 1, seed), Logits(temperature, 0.125f), 20000, 0.125f);
      EXPECT_LT(ChiSquare(draws, Expected(6)), kQuantile[5]) << temperature << " " << seed;
    }
  }
}

TEST(Sampler, TopKKeepsTheMostLikelyAndTheirProportions) {
  for (int32_t k = 1; k <= 6; ++k) {
    const auto draws = Draw(Options(1, k), Logits(1, 1), 20000);
    EXPECT_LE(ChiSquare(draws, Expected(k)), kQuantile[k - 1]) << k;
  }
  EXPECT_EQ(Draw(Options(1, 0), Logits(1, 1), 100), Draw(Options(1, 6), Logits(1, 1), 100));
  EXPECT_EQ(Draw(Options(1, 0), Logits(1, 1), 100), Draw(Options(1, 1000), Logits(1, 1), 100));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  const struct {
    float p;
    size_t kept;
  } kCases[] = {{0, 1},     {1e-6f, 1}, {0.39f, 1}, {0.41f, 2}, {0.64f, 2},
                {0.66f, 3}, {0.89f, 4}, {0.95f, 5}, {0.97f, 6}, {1, 6}};
  for (const auto& c : kCases) {
    const auto draws = Draw(Options(1, 0, c.p), Logits(1, 1), 20000);
    EXPECT_LE(ChiSquare(draws, Expected(c.kept)), kQuantile[c.kept - 1]) << c.p;
  }
}

TEST(Sampler, TopPCountsWhatTopKLeft) {
  // Of the three most likely, 0.4, 0.25 and 0.15, the first has exactly half.
  EXPECT_LE(ChiSquare(Draw(Options(1, 3, 0.49f), Logits(1, 1), 5000), Expected(1)), kQuantile[0]);
  EXPECT_LE(ChiSquare(Draw(Options(1, 3, 0.51f), Logits(1, 1), 5000), Expected(2)), kQuantile[1]);
}

// Large enough for the sorting in steps to take several.
TEST(Sampler, TopPOverAFlatVocabulary) {
  std::vector<float> logits(1000, 0.5f);
  const auto draws = Draw(Options(1, 0, 0.5f), logits, 4000);
  EXPECT_EQ(*std::max_element(draws.begin(), draws.end()), 499);  // ties: lower ids stay
  EXPECT_GT(std::set<int32_t>(draws.begin(), draws.end()).size(), 450u);
}

TEST(Sampler, GreedyAndItsLimits) {
  const std::vector<float> logits = {1, 3, 2, 3, 3};
  for (const SamplingOptions& options :
       {Options(0), Options(0, 3, 0.5f, 9), Options(1, 1), Options(1, 0, 0), Options(100, 1, 0.9f),
        Options(1, 0, 1e-30f), Options(1e-6f, 1)}) {
    EXPECT_EQ(Draw(options, logits, 20), std::vector<int32_t>(20, 1));
  }
  // A temperature near 0 divides into the ties.
  for (const int32_t id : Draw(Options(1e-30f), logits, 50)) EXPECT_TRUE(id == 1 || id >= 3) << id;
  EXPECT_EQ(Draw(Options(1), {5}, 3), std::vector<int32_t>(3, 0));
}

TEST(Sampler, TiesThatScalingMakesAreNone) {
  // Equal once multiplied, but the second is more likely.
  const std::vector<float> logits = {1, std::nextafter(1.0f, 2.0f)};
  const float scale = 1e-44f;
  EXPECT_EQ(Draw(Options(0), logits, 1, scale)[0], 1);
  EXPECT_EQ(Draw(Options(1, 1), logits, 5, scale), std::vector<int32_t>(5, 1));
}

TEST(Sampler, TheSeedDecides) {
  std::vector<float> logits(50, 0);
  const auto draws = Draw(Options(1, 0, 1, 7), logits, 40);
  EXPECT_EQ(draws, Draw(Options(1, 0, 1, 7), logits, 40));
  EXPECT_NE(draws, Draw(Options(1, 0, 1, 8), logits, 40));
  EXPECT_NE(draws, Draw(Options(1, 0, 1, 7 + 0x9e3779b97f4a7c15u), logits, 40));
}

TEST(Sampler, LogProbabilityIsTheModels) {
  for (const SamplingOptions& options : {Options(0), Options(2, 2, 0.9f)}) {
    Sampler sampler(options);
    absl::StatusOr<SampledToken> token = sampler.Next(Logits(1, 0.5f), 0.5f);
    ASSERT_TRUE(token.ok());
    EXPECT_NEAR(token->log_prob, std::log(kProbabilities[kPlace[token->id]]), 1e-5);
  }
}

TEST(Sampler, UniformDrawsAreUniform) {
  for (uint64_t seed : {uint64_t{0}, ~uint64_t{0}}) {
    std::vector<int32_t> bins;
    double sum = 0;
    for (uint64_t i = 0; i < 20000; ++i) {
      const double u = UniformDraw(seed, i);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      sum += u;
      bins.push_back(static_cast<int32_t>(u * 6));
    }
    EXPECT_NEAR(sum / 20000, 0.5, 0.01);
    EXPECT_LT(ChiSquare(bins, std::vector<double>(6, 1.0 / 6)), kQuantile[5]);
  }
}

TEST(Sampler, LogitsThatAreNotFiniteAreAnError) {
  for (const auto& logits : std::vector<std::vector<float>>{
           {kNan, 1}, {1, kNan}, {std::numeric_limits<float>::infinity(), 1}}) {
    Sampler sampler(Options(1));
    EXPECT_EQ(sampler.Next(logits, 1).status().code(), absl::StatusCode::kInternal);
  }
}

// What the device's sampling is compared with says the same as this sampler: random logits, and few
// different values, so that ties are decided.
TEST(Sampler, AgreesWithTheOracleOfTheDevice) {
  namespace parity = kernels::cuda::parity;
  std::mt19937 generator(17);
  std::normal_distribution<float> normal(0, 3);
  int compared = 0;
  for (const size_t size : {1, 5, 300}) {
    for (const bool ties : {false, true}) {
      std::vector<float> logits(size);
      for (float& x : logits) x = ties ? std::round(normal(generator)) : normal(generator);
      for (const float temperature : {0.0f, 0.4f, 1.0f, 5.0f}) {
        for (const int32_t top_k : {0, 1, 3, 40}) {
          for (const float top_p : {0.0f, 0.3f, 0.95f, 1.0f}) {
            const SamplingOptions options = Options(temperature, top_k, top_p, 5);
            Sampler sampler(options);
            for (uint64_t i = 0; i < 20; ++i) {
              const absl::StatusOr<SampledToken> token = sampler.Next(logits, 0.7f);
              const parity::OracleToken expected = parity::OracleSample(
                  logits.data(), static_cast<int64_t>(size), {0.7f, temperature, top_k, top_p},
                  UniformDraw(options.seed, i));
              ASSERT_TRUE(token.ok()) << token.status();
              if (expected.margin < 1e-11) continue;
              EXPECT_EQ(token->id, expected.id)
                  << size << " tokens, ties " << ties << ", temperature " << temperature
                  << ", top_k " << top_k << ", top_p " << top_p << ", margin " << expected.margin;
              EXPECT_EQ(token->log_prob, expected.log_prob);
              ++compared;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(compared, 7000);  // of 7680
}

TEST(Sampler, OptionsOutOfRange) {
  EXPECT_TRUE(CheckSamplingOptions(Options(0)).ok());
  EXPECT_TRUE(CheckSamplingOptions(Options(100, 1 << 30, 0)).ok());
  for (const SamplingOptions& bad :
       {Options(-0.1f), Options(kNan), Options(101), Options(1, -1), Options(1, 0, -0.1f),
        Options(1, 0, 1.1f), Options(1, 0, kNan)}) {
    const absl::Status status = CheckSamplingOptions(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(status), "INVALID_SAMPLING");
  }
}

}  // namespace
}  // namespace longdoc
