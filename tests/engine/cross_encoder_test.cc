// A reranker's head against float64 PyTorch (tests/golden), and pairs of texts through the engine.
#include "engine/cross_encoder.h"

#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "engine/base/error_reason.h"
#include "engine/text/byte_level.h"
#include "gmock/gmock.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::GoldenCase;
using testing::GoldenModel;

constexpr char kReranker[] = "a_h12_c384";

// tokenizer.json of RoBERTa's kind without merges: five special tokens and the 256 bytes.
std::string ByteTokenizerJson() {
  json vocab = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}, {"<mask>", 4}};
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendByteLevel(std::string(1, static_cast<char>(byte)), &token);
    vocab[token] = 5 + byte;
  }
  return json{{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
              {"post_processor",
               {{"type", "RobertaProcessing"}, {"cls", {"<s>", 0}}, {"sep", {"</s>", 2}}}},
              {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}}
      .dump();
}

// The golden model, as a classifier's checkpoint has it, with our tokenizer or with BERT's.
std::shared_ptr<const Model> LoadReranker(Engine& engine, bool byte_level,
                                          const std::string& name = kReranker) {
  const std::string dir = testing::MakeTempDir("reranker");
  testing::WriteGoldenModel(name, dir, "bert.");
  if (byte_level) std::ofstream(dir + "/tokenizer.json") << ByteTokenizerJson();
  auto model = engine.LoadModel("reranker", dir);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

double LogitOf(Engine& engine, const std::shared_ptr<const Model>& model, std::vector<int32_t> ids,
               AttentionMode mode) {
  EncodeTask task = testing::MakeTask(model, std::move(ids));
  task.attention.mode = mode;
  task.attention.epsilon = 1e-6f;
  task.spans = {{0, 1}};
  const absl::StatusOr<EncodeResult> result = EncodeAndWait(engine, std::move(task));
  EXPECT_TRUE(result.ok()) << result.status();
  return model->cross_encoder()->Logit(result->passages);
}

TEST(CrossEncoderGolden, LogitsAgreeWithPyTorch) {
  const GoldenModel golden = testing::LoadGoldenModel(kReranker);
  ASSERT_EQ(golden.config.num_labels, 1);
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    EngineOptions options;
    options.compute_type = compute;
    const std::unique_ptr<Engine> engine = testing::MakeEngine(options);
    const std::shared_ptr<const Model> model = LoadReranker(*engine, /*byte_level=*/false);
    ASSERT_NE(model->cross_encoder(), nullptr);
    for (const GoldenCase& c : golden.cases) {
      for (const AttentionMode mode : {AttentionMode::kDense, AttentionMode::kTolerance}) {
        // A logit sums 384 hidden units: bf16's rounding of the states shows in its second digit.
        EXPECT_NEAR(LogitOf(*engine, model, c.ids, mode), c.logit,
                    compute == ComputeType::kF32 ? 1e-4 : 0.15)
            << c.ids.size() << " tokens";
      }
    }
  }
}

TEST(CrossEncoder, OnlyRerankersWithPairsCan) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto reranker = LoadReranker(*engine, /*byte_level=*/true);
  EXPECT_TRUE(reranker->info().can_cross_encode);
  // Pooler and classifier are counted.
  const GoldenModel golden = testing::LoadGoldenModel(kReranker);
  EncoderConfig encoder = golden.config;
  encoder.num_labels = 0;
  EXPECT_EQ(reranker->info().parameters, NumParameters(encoder) + 384 * 384 + 384 + 384 + 1);
  // BERT's pairs have two token types, which the encoder does not add.
  EXPECT_FALSE(LoadReranker(*engine, /*byte_level=*/false)->info().can_cross_encode);
  const auto plain = LoadReranker(*engine, /*byte_level=*/true, "b_h12_c192");
  EXPECT_EQ(plain->cross_encoder(), nullptr);
  EXPECT_FALSE(plain->info().can_cross_encode);
}

TEST(CrossEncoder, PairsAreReadAsTheTokenizerSays) {
  const auto tokenizer = ParseTokenizerJson(ByteTokenizerJson());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE(CanReadPairs(**tokenizer));
  EXPECT_THAT(PairIds(**tokenizer, {10, 11}, {12}), ElementsAre(0, 10, 11, 2, 2, 12, 2));
  EXPECT_THAT(WithoutSpecialTokens(**tokenizer, {0, 10, 11, 2}), ElementsAre(10, 11));
  EXPECT_THAT(WithoutSpecialTokens(**tokenizer, {10, 11, 2}), ElementsAre(10, 11, 2));
  EXPECT_THAT(WithoutSpecialTokens(**tokenizer, {0, 2}), ElementsAre());
  EXPECT_THAT(WithoutSpecialTokens(**tokenizer, {0}), ElementsAre(0));
  const auto bert = ParseVocabTxt("[UNK]\n[CLS]\n[SEP]\n");
  ASSERT_TRUE(bert.ok());
  EXPECT_FALSE(CanReadPairs(**bert));
}

CrossEncodeTask MakePair(std::shared_ptr<const Model> model, std::vector<int32_t> query,
                         std::vector<int32_t> document) {
  CrossEncodeTask task;
  task.model = std::move(model);
  task.query = std::move(query);
  task.document = std::move(document);
  task.cancellation = std::make_shared<CancellationToken>();
  return task;
}

absl::StatusOr<CrossEncodeResult> Score(Engine& engine, CrossEncodeTask task) {
  std::promise<absl::StatusOr<CrossEncodeResult>> promise;
  auto future = promise.get_future();
  task.on_done = [&promise](absl::StatusOr<CrossEncodeResult> result) {
    promise.set_value(std::move(result));
  };
  if (absl::Status status = SubmitCrossEncode(engine, std::move(task)); !status.ok()) return status;
  return future.get();
}

TEST(CrossEncoder, ScoresAPairAsItsSequence) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = LoadReranker(*engine, /*byte_level=*/true);
  const auto query = model->tokenizer().Encode("which doc?", false);
  const auto document = model->tokenizer().Encode(std::string(500, 'x') + " the document", false);
  ASSERT_TRUE(query.ok() && document.ok());
  CrossEncodeTask task = MakePair(model, query->ids, document->ids);
  task.attention.mode = AttentionMode::kDense;
  const auto result = Score(*engine, std::move(task));
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<int32_t> ids = PairIds(model->tokenizer(), query->ids, document->ids);
  EXPECT_EQ(result->stats.tokens, static_cast<int64_t>(ids.size()));
  EXPECT_EQ(result->logit, LogitOf(*engine, model, ids, AttentionMode::kDense));
  // The other way round is another question.
  const auto swapped = Score(*engine, MakePair(model, document->ids, query->ids));
  ASSERT_TRUE(swapped.ok());
  EXPECT_NE(swapped->logit, result->logit);
}

void ExpectRefused(Engine& engine, CrossEncodeTask task, absl::StatusCode code,
                   const std::string& reason) {
  const auto result = Score(engine, std::move(task));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), code) << result.status();
  EXPECT_EQ(ReasonOf(result.status()), reason);
}

TEST(CrossEncoder, BadTasks) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = LoadReranker(*engine, /*byte_level=*/true);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(*engine, MakePair(model, {}, {9}), kInvalid, "EMPTY_CANDIDATE");
  ExpectRefused(*engine, MakePair(model, {9}, {}), kInvalid, "EMPTY_DOCUMENT");
  ExpectRefused(*engine, MakePair(model, {9}, {997}), kInvalid, "TOKEN_OUT_OF_VOCABULARY");
  ExpectRefused(*engine, MakePair(LoadReranker(*engine, /*byte_level=*/false), {9}, {9}),
                absl::StatusCode::kFailedPrecondition, "METHOD_NOT_SUPPORTED");
  CrossEncodeTask cancelled = MakePair(model, {9}, {9});
  cancelled.cancellation->Cancel();
  EXPECT_EQ(Score(*engine, std::move(cancelled)).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace longdoc
