// The plain encoder against PyTorch: it calibrates models, and it vouches for the goldens.
#include "engine/model/plain_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/model/encoder_weights.h"
#include "tests/support/golden_model.h"

namespace longdoc {
namespace {

using testing::GoldenCase;
using testing::GoldenModel;

std::vector<float> Mean(const std::vector<float>& hidden, int64_t c, int64_t begin, int64_t end) {
  std::vector<double> sum(static_cast<size_t>(c));
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t i = 0; i < c; ++i)
      sum[static_cast<size_t>(i)] += hidden[static_cast<size_t>(t * c + i)];
  }
  std::vector<float> mean;
  for (double s : sum) mean.push_back(static_cast<float>(s / static_cast<double>(end - begin)));
  return mean;
}

// Largest difference over all vectors of one case.
double MaxError(const EncoderCheckpoint& model, const GoldenCase& golden) {
  PlainEncoder encoder(model.config, model.weights, golden.ids);
  for (int64_t l = 0; l < model.config.num_layers; ++l) {
    encoder.ProjectLayer(l);
    encoder.FinishLayer(l);
  }
  double worst = 0;
  for (size_t r = 0; r < golden.ranges.size(); ++r) {
    const auto [begin, end] = golden.ranges[r];
    const std::vector<float> got = Mean(encoder.hidden(), model.config.hidden_size, begin, end);
    for (size_t i = 0; i < got.size(); ++i) {
      const double error = std::abs(got[i] - golden.vectors[r][i]);
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
  }
  return worst;
}

class PlainEncoderGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(PlainEncoderGolden, AgreesWithPyTorch) {
  const GoldenModel golden = testing::LoadGoldenModel(GetParam());
  const std::string dir = testing::MakeTempDir("golden");
  testing::WriteGoldenModel(golden.name, dir);
  auto model = LoadEncoderCheckpoint(dir);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config.family, golden.config.family);
  ASSERT_EQ(golden.cases.size(), 5u);
  for (const GoldenCase& one : golden.cases) {
    if (one.ids.size() > 1000) continue;  // the engine's own tests run the long ones
    EXPECT_LE(MaxError(*model, one), 2e-5) << one.ids.size() << " tokens";
  }
  std::filesystem::remove_all(dir);
}

TEST(PlainEncoderGolden, AgreesWithPyTorchOnThreeThousandTokens) {
  const GoldenModel golden = testing::LoadGoldenModel("a_h8_c512");
  const std::string dir = testing::MakeTempDir("golden");
  testing::WriteGoldenModel(golden.name, dir);
  auto model = LoadEncoderCheckpoint(dir);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(golden.cases.back().ids.size(), 3000u);
  EXPECT_LE(MaxError(*model, golden.cases.back()), 2e-5);
  std::filesystem::remove_all(dir);
}

INSTANTIATE_TEST_SUITE_P(Models, PlainEncoderGolden,
                         ::testing::ValuesIn(testing::GoldenModelNames()),
                         [](const auto& info) { return info.param; });

TEST(PlainMath, ExpAndErfAgreeWithTheLibrary) {
  for (double x = -700; x < 700; x += 0.37) {
    EXPECT_NEAR(PlainExp(x) / std::exp(x), 1, 1e-13) << x;
  }
  EXPECT_EQ(PlainExp(-1000), 0);
  EXPECT_EQ(PlainExp(0), 1);
  for (double x = -7; x < 7; x += 0.0137) EXPECT_NEAR(PlainErf(x), std::erf(x), 1e-14) << x;
  EXPECT_EQ(PlainErf(0), 0);
}

}  // namespace
}  // namespace longdoc
