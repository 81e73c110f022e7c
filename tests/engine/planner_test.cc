// Predictions must cover what is really allocated.
#include "engine/planner.h"

#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

TEST(Planner, PredictedBytesCoverTheAllocatedOnes) {
  for (ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    EngineOptions options;
    options.compute_type = compute;
    std::unique_ptr<Engine> engine = testing::MakeEngine(options);
    for (const std::string name : {"a_h12_c384", "b_h12_c192"}) {
      const auto model = testing::LoadGolden(*engine, name);
      for (int64_t n : {1, 2, 63, 64, 65, 300, 1000, 2500}) {
        EncodeTask task = testing::MakeTask(model, testing::SomeIds(n, 1));
        absl::StatusOr<EncodeResult> result = EncodeAndWait(*engine, std::move(task));
        ASSERT_TRUE(result.ok()) << result.status();
        absl::StatusOr<EncodePlan> plan = engine->Plan(*model, {.tokens = n, .num_vectors = 1});
        ASSERT_TRUE(plan.ok());
        EXPECT_GE(plan->peak_bytes, result->stats.peak_bytes) << name << " " << n;
        if (n >= 1000) {
          EXPECT_LE(plan->peak_bytes, 1.1 * result->stats.peak_bytes) << name << " " << n;
        }
        EXPECT_EQ(result->stats.planned_bytes, plan->peak_bytes);
      }
    }
  }
}

TEST(Planner, GrowsLinearlyAndRefusesNonsense) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = testing::LoadGolden(*engine, "a_h12_c384");
  const int64_t ten = engine->Plan(*model, {.tokens = 100000, .num_vectors = 0})->activation_bytes;
  const int64_t hundred =
      engine->Plan(*model, {.tokens = 1000000, .num_vectors = 0})->activation_bytes;
  EXPECT_NEAR(static_cast<double>(hundred) / ten, 10, 0.1);
  EXPECT_LT(engine->Plan(*model, {.tokens = 1000000, .num_vectors = 0})->expected_tile_fraction,
            0.02);
  EXPECT_FALSE(engine->Plan(*model, {.tokens = 0, .num_vectors = 0}).ok());
  EXPECT_FALSE(engine->Plan(*model, {.tokens = -5, .num_vectors = 0}).ok());
  EXPECT_FALSE(
      engine->Plan(*model, {.tokens = std::numeric_limits<int64_t>::max(), .num_vectors = 0}).ok());
}

}  // namespace
}  // namespace longdoc
