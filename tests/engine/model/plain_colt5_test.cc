// longdoc-CoLT5 in plain loops against its definition in PyTorch: it calibrates models, and it
// vouches for the goldens.
#include "engine/model/plain_colt5.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/support/colt5_golden.h"
#include "tests/support/golden_model.h"

namespace longdoc {
namespace {

using testing::GoldenColt5;
using testing::GoldenColt5Case;

double MaxError(const float* got, const std::vector<float>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]);
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  return worst;
}

void ExpectRouting(const PlainRouting& got, const testing::GoldenRouting& want,
                   const char* router) {
  EXPECT_EQ(got.indices, want.indices) << router;
  ASSERT_EQ(got.weights.size(), want.weights.size()) << router;
  EXPECT_LE(MaxError(got.weights.data(), want.weights), 1e-5) << router;
}

// Mean over the range, and the projection if there is one.
std::vector<float> SpanVector(const Colt5Config& config, const Colt5Weights& weights,
                              const std::vector<float>& states, int64_t begin, int64_t end) {
  const int64_t c = config.hidden_size;
  std::vector<float> mean;
  for (int64_t i = 0; i < c; ++i) {
    double sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += states[static_cast<size_t>(t * c + i)];
    mean.push_back(static_cast<float>(sum / static_cast<double>(end - begin)));
  }
  return config.output_size > 0 ? Linear(mean, 1, weights.output) : mean;
}

std::vector<float> CheckEncoder(const Colt5Checkpoint& model, const GoldenColt5Case& golden) {
  const int64_t c = model.config.hidden_size;
  PlainColt5Encoder encoder(model.config, model.weights, golden.ids);
  for (int64_t l = 0; l < model.config.num_layers; ++l) {
    SCOPED_TRACE(absl::StrCat("layer ", l));
    encoder.RunLayer(l);
    const testing::GoldenColt5Layer& want = golden.layers[static_cast<size_t>(l)];
    ExpectRouting(encoder.query_routing(), want.query, "query");
    ExpectRouting(encoder.kv_routing(), want.kv, "kv");
    ExpectRouting(encoder.ff_routing(), want.ff, "ff");
  }
  const std::vector<float> states = encoder.States();
  for (size_t r = 0; r < golden.rows.size(); ++r) {
    EXPECT_LE(MaxError(states.data() + golden.rows[r] * c, golden.states[r]), 2e-5)
        << "state of token " << golden.rows[r];
  }
  for (size_t r = 0; r < golden.ranges.size(); ++r) {
    const auto [begin, end] = golden.ranges[r];
    const std::vector<float> got = SpanVector(model.config, model.weights, states, begin, end);
    EXPECT_LE(MaxError(got.data(), golden.vectors[r]), 2e-5) << "range " << r;
  }
  return states;
}

// log p of every target after [CLS] and what precedes it; checks cross keys and values on the way.
void CheckCandidate(const Colt5Checkpoint& model, const GoldenColt5& set,
                    const GoldenColt5Case& golden, const std::vector<float>& states,
                    const testing::GoldenCandidate& candidate) {
  std::vector<int32_t> inputs = {set.cls}, targets = candidate.ids;
  inputs.insert(inputs.end(), candidate.ids.begin(), candidate.ids.end());
  targets.push_back(set.sep);
  PlainColt5Decoder decoder(model.config, model.weights, states, inputs);
  const int64_t d = model.config.head_dim;
  for (int64_t l = 0; l < model.config.decoder_layers; ++l) {
    decoder.RunLayer(l);
    const testing::GoldenCrossKv& cross = golden.cross[static_cast<size_t>(l)];
    for (size_t r = 0; r < golden.rows.size(); ++r) {
      EXPECT_LE(MaxError(decoder.keys().data() + golden.rows[r] * d, cross.keys[r]), 2e-5);
      EXPECT_LE(MaxError(decoder.values().data() + golden.rows[r] * d, cross.values[r]), 2e-5);
    }
  }
  for (size_t t = 0; t < targets.size(); ++t) {
    EXPECT_NEAR(decoder.LogProb(static_cast<int64_t>(t), targets[t]), candidate.log_probs[t], 5e-5)
        << "target " << t << " of " << targets.size();
  }
}

class PlainColt5Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(PlainColt5Golden, AgreesWithPyTorch) {
  const GoldenColt5 set = testing::LoadGoldenColt5(GetParam());
  const std::string dir = testing::MakeTempDir("golden");
  testing::WriteGoldenColt5(set.name, dir);
  const auto model = LoadColt5Checkpoint(dir);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const GoldenColt5Case& golden : set.cases) {
    SCOPED_TRACE(absl::StrCat(golden.ids.size(), " tokens"));
    const std::vector<float> states = CheckEncoder(*model, golden);
    EXPECT_EQ(golden.candidates.empty(), model->config.decoder_layers == 0);
    for (const testing::GoldenCandidate& candidate : golden.candidates) {
      CheckCandidate(*model, set, golden, states, candidate);
    }
  }
  std::filesystem::remove_all(dir);
}

INSTANTIATE_TEST_SUITE_P(Models, PlainColt5Golden, ::testing::ValuesIn(testing::GoldenColt5Names()),
                         [](const auto& info) { return info.param; });

// The table that the exact solution and the published iteration were written to.
TEST(PlainRoute, AgreesWithTheTable) {
  std::ifstream in(absl::StrCat(LONGDOC_SOURCE_DIR, "/tests/golden/colt5/soft_topk.json"));
  const auto table = nlohmann::json::parse(in);
  int published = 0;
  for (const auto& entry : table["cases"]) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const auto scores = entry["scores"].get<std::vector<double>>();
    const auto want = entry["weights"].get<std::vector<double>>();
    const auto iterative = entry["iterative"].get<std::vector<double>>();
    const PlainRouting got = PlainRoute(scores, entry["k"].get<int64_t>());
    ASSERT_EQ(got.indices.size(), entry["k"].get<size_t>());
    // Where fifty iterations have converged, they give the same weights.
    const bool converged = entry["iterative_error"].get<double>() < 1e-4;
    published += converged;
    double lowest = HUGE_VAL;
    for (size_t r = 0; r < got.indices.size(); ++r) {
      const size_t i = static_cast<size_t>(got.indices[r]);
      if (r > 0) {
        EXPECT_GT(got.indices[r], got.indices[r - 1]);
      }
      lowest = std::min(lowest, scores[i]);
      EXPECT_NEAR(got.weights[r], want[i], 1e-6);
      if (converged) {
        EXPECT_NEAR(got.weights[r], iterative[i], 1e-4);
      }
    }
    for (size_t i = 0, r = 0; i < scores.size(); ++i) {
      if (r < got.indices.size() && got.indices[r] == static_cast<int32_t>(i)) {
        ++r;
      } else {
        EXPECT_LE(scores[i], lowest);
      }
    }
  }
  EXPECT_GE(published, 10);
}

TEST(PlainRoute, TiesGoToTheLowerIndex) {
  const PlainRouting got = PlainRoute({1, 2, 1, 2, 1, 0}, 3);
  EXPECT_EQ(got.indices, (std::vector<int32_t>{0, 1, 3}));
}

// What a query may not see must not move it, wherever the rows are cut.
TEST(PlainAttend, RadiusAndCausalityHideKeys) {
  const int64_t n = 70, d = 16;
  std::vector<float> q, k, v;
  for (int64_t i = 0; i < n * d; ++i) {
    q.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(i))));
    k.push_back(static_cast<float>(std::cos(1.3 * static_cast<double>(i))));
    v.push_back(static_cast<float>(std::sin(2.9 * static_cast<double>(i))));
  }
  const std::vector<float> slopes = {0.125f};
  PlainAttention attention;
  attention.heads = attention.kv_heads = 1;
  attention.head_dim = d;
  attention.slopes = &slopes;
  for (const bool causal : {false, true}) {
    attention.causal = causal;
    attention.radius = causal ? -1 : 5;
    const std::vector<float> before = Attend(attention, q, n, k, v, n);
    std::vector<float> changed = v;
    changed[30 * d] += 100;  // key 30
    const std::vector<float> after = Attend(attention, q, n, k, changed, n);
    for (int64_t i = 0; i < n; ++i) {
      const bool sees = causal ? i >= 30 : std::abs(i - 30) <= 5;
      EXPECT_EQ(before[static_cast<size_t>(i * d)] != after[static_cast<size_t>(i * d)], sees)
          << i << (causal ? " causal" : " local");
    }
  }
}

}  // namespace
}  // namespace longdoc
