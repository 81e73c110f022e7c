// Generation: the same probabilities as scoring, determinism, ends.
#include "engine/generate_pass.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "gtest/gtest.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using testing::MaxAbsDifference;
using testing::RandomTokens;
using testing::RunPass;
using testing::ScoreAll;
using testing::ScoringSetup;
using Ids = std::vector<int32_t>;

struct Generated {
  Ids tokens;
  std::vector<float> log_probs;
  bool stopped = false;
  absl::Status status;
};

class GeneratePassTest : public ::testing::Test {
 protected:
  const Colt5Config config_ = testing::SmallDecoderConfig();
  const std::unique_ptr<Backend> backend_ = MakeCpuBackend(DType::kF32, 2);
  const testing::RandomDecoder decoder_{*backend_, config_, 1};
  const ScoringSetup setup_{backend_.get(), decoder_.weights.get(),
                            testing::RandomDocument(*backend_, config_, 3000, DType::kF32, 5)};
  KvPagePool pages_{backend_->memory(), int64_t{1} << 40};
  std::deque<Ids> prompts_;  // passes only look at them

  GeneratePass::Setup MakeSetup(const Ids& prompt, int64_t max_new_tokens,
                                SamplingOptions sampling = {}) {
    GeneratePass::Setup s;
    s.backend = setup_.backend;
    s.pages = &pages_;
    s.weights = setup_.weights;
    s.document = setup_.document.get();
    s.cls = setup_.cls;
    s.sep = setup_.sep;
    prompts_.push_back(prompt);
    s.prompt = prompts_.back();
    s.max_new_tokens = max_new_tokens;
    s.sampling = sampling;
    return s;
  }
  Generated Run(GeneratePass::Setup s) {
    Generated out;
    Ids told;
    s.on_token = [&told](int32_t token, float) { told.push_back(token); };
    auto pass = GeneratePass::Create(std::move(s));
    if (!pass.ok()) return {{}, {}, false, pass.status()};
    out.status = RunPass(*backend_, **pass);
    out.tokens = (*pass)->TakeTokens();
    out.log_probs = (*pass)->TakeLogProbs();
    out.stopped = (*pass)->stopped();
    EXPECT_EQ(told, out.tokens);
    pass->reset();
    EXPECT_EQ(pages_.bytes(), 0);
    return out;
  }
};

TEST_F(GeneratePassTest, LogProbabilitiesAreThoseOfScoring) {
  for (const int64_t prompt_tokens : {0, 5, 126, 300}) {
    const Ids prompt = RandomTokens(prompt_tokens, prompt_tokens, config_.vocab_size);
    for (const float temperature : {0.0f, 1.5f}) {
      const Generated got = Run(MakeSetup(prompt, 70, {temperature, 0, 1, 3}));
      ASSERT_TRUE(got.status.ok()) << got.status;
      ASSERT_FALSE(got.tokens.empty());
      Ids candidate = prompt;
      candidate.insert(candidate.end(), got.tokens.begin(), got.tokens.end());
      const auto scored = ScoreAll(setup_, {candidate})[0];
      EXPECT_LE(MaxAbsDifference(got.log_probs, absl::MakeConstSpan(scored).subspan(
                                                    prompt.size(), got.tokens.size())),
                1e-5);
    }
  }
}

// Every greedy token beats some others in a score of their own.
TEST_F(GeneratePassTest, GreedyTakesTheMostLikely) {
  const Generated got = Run(MakeSetup({10, 11}, 12));
  Ids prefix = {10, 11};
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    std::vector<Ids> rivals;
    for (int32_t id = 0; id < 60; ++id) {
      rivals.push_back(prefix);
      rivals.back().push_back(id * 50);
    }
    for (const auto& log_probs : ScoreAll(setup_, rivals)) {
      EXPECT_LE(log_probs[prefix.size()], got.log_probs[i] + 1e-5);
    }
    prefix.push_back(got.tokens[i]);
  }
}

TEST_F(GeneratePassTest, TheSeedDecides) {
  const SamplingOptions sampling = {1.2f, 50, 0.95f, 11};
  const Generated one = Run(MakeSetup({4, 5, 6}, 40, sampling));
  EXPECT_EQ(one.tokens, Run(MakeSetup({4, 5, 6}, 40, sampling)).tokens);
  SamplingOptions other = sampling;
  other.seed = 12;
  EXPECT_NE(one.tokens, Run(MakeSetup({4, 5, 6}, 40, other)).tokens);
  EXPECT_EQ(Run(MakeSetup({4, 5, 6}, 20, {2, 1, 1, 0})).tokens,
            Run(MakeSetup({4, 5, 6}, 20)).tokens);
  EXPECT_EQ(Run(MakeSetup({4, 5, 6}, 20, {2, 0, 0, 0})).tokens,
            Run(MakeSetup({4, 5, 6}, 20)).tokens);
}

TEST_F(GeneratePassTest, EndsAtTheStopTokenOrTheLimit) {
  const Generated all = Run(MakeSetup({7}, 30));
  ASSERT_EQ(all.tokens.size(), 30u);
  EXPECT_FALSE(all.stopped);
  // The same text, with its first token that is new at place 1 or later as the stop token.
  size_t at = 1;
  while (std::count(all.tokens.begin(), all.tokens.begin() + at, all.tokens[at]) > 0) {
    ASSERT_LT(++at, all.tokens.size());
  }
  GeneratePass::Setup s = MakeSetup({7}, 30);
  s.sep = all.tokens[at];
  const Generated stopped = Run(std::move(s));
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.tokens, Ids(all.tokens.begin(), all.tokens.begin() + at));
  EXPECT_EQ(stopped.log_probs.size(), stopped.tokens.size());
  s = MakeSetup({7}, 30);
  s.sep = all.tokens[0];
  EXPECT_TRUE(Run(std::move(s)).tokens.empty());
}

TEST_F(GeneratePassTest, PlannedBytesAreEnough) {
  for (const auto& [prompt_tokens, new_tokens] : {std::pair{0, 1}, {3, 200}, {400, 5}}) {
    const Ids prompt = RandomTokens(3, prompt_tokens, config_.vocab_size);
    const int64_t planned = GeneratePass::PlanBytes(*decoder_.weights, backend_->info(), 3000,
                                                    prompt_tokens, new_tokens);
    const int64_t before = backend_->memory().allocated_bytes();
    int64_t most = 0;
    auto pass = GeneratePass::Create(MakeSetup(prompt, new_tokens));
    ASSERT_TRUE(pass.ok());
    ASSERT_TRUE(RunPass(*backend_, **pass, [&] {
                  most = std::max(most, backend_->memory().allocated_bytes() - before);
                }).ok());
    EXPECT_LE(most, planned);
    EXPECT_GE(most, planned / 2);
    EXPECT_EQ((*pass)->count().targets, new_tokens);
    pass->reset();
    EXPECT_EQ(backend_->memory().allocated_bytes(), before);
  }
}

TEST_F(GeneratePassTest, FullCacheEndsItWithAnError) {
  const int64_t page = DecoderCacheShape(*decoder_.weights, backend_->info()).page_bytes();
  KvPagePool small(backend_->memory(), page);
  GeneratePass::Setup s = MakeSetup({7}, 200);
  s.pages = &small;
  s.sep = -1;  // never
  size_t told = 0;
  s.on_token = [&told](int32_t, float) { ++told; };
  auto pass = GeneratePass::Create(std::move(s));
  ASSERT_TRUE(pass.ok());
  EXPECT_EQ(RunPass(*backend_, **pass).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(told, 127u);  // [CLS], the prompt and 126 tokens fill the page; the last needs no room
  pass->reset();
  EXPECT_EQ(small.bytes(), 0);

  KvPagePool none(backend_->memory(), 0);
  s = MakeSetup({7}, 1);
  s.pages = &none;
  EXPECT_EQ(GeneratePass::Create(std::move(s)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(GeneratePassTest, AbandonedAnywhereEverythingIsFree) {
  const int64_t before = backend_->memory().allocated_bytes();
  for (int phases = 0; phases < 30; phases += 3) {
    auto pass = GeneratePass::Create(MakeSetup({7, 8}, 100));
    ASSERT_TRUE(pass.ok());
    MemoryPool pool(0);
    WorkerScratch scratch(pool);
    for (int p = 0; p < phases; ++p) {
      for (int64_t s = 0; s < (*pass)->num_steps(); ++s) {
        ASSERT_TRUE((*pass)->RunStep(s, scratch).ok());
      }
      (*pass)->NextPhase();
    }
    EXPECT_GT(pages_.bytes(), 0);
    pass->reset();
    EXPECT_EQ(pages_.bytes(), 0);
    EXPECT_EQ(backend_->memory().allocated_bytes(), before);
  }
}

}  // namespace
}  // namespace longdoc
