// Scores and generations as tasks of the engine: joined, told candidate by candidate, cancelled.
#include "engine/decode_work.h"

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "engine/base/error_reason.h"
#include "gtest/gtest.h"
#include "tests/engine/decoder/decode_tasks.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/encode_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::GenerateAndWait;
using testing::Ids;
using testing::MakeDecodingModel;
using testing::MakeScore;
using testing::RandomTokens;
using testing::ScoreAll;
using testing::Scored;

class DecodeWorkTest : public ::testing::Test {
 protected:
  const Colt5Config config_ = [] {
    Colt5Config config = testing::SmallDecoderConfig();
    config.max_target_tokens = 600;
    return config;
  }();
  const std::unique_ptr<Backend> backend_ = MakeCpuBackend(DType::kF32, 2);
  const testing::RandomDecoder decoder_{*backend_, config_, 1};
  const std::shared_ptr<const Model> model_ = MakeDecodingModel("m", decoder_.weights.get());
  const std::shared_ptr<const CrossKv> document_ =
      testing::RandomDocument(*backend_, config_, 5000, DType::kF32, 5);
  const std::unique_ptr<Engine> engine_ = testing::MakeEngine([] {
    EngineOptions options;
    options.compute_type = ComputeType::kF32;
    options.memory_budget_bytes = int64_t{1} << 30;
    return options;
  }());

  Ids Tokens(uint64_t seed, int64_t count) const {
    return RandomTokens(seed, count, config_.vocab_size);
  }
  std::vector<float> Expected(const Ids& candidate) const {
    return ScoreAll({backend_.get(), decoder_.weights.get(), document_}, {candidate})[0];
  }
  GenerateTask MakeGenerate(Ids prompt, int64_t max_new_tokens) const {
    GenerateTask task;
    task.model = model_;
    task.document = document_;
    task.prompt = std::move(prompt);
    task.max_new_tokens = max_new_tokens;
    return task;
  }
  // Waits for the engine to hold nothing, as it must soon.
  void ExpectIdle() const {
    EngineStats stats = engine_->stats();
    for (int i = 0; i < 500 && stats.running_tasks + stats.queued_tasks > 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      stats = engine_->stats();
    }
    EXPECT_EQ(stats.running_tasks, 0);
    EXPECT_EQ(stats.queued_tasks, 0);
    EXPECT_EQ(stats.reserved_bytes, 0);
    EXPECT_EQ(stats.allocated_bytes, 0);
    EXPECT_EQ(stats.decode.cache_bytes, 0);
  }
};

TEST_F(DecodeWorkTest, ScoresSumMeanAndCount) {
  auto out = std::make_shared<Scored>();
  const std::vector<Ids> candidates = {Tokens(1, 30), Tokens(2, 1), Tokens(3, 200)};
  ASSERT_TRUE(engine_->Submit(MakeScore(model_, document_, candidates, out)).ok());
  const auto stats = out->Wait();
  ASSERT_TRUE(stats.ok()) << stats.status();
  ASSERT_EQ(out->scores.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const CandidateScore& score = out->at(i);
    EXPECT_LE(testing::MaxAbsDifference(score.log_probs, Expected(candidates[i])), 1e-5);
    double sum = 0;
    for (const float p : score.log_probs) sum += p;
    EXPECT_DOUBLE_EQ(score.sum, sum);
    EXPECT_EQ(score.num_targets, static_cast<int64_t>(candidates[i].size()) + 1);
    EXPECT_DOUBLE_EQ(score.mean, sum / static_cast<double>(score.num_targets));
  }
  EXPECT_EQ(stats->targets, 31 + 2 + 201);
  EXPECT_GT(stats->worker_seconds, 0);
  EXPECT_GT(stats->planned_bytes, 0);
  const DecodeCounters counters = engine_->stats().decode;
  EXPECT_EQ(counters.candidates_scored, 3);
  EXPECT_EQ(counters.tokens_scored, 31 + 2 + 201);
  EXPECT_GT(counters.seconds, 0);
  ExpectIdle();
}

TEST_F(DecodeWorkTest, LogProbabilitiesOnlyWhenAskedFor) {
  auto out = std::make_shared<Scored>();
  ScoreTask task = MakeScore(model_, document_, {Tokens(1, 5)}, out);
  task.want_log_probs = false;
  ASSERT_TRUE(engine_->Submit(std::move(task)).ok());
  ASSERT_TRUE(out->Wait().ok());
  EXPECT_TRUE(out->at(0).log_probs.empty());
  EXPECT_EQ(out->at(0).num_targets, 6);
}

TEST_F(DecodeWorkTest, FaultsOfCandidatesAreTheirOwn) {
  auto out = std::make_shared<Scored>();
  const std::vector<Ids> candidates = {{}, Tokens(1, 599), Tokens(1, 600), {5, 3000}, {5, -1}, {6}};
  ASSERT_TRUE(engine_->Submit(MakeScore(model_, document_, candidates, out)).ok());
  const auto stats = out->Wait();
  ASSERT_TRUE(stats.ok()) << stats.status();
  ASSERT_EQ(out->scores.size(), 6u);
  const char* const reasons[] = {"EMPTY_CANDIDATE",         "",
                                 "CANDIDATE_TOO_LONG",      "TOKEN_OUT_OF_VOCABULARY",
                                 "TOKEN_OUT_OF_VOCABULARY", ""};
  for (size_t i = 0; i < 6; ++i) {
    const absl::Status status = out->scores.at(i).status();
    EXPECT_EQ(ReasonOf(status), reasons[i]) << i;
    EXPECT_EQ(status.ok(), reasons[i][0] == '\0') << status;
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_EQ(stats->targets, 600 + 2);
  // Nothing left to score is no reason to fail.
  out = std::make_shared<Scored>();
  ASSERT_TRUE(engine_->Submit(MakeScore(model_, document_, {{}, {}}, out)).ok());
  EXPECT_TRUE(out->Wait().ok());
  EXPECT_EQ(out->scores.size(), 2u);
  ExpectIdle();
}

TEST_F(DecodeWorkTest, TasksThatCannotRun) {
  const auto refused = [&](ScoreTask task) { return engine_->Submit(std::move(task)); };
  auto out = std::make_shared<Scored>();
  EXPECT_EQ(ReasonOf(refused(MakeScore(model_, document_, {}, out))), "NO_CANDIDATES");

  const std::string dir = testing::MakeTempDir("no_keys");
  testing::WriteGoldenColt5("no_keys", dir);
  auto encoder = engine_->LoadModel("encoder-only", dir);
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  absl::Status status = refused(MakeScore(*encoder, document_, {{5}}, out));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "METHOD_NOT_SUPPORTED");

  auto other = std::make_shared<CrossKv>();
  other->tokens = 5;
  other->head_dim = 16;
  status = refused(MakeScore(model_, other, {{5}}, out));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "DOCUMENT_OF_ANOTHER_MODEL");
  EXPECT_EQ(refused(MakeScore(nullptr, document_, {{5}}, out)).code(), absl::StatusCode::kInternal);

  EngineOptions options;
  options.memory_budget_bytes = 1 << 19;
  const auto small = testing::MakeEngine(options);
  status = small->Submit(MakeScore(model_, document_, {Tokens(1, 500)}, out));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "DECODE_EXCEEDS_MEMORY");
}

// Many requests at once, of which those on one document share passes: nobody's scores move.
TEST_F(DecodeWorkTest, RequestsShareAPass) {
  const auto other = testing::RandomDocument(*backend_, config_, 700, DType::kF32, 77);
  std::vector<std::shared_ptr<Scored>> outs;
  std::vector<Ids> candidates;
  for (int i = 0; i < 24; ++i) {
    outs.push_back(std::make_shared<Scored>());
    candidates.push_back(Tokens(i, 5 + 3 * i));
    ScoreTask task =
        MakeScore(model_, i % 3 == 2 ? other : document_, {candidates[i]}, outs.back());
    ASSERT_TRUE(engine_->Submit(std::move(task)).ok());
  }
  for (int i = 0; i < 24; ++i) {
    ASSERT_TRUE(outs[i]->Wait().ok());
    const auto want =
        ScoreAll({backend_.get(), decoder_.weights.get(), i % 3 == 2 ? other : document_},
                 {candidates[i]})[0];
    EXPECT_LE(testing::MaxAbsDifference(outs[i]->at(0).log_probs, want), 1e-5) << i;
  }
  ExpectIdle();
}

TEST_F(DecodeWorkTest, OnlyTheSameDocumentAndModelJoin) {
  DecodeResources resources(*backend_, int64_t{1} << 30);
  const auto work = [&](const std::shared_ptr<const Model>& model,
                        const std::shared_ptr<const CrossKv>& document) {
    auto made = MakeScoreWork(
        resources, MakeScore(model, document, {Tokens(1, 9)}, std::make_shared<Scored>()));
    EXPECT_TRUE(made.ok());
    return *std::move(made);
  };
  const auto first = work(model_, document_);
  EXPECT_TRUE(first->CanJoin(*first));
  EXPECT_TRUE(work(model_, document_)->CanJoin(*first));
  const auto other = testing::RandomDocument(*backend_, config_, 5000, DType::kF32, 5);
  EXPECT_FALSE(work(model_, other)->CanJoin(*first));
  EXPECT_FALSE(work(MakeDecodingModel("n", decoder_.weights.get()), document_)->CanJoin(*first));
  EXPECT_EQ(first->needs().lane, Lane::kShort);
  EXPECT_EQ(first->needs().tokens, 10);
  auto big =
      MakeScoreWork(resources, MakeScore(model_, document_, std::vector<Ids>(500, Tokens(1, 500)),
                                         std::make_shared<Scored>()));
  ASSERT_TRUE(big.ok());
  EXPECT_EQ((*big)->needs().lane, Lane::kLong);
}

TEST_F(DecodeWorkTest, CancelledMidPassNothingStays) {
  auto out = std::make_shared<Scored>();
  ScoreTask task = MakeScore(model_, document_, std::vector<Ids>(60, Tokens(3, 500)), out);
  const std::shared_ptr<CancellationToken> token = task.cancellation;
  out->on_each = [token] { token->Cancel(); };
  ASSERT_TRUE(engine_->Submit(std::move(task)).ok());
  EXPECT_EQ(out->Wait().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(out->scores.size(), 1u);  // none after cancellation
  ExpectIdle();
}

// One of two requests in a pass goes away: the other's scores come all the same.
TEST_F(DecodeWorkTest, TheOthersOfAPassGoOn) {
  auto gone = std::make_shared<Scored>(), stays = std::make_shared<Scored>();
  ScoreTask first = MakeScore(model_, document_, {Tokens(1, 50), Tokens(2, 50)}, gone);
  const std::shared_ptr<CancellationToken> token = first.cancellation;
  ASSERT_TRUE(engine_->Submit(std::move(first)).ok());
  ASSERT_TRUE(engine_->Submit(MakeScore(model_, document_, {Tokens(4, 60)}, stays)).ok());
  token->Cancel();
  ASSERT_TRUE(stays->Wait().ok());
  EXPECT_LE(testing::MaxAbsDifference(stays->at(0).log_probs, Expected(Tokens(4, 60))), 1e-5);
  gone->Wait().IgnoreError();
  ExpectIdle();
}

TEST_F(DecodeWorkTest, TheDocumentIsHeldUntilTheEnd) {
  auto out = std::make_shared<Scored>();
  auto document = testing::RandomDocument(*backend_, config_, 3000, DType::kF32, 8);
  const std::weak_ptr<const CrossKv> watch = document;
  const auto want = ScoreAll({backend_.get(), decoder_.weights.get(), document}, {{9, 8, 7}})[0];
  ASSERT_TRUE(engine_->Submit(MakeScore(model_, std::move(document), {{9, 8, 7}}, out)).ok());
  document.reset();
  ASSERT_TRUE(out->Wait().ok());
  EXPECT_TRUE(watch.expired());
  EXPECT_LE(testing::MaxAbsDifference(out->at(0).log_probs, want), 1e-5);
}

TEST_F(DecodeWorkTest, GeneratesAsThePassDoes) {
  GenerateTask task = MakeGenerate({10, 20}, 25);
  Ids told;
  task.on_token = [&told](int32_t token, float) { told.push_back(token); };
  const auto result = GenerateAndWait(*engine_, std::move(task));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(told, result->tokens);
  EXPECT_EQ(result->log_probs.size(), result->tokens.size());
  ASSERT_FALSE(told.empty());
  Ids candidate = {10, 20};
  candidate.insert(candidate.end(), told.begin(), told.end());
  const std::vector<float> scored = Expected(candidate);
  EXPECT_LE(testing::MaxAbsDifference(result->log_probs,
                                      absl::MakeConstSpan(scored).subspan(2, told.size())),
            1e-5);
  EXPECT_EQ(engine_->stats().decode.tokens_generated,
            static_cast<int64_t>(told.size()) + (result->stopped ? 1 : 0));
  ExpectIdle();
}

TEST_F(DecodeWorkTest, GenerationsThatCannotRun) {
  const auto reason = [&](GenerateTask task) {
    return ReasonOf(GenerateAndWait(*engine_, std::move(task)).status());
  };
  EXPECT_EQ(reason(MakeGenerate({}, 0)), "TOO_MANY_TOKENS");
  EXPECT_EQ(reason(MakeGenerate({}, 601)), "TOO_MANY_TOKENS");
  EXPECT_EQ(reason(MakeGenerate(Tokens(1, 600), 1)), "TOO_MANY_TOKENS");
  EXPECT_EQ(reason(MakeGenerate({3000}, 1)), "TOKEN_OUT_OF_VOCABULARY");
  GenerateTask hot = MakeGenerate({}, 1);
  hot.sampling.temperature = -1;
  EXPECT_EQ(reason(std::move(hot)), "INVALID_SAMPLING");
  EXPECT_TRUE(GenerateAndWait(*engine_, MakeGenerate(Tokens(1, 599), 1)).ok());
}

TEST_F(DecodeWorkTest, GenerationCancelledByItsReader) {
  GenerateTask task = MakeGenerate({1}, 500);
  task.cancellation = std::make_shared<CancellationToken>();
  auto token = task.cancellation;
  auto told = std::make_shared<std::atomic<int>>(0);
  task.on_token = [token, told](int32_t, float) {
    if (++*told == 3) token->Cancel();
  };
  const auto result = GenerateAndWait(*engine_, std::move(task));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled) << result.status();
  EXPECT_EQ(*told, 3);
  ExpectIdle();
}

TEST_F(DecodeWorkTest, StopWithWorkUnderWay) {
  auto out = std::make_shared<Scored>();
  ASSERT_TRUE(
      engine_->Submit(MakeScore(model_, document_, std::vector<Ids>(60, Tokens(3, 500)), out))
          .ok());
  auto done = std::make_shared<std::promise<absl::StatusOr<GenerateResult>>>();
  GenerateTask task = MakeGenerate({1}, 500);
  task.cancellation = std::make_shared<CancellationToken>();
  task.on_done = [done](absl::StatusOr<GenerateResult> r) { done->set_value(std::move(r)); };
  ASSERT_TRUE(engine_->Submit(std::move(task)).ok());
  engine_->Stop();
  EXPECT_EQ(out->Wait().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(done->get_future().get().status().code(), absl::StatusCode::kUnavailable);
  ExpectIdle();
}

}  // namespace
}  // namespace longdoc
