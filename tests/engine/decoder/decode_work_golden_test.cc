// The whole way: encode, keep the keys and values, score and continue, against PyTorch.

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/decoder/decode_tasks.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/encode_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::GenerateAndWait;
using testing::Ids;
using testing::MakeScore;
using testing::Scored;

struct Variant {
  std::string name, device;
  ComputeType compute;
  DType storage;
  double bound;
};

class DecodeGolden : public ::testing::TestWithParam<std::tuple<std::string, Variant>> {};

TEST_P(DecodeGolden, LikelihoodsAndTextAgreeWithPyTorch) {
  const auto& [name, variant] = GetParam();
  const testing::GoldenColt5 golden = testing::LoadGoldenColt5(name);
  EngineOptions options;
  options.device = variant.device;
  options.compute_type = variant.compute;
  const auto engine = testing::MakeEngine(options);
  const std::string dir = testing::MakeTempDir(name);
  testing::WriteGoldenColt5(name, dir);
  const auto model = engine->LoadModel(name, dir);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const testing::GoldenColt5Case& c : golden.cases) {
    if (variant.device == "reference" && c.ids.size() > 300) continue;
    SCOPED_TRACE(std::to_string(c.ids.size()) + " tokens");
    EncodeTask encode = testing::MakeTask(*model, c.ids);
    encode.want_cross_kv = true;
    encode.cross_kv_type = variant.storage;
    encode.attention.epsilon = 1e-6f;
    const auto encoded = EncodeAndWait(*engine, std::move(encode));
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    std::vector<Ids> candidates;
    for (const auto& candidate : c.candidates) candidates.push_back(candidate.ids);
    auto out = std::make_shared<Scored>();
    ASSERT_TRUE(engine->Submit(MakeScore(*model, encoded->cross_kv, candidates, out)).ok());
    ASSERT_TRUE(out->Wait().ok());
    for (size_t i = 0; i < candidates.size(); ++i) {
      const double worst =
          testing::MaxAbsDifference(out->at(i).log_probs, c.candidates[i].log_probs);
      EXPECT_LE(worst, variant.bound) << i;
      EXPECT_GE(testing::Cosine(out->at(i).log_probs, c.candidates[i].log_probs), 0.999) << i;
    }
    if (variant.bound > 1e-3) continue;  // a token's lead may be smaller
    GenerateTask generate;
    generate.model = *model;
    generate.document = encoded->cross_kv;
    generate.prompt = c.prompt;
    generate.max_new_tokens = static_cast<int64_t>(c.continuation.size());
    const auto text = GenerateAndWait(*engine, std::move(generate));
    ASSERT_TRUE(text.ok()) << text.status();
    // The golden text does not end at [SEP].
    Ids want = c.continuation;
    want.erase(std::find(want.begin(), want.end(), golden.sep), want.end());
    EXPECT_EQ(text->tokens, want);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, DecodeGolden,
    ::testing::Combine(
        ::testing::Values("routed", "all", "none", "long"),
        ::testing::Values(Variant{"reference", "reference", ComputeType::kF32, DType::kF32, 1e-4},
                          Variant{"f32", "cpu", ComputeType::kF32, DType::kF32, 1e-4},
                          Variant{"f32_kept_in_bf16", "cpu", ComputeType::kF32, DType::kBF16, 0.05},
                          Variant{"bf16", "cpu", ComputeType::kBF16, DType::kBF16, 0.5})),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param).name; });

}  // namespace
}  // namespace longdoc
