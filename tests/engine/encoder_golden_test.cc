// The whole encoder against an independent float64 PyTorch implementation (tests/golden).
#include <string>

#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using testing::GoldenCase;
using testing::GoldenModel;

struct Variant {
  std::string name;
  std::string device;
  ComputeType compute;
  AttentionMode mode;
};

EncodeResult Encode(Engine& engine, const std::shared_ptr<const Model>& model,
                    const GoldenCase& golden, AttentionMode mode) {
  EncodeTask task = testing::MakeTask(model, golden.ids);
  task.attention.mode = mode;
  task.attention.epsilon = 1e-6f;
  for (const auto& [begin, end] : golden.ranges) task.spans.push_back({begin, end});
  absl::StatusOr<EncodeResult> result = EncodeAndWait(engine, std::move(task));
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

void Compare(const Variant& variant, const GoldenModel& golden, const GoldenCase& c,
             const EncodeResult& result) {
  const size_t dim = static_cast<size_t>(golden.config.hidden_size);
  for (size_t i = 0; i < c.ranges.size(); ++i) {
    SCOPED_TRACE(golden.name + ", " + variant.name + ", " + std::to_string(c.ids.size()) +
                 " tokens, range " + std::to_string(i));
    const absl::Span<const float> got(result.passages.data() + i * dim, dim);
    if (variant.compute == ComputeType::kBF16) {
      EXPECT_GE(testing::Cosine(got, c.vectors[i]), 0.9995);
    } else {
      EXPECT_LE(testing::MaxAbsDifference(got, c.vectors[i]), 1e-4);
    }
  }
  EXPECT_LE(
      testing::MaxAbsDifference(result.document, absl::MakeConstSpan(result.passages.data(), dim)),
      1e-6);
}

class EncoderGolden : public ::testing::TestWithParam<std::tuple<std::string, Variant>> {};

TEST_P(EncoderGolden, AgreesWithPyTorch) {
  const auto& [name, variant] = GetParam();
  const GoldenModel golden = testing::LoadGoldenModel(name);
  EngineOptions options;
  options.device = variant.device;
  options.compute_type = variant.compute;
  std::unique_ptr<Engine> engine = testing::MakeEngine(options);
  const std::shared_ptr<const Model> model = testing::LoadGolden(*engine, name);
  for (const GoldenCase& c : golden.cases) {
    // The reference is quadratic in plain loops.
    if (variant.device == "reference" && c.ids.size() > 300) continue;
    Compare(variant, golden, c, Encode(*engine, model, c, variant.mode));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, EncoderGolden,
    ::testing::Combine(
        ::testing::ValuesIn(testing::GoldenModelNames()),
        ::testing::Values(
            Variant{"reference", "reference", ComputeType::kF32, AttentionMode::kDense},
            Variant{"f32_dense", "cpu", ComputeType::kF32, AttentionMode::kDense},
            Variant{"f32_exact", "cpu", ComputeType::kF32, AttentionMode::kExact},
            Variant{"f32_tolerance", "cpu", ComputeType::kF32, AttentionMode::kTolerance},
            Variant{"bf16_tolerance", "cpu", ComputeType::kBF16, AttentionMode::kTolerance})),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param).name; });

TEST(EncoderGolden, ExactEqualsDenseBitForBit) {
  const GoldenModel golden = testing::LoadGoldenModel("a_h8_c512");
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const std::shared_ptr<const Model> model = testing::LoadGolden(*engine, golden.name);
  const GoldenCase& c = golden.cases.back();
  const EncodeResult dense = Encode(*engine, model, c, AttentionMode::kDense);
  const EncodeResult exact = Encode(*engine, model, c, AttentionMode::kExact);
  EXPECT_EQ(dense.passages, exact.passages);
  EXPECT_LT(exact.stats.tiles_computed, dense.stats.tiles_computed);
}

}  // namespace
}  // namespace longdoc
