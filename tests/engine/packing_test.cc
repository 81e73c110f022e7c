// What shares a pass, how it is cut into steps and on how many threads must not matter.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

struct Text {
  std::vector<int32_t> ids;
  std::vector<TokenSpan> spans;
};

std::vector<Text> MixedTexts() {
  std::vector<Text> texts;
  uint32_t seed = 1;
  for (int64_t n :
       {1, 2, 3, 16, 31, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 300, 511, 700}) {
    texts.push_back({testing::SomeIds(n, seed++), {{0, n}, {n / 2, n}}});
  }
  return texts;
}

EncodeTask TaskOf(const std::shared_ptr<const Model>& model, const Text& text) {
  EncodeTask task = testing::MakeTask(model, text.ids);
  task.spans = text.spans;
  return task;
}

EncodeResult Alone(Engine& engine, const std::shared_ptr<const Model>& model, const Text& text) {
  absl::StatusOr<EncodeResult> result = EncodeAndWait(engine, TaskOf(model, text));
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

TEST(Packing, ChangesNoResult) {
  for (const std::string name : {"a_h12_c384", "b_h12_c192"}) {
    EngineOptions options;
    options.compute_type = ComputeType::kF32;
    std::unique_ptr<Engine> engine = testing::MakeEngine(options);
    const auto model = testing::LoadGolden(*engine, name);
    const std::vector<Text> texts = MixedTexts();
    std::vector<EncodeTask> tasks;
    for (const Text& text : texts) tasks.push_back(TaskOf(model, text));
    const std::vector<EncodeResult> packed = testing::EncodeTogether(*engine, std::move(tasks));
    int64_t largest_batch = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      SCOPED_TRACE(name + ", " + std::to_string(texts[i].ids.size()) + " tokens");
      const EncodeResult alone = Alone(*engine, model, texts[i]);
      EXPECT_LE(testing::MaxAbsDifference(packed[i].document, alone.document), 1e-5);
      EXPECT_LE(testing::MaxAbsDifference(packed[i].passages, alone.passages), 1e-5);
      EXPECT_EQ(packed[i].stats.tiles_computed, alone.stats.tiles_computed);
      EXPECT_EQ(packed[i].stats.tokens, alone.stats.tokens);
      largest_batch = std::max(largest_batch, packed[i].stats.batch_sequences);
    }
    EXPECT_GT(largest_batch, 3) << "nothing was packed: the test shows nothing";
  }
}

TEST(Packing, ThreadCountAndRepetitionChangeNoBit) {
  const std::vector<int32_t> ids = testing::SomeIds(1500, 7);
  std::vector<float> first;
  for (int threads : {1, 2, 3, 2}) {
    EngineOptions options;
    options.num_threads = threads;
    std::unique_ptr<Engine> engine = testing::MakeEngine(options);
    const auto model = testing::LoadGolden(*engine, "a_h12_c384");
    const EncodeResult result = Alone(*engine, model, {ids, {{3, 999}}});
    if (first.empty()) first = result.document;
    EXPECT_EQ(first, result.document) << threads << " threads";
  }
}

TEST(Packing, TokenVectorsPoolToTheDocument) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = testing::LoadGolden(*engine, "a_h12_c384");
  const int64_t dim = model->info().dimensions, n = 333;
  EncodeTask task = testing::MakeTask(model, testing::SomeIds(n, 3));
  task.want_token_vectors = true;
  absl::StatusOr<EncodeResult> result = EncodeAndWait(*engine, std::move(task));
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<float> mean(dim);
  for (int64_t c = 0; c < dim; ++c) {
    double sum = 0;
    for (int64_t t = 0; t < n; ++t) sum += result->token_vectors[t * dim + c];
    mean[c] = static_cast<float>(sum / n);
  }
  EXPECT_LE(testing::MaxAbsDifference(mean, result->document), 1e-6);
  // Token vectors keep their memory, and only theirs, until they are let go.
  EXPECT_EQ(engine->stats().allocated_bytes, n * dim * 4);
  EXPECT_EQ(engine->stats().reserved_bytes, n * dim * 4);
  result->token_owner.reset();
  EXPECT_EQ(engine->stats().allocated_bytes, 0);
  EXPECT_EQ(engine->stats().reserved_bytes, 0);
}

}  // namespace
}  // namespace longdoc
