// Candidates scored together: what must not change a score, and what must not be left behind.
#include "engine/score_pass.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>
#include <utility>

#include "gtest/gtest.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using testing::MakeScoreSetup;
using testing::MaxAbsDifference;
using testing::RandomTokens;
using testing::RunPass;
using testing::ScoreAll;
using testing::ScoringSetup;
using Ids = std::vector<int32_t>;

class ScorePassTest : public ::testing::Test {
 protected:
  const Colt5Config config_ = testing::SmallDecoderConfig();
  const std::unique_ptr<Backend> backend_ = MakeCpuBackend(DType::kF32, 2);
  const testing::RandomDecoder decoder_{*backend_, config_, 1};

  ScoringSetup Scoring(int64_t tokens, uint64_t seed = 5) {
    return {backend_.get(), decoder_.weights.get(),
            testing::RandomDocument(*backend_, config_, tokens, DType::kF32, seed)};
  }
  Ids Tokens(uint64_t seed, int64_t count) const {
    return RandomTokens(seed, count, config_.vocab_size);
  }
  std::vector<Ids> SomeCandidates() const {
    std::vector<Ids> candidates;
    for (const int64_t n : {1, 2, 31, 63, 64, 65, 127, 128, 200, 33}) {
      candidates.push_back(Tokens(candidates.size() + 100, n));
    }
    return candidates;
  }
};

double Worst(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, MaxAbsDifference(a[i], b[i]));
  return worst;
}

// log p of every target, one position at a time: the decoder as generation uses it.
std::vector<float> StepByStep(const ScoringSetup& setup, const Ids& candidate) {
  Backend& backend = *setup.backend;
  const DecoderWeights& w = *setup.weights;
  KvPagePool pages(backend.memory(), int64_t{1} << 40);
  KvSequence keys(pages, DecoderCacheShape(w, backend.info()));
  auto layers = DecoderLayers::Create(backend, w, *setup.document, 1);
  EXPECT_TRUE(layers.ok());
  MemoryPool pool(0);
  WorkerScratch scratch(pool);
  std::vector<float> log_probs;
  for (size_t t = 0; t <= candidate.size(); ++t) {
    const int32_t id = t == 0 ? setup.cls : candidate[t - 1];
    const int32_t target = t == candidate.size() ? setup.sep : candidate[t];
    DecoderInput input;
    input.ids = absl::MakeConstSpan(&id, 1);
    input.first = static_cast<int64_t>(t);
    input.keys = &keys;
    EXPECT_TRUE(keys.Extend(1).ok());
    EXPECT_TRUE((*layers)->Begin(absl::MakeConstSpan(&input, 1)).ok());
    for (; !(*layers)->finished(); (*layers)->NextPhase()) {
      for (int64_t s = 0; s < (*layers)->num_steps(); ++s) {
        EXPECT_TRUE((*layers)->RunStep(s, scratch).ok());
      }
    }
    EXPECT_TRUE(DecoderFinalNorm((*layers)->state(), {0, 1}, nullptr, scratch).ok());
    std::vector<float> logits(w.config.vocab_size);
    for (size_t i = 0; i < w.vocabulary.size(); ++i) {
      EXPECT_TRUE(
          w.vocabulary[i]
              ->Gemm(1, scratch.input.data(), logits.data() + i * DecoderWeights::kVocabularyTile)
              .ok());
    }
    double sum = 0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l) * w.LogitScale());
    log_probs.push_back(static_cast<float>(logits[target] * w.LogitScale() - std::log(sum)));
  }
  return log_probs;
}

TEST_F(ScorePassTest, StepByStepEqualsTeacherForcing) {
  const ScoringSetup setup = Scoring(3000);
  for (const int64_t n : {1, 63, 64, 140, 300}) {
    const Ids candidate = Tokens(n, n);
    const auto together = ScoreAll(setup, {candidate});
    EXPECT_LE(MaxAbsDifference(together[0], StepByStep(setup, candidate)), 1e-5) << n;
  }
}

TEST_F(ScorePassTest, LikelihoodsAreProbabilities) {
  // Over all single tokens, p(token) sums to 1; [SEP] after each is a second factor.
  const ScoringSetup setup = Scoring(100);
  std::vector<Ids> all;
  for (int32_t id = 0; id < config_.vocab_size; ++id) all.push_back({id});
  double sum = 0;
  for (const auto& log_probs : ScoreAll(setup, all)) {
    sum += std::exp(log_probs[0]);
    EXPECT_LT(log_probs[1], 0);
  }
  EXPECT_NEAR(sum, 1, 1e-4);
}

TEST_F(ScorePassTest, OrderAndBatchingDoNotMatter) {
  for (const int64_t tokens : {1, 64, 2049, 9000}) {
    const ScoringSetup setup = Scoring(tokens);
    std::vector<Ids> candidates = SomeCandidates();
    const auto together = ScoreAll(setup, candidates);
    std::vector<std::vector<float>> alone;
    for (const Ids& c : candidates) alone.push_back(ScoreAll(setup, {c})[0]);
    EXPECT_LE(Worst(together, alone), 1e-5) << tokens;
    std::reverse(candidates.begin(), candidates.end());
    auto reversed = ScoreAll(setup, candidates);
    std::reverse(reversed.begin(), reversed.end());
    EXPECT_LE(Worst(together, reversed), 1e-5) << tokens;
  }
}

TEST_F(ScorePassTest, ScoresDependOnDocumentAndCandidate) {
  const auto one = ScoreAll(Scoring(500, 5), {Tokens(1, 20), Tokens(2, 20)});
  const auto other = ScoreAll(Scoring(500, 6), {Tokens(1, 20), Tokens(2, 20)});
  EXPECT_GT(Worst(one, other), 0.1);
  EXPECT_GT(MaxAbsDifference(one[0], one[1]), 0.1);
}

TEST_F(ScorePassTest, SharedPrefixesEqualUnshared) {
  const ScoringSetup setup = Scoring(1000);
  const Ids base = Tokens(7, 600);
  const auto with_tail = [&](int64_t prefix, uint64_t seed, int64_t tail) {
    Ids ids(base.begin(), base.begin() + prefix);
    for (const int32_t id : Tokens(seed, tail)) ids.push_back(id);
    return ids;
  };
  // Inputs begin with [CLS]: pages end after 127, 255, … tokens of the candidate. What the one with
  // 330 begins with, in the page where it parts, is computed for two others.
  const std::vector<Ids> candidates = {
      with_tail(300, 1, 50), with_tail(300, 2, 90),  with_tail(127, 3, 1),   with_tail(126, 4, 40),
      with_tail(600, 5, 1),  with_tail(511, 6, 10),  with_tail(255, 0, 0),   with_tail(127, 0, 0),
      with_tail(300, 1, 50), with_tail(512, 9, 300), with_tail(330, 10, 20), Tokens(8, 200)};
  const auto shared = ScoreAll(setup, candidates);
  const auto unshared = ScoreAll(setup, candidates, /*share_prefixes=*/false);
  EXPECT_LE(Worst(shared, unshared), 1e-5);
}

TEST_F(ScorePassTest, SharedPrefixesSavePagesAndRows) {
  const ScoringSetup setup = Scoring(1000);
  std::vector<Ids> candidates(3, Tokens(7, 255 + 10));
  for (size_t i = 0; i < candidates.size(); ++i) candidates[i].back() = static_cast<int32_t>(i + 9);
  int64_t most[2] = {0, 0}, rows[2] = {0, 0};
  for (const bool share : {false, true}) {
    KvPagePool pages(backend_->memory(), int64_t{1} << 40);
    ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
    s.share_prefixes = share;
    s.on_scored = [](size_t, std::vector<float>) {};
    auto pass = ScorePass::Create(std::move(s));
    ASSERT_TRUE(pass.ok());
    ASSERT_TRUE(RunPass(*backend_, **pass, [&] {
                  most[share] = std::max(most[share], pages.bytes());
                }).ok());
    rows[share] = (*pass)->count().rows;
    EXPECT_EQ((*pass)->count().targets, 3 * 266);
    EXPECT_EQ((*pass)->count().candidates, 3);
  }
  const int64_t page = DecoderCacheShape(*decoder_.weights, backend_->info()).page_bytes();
  EXPECT_EQ(most[false], 3 * 3 * page);
  EXPECT_EQ(most[true], (2 + 3) * page);
  EXPECT_EQ(rows[false], 3 * 266);
  EXPECT_EQ(rows[true], 266 + 2);  // but for the last token they are the same
}

// More candidates than one chunk takes, by rows and by pages.
TEST_F(ScorePassTest, ManyCandidatesGoInChunks) {
  const ScoringSetup setup = Scoring(200);
  std::vector<Ids> candidates;
  for (int i = 0; i < 12; ++i) candidates.push_back(Tokens(i, 100 + 17 * i));
  for (int i = 0; i < 300; ++i) candidates.push_back(Tokens(1000 + i, 1 + i % 3));
  candidates.push_back(Tokens(5, 1500));
  candidates.push_back(Tokens(6, 3));
  const auto all = ScoreAll(setup, candidates);
  for (const size_t i : {0, 11, 12, 311, 312, 313}) {
    EXPECT_LE(MaxAbsDifference(all[i], ScoreAll(setup, {candidates[i]})[0]), 1e-5) << i;
  }
}

TEST_F(ScorePassTest, PlannedBytesAreEnough) {
  for (const int64_t tokens : {1, 5000}) {
    const ScoringSetup setup = Scoring(tokens);
    for (const std::vector<Ids>& candidates :
         {std::vector<Ids>{Tokens(1, 1)}, SomeCandidates(), std::vector<Ids>(300, Tokens(2, 2)),
          std::vector<Ids>{Tokens(3, 2000), Tokens(4, 700), Tokens(5, 700)}}) {
      std::vector<int64_t> lengths;
      for (const Ids& c : candidates) lengths.push_back(static_cast<int64_t>(c.size()));
      const int64_t planned = ScorePass::PlanBytes(*decoder_.weights, backend_->info(),
                                                   setup.document->tokens, lengths);
      const int64_t before = backend_->memory().allocated_bytes();
      int64_t most = 0;
      KvPagePool pages(backend_->memory(), int64_t{1} << 40);
      ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
      s.share_prefixes = false;
      s.on_scored = [](size_t, std::vector<float>) {};
      auto pass = ScorePass::Create(std::move(s));
      ASSERT_TRUE(pass.ok());
      ASSERT_TRUE(RunPass(*backend_, **pass, [&] {
                    most = std::max(most, backend_->memory().allocated_bytes() - before);
                  }).ok());
      EXPECT_LE(most, planned);
      EXPECT_GE(most, planned * 7 / 10);
      pass->reset();
      EXPECT_EQ(backend_->memory().allocated_bytes(), before);
    }
  }
}

TEST_F(ScorePassTest, CancelledCandidatesAreLeftOutOfLaterChunks) {
  const ScoringSetup setup = Scoring(100);
  std::vector<Ids> candidates;
  for (int i = 0; i < 4; ++i) candidates.push_back(Tokens(i, 900));  // a chunk each
  CancellationToken first, second;
  KvPagePool pages(backend_->memory(), int64_t{1} << 40);
  ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
  for (size_t i = 0; i < 4; ++i) s.items[i].cancellation = i % 2 == 0 ? &first : &second;
  std::vector<size_t> scored;
  s.on_scored = [&](size_t item, std::vector<float>) {
    scored.push_back(item);
    first.Cancel();
  };
  auto pass = ScorePass::Create(std::move(s));
  ASSERT_TRUE(pass.ok());
  ASSERT_TRUE(RunPass(*backend_, **pass).ok());
  EXPECT_EQ(scored, (std::vector<size_t>{0, 1, 3}));
  EXPECT_EQ((*pass)->count().candidates, 3);
}

TEST_F(ScorePassTest, AbandonedMidPassEverythingIsFree) {
  const ScoringSetup setup = Scoring(5000);
  const int64_t before = backend_->memory().allocated_bytes();
  for (int phases = 0; phases < 14; ++phases) {
    KvPagePool pages(backend_->memory(), int64_t{1} << 40);
    const std::vector<Ids> candidates = SomeCandidates();
    ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
    s.on_scored = [](size_t, std::vector<float>) {};
    auto pass = ScorePass::Create(std::move(s));
    ASSERT_TRUE(pass.ok());
    MemoryPool pool(0);
    WorkerScratch scratch(pool);
    for (int p = 0; p < phases && !(*pass)->finished(); ++p) {
      ASSERT_TRUE((*pass)->RunStep(0, scratch).ok());
      (*pass)->NextPhase();
    }
    EXPECT_EQ(pages.bytes() > 0, phases > 0 && !(*pass)->finished()) << phases;
    pass->reset();
    EXPECT_EQ(pages.bytes(), 0);
    EXPECT_EQ(backend_->memory().allocated_bytes(), before);
  }
}

TEST_F(ScorePassTest, FullCacheFailsThePassAndFreesIt) {
  const ScoringSetup setup = Scoring(100);
  const std::vector<Ids> candidates(3, Tokens(1, 100));
  const int64_t page = DecoderCacheShape(*decoder_.weights, backend_->info()).page_bytes();
  KvPagePool pages(backend_->memory(), 2 * page);
  ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
  s.on_scored = [](size_t, std::vector<float>) { ADD_FAILURE(); };
  auto pass = ScorePass::Create(std::move(s));
  ASSERT_TRUE(pass.ok());
  EXPECT_EQ(RunPass(*backend_, **pass).code(), absl::StatusCode::kResourceExhausted);
  pass->reset();
  EXPECT_EQ(pages.bytes(), 0);
}

TEST_F(ScorePassTest, NothingToScoreEndsAtOnce) {
  KvPagePool pages(backend_->memory(), 0);
  ScorePass::Setup s = MakeScoreSetup(Scoring(10), pages, {});
  auto pass = ScorePass::Create(std::move(s));
  ASSERT_TRUE(pass.ok());
  EXPECT_EQ((*pass)->num_steps(), 1);
  EXPECT_TRUE(RunPass(*backend_, **pass).ok());
  EXPECT_TRUE((*pass)->finished());
}

// Backends on the same weights and document: the reference judges, in fp32 storage to rounding and
// in bf16 storage within what eight bits of mantissa give.
TEST(ScorePassBackends, AgreeWithTheReference) {
  Colt5Config config = testing::SmallDecoderConfig();
  config.vocab_size = 2500;
  const std::unique_ptr<Backend> reference = MakeReferenceBackend(1);
  const testing::RandomDecoder judge(*reference, config, 3);
  std::vector<Ids> candidates = {RandomTokens(1, 1, 2500), RandomTokens(2, 40, 2500),
                                 RandomTokens(3, 150, 2500)};
  candidates.push_back(candidates.back());
  candidates.back().push_back(17);
  const int64_t tokens = 2100;  // two ranges
  const auto want = ScoreAll({reference.get(), judge.weights.get(),
                              testing::RandomDocument(*reference, config, tokens, DType::kF32, 9)},
                             candidates);
  for (const auto isa : {kernels::CpuIsa::kPortable, kernels::CpuIsa::kAvx2,
                         kernels::CpuIsa::kAvx512, kernels::CpuIsa::kAvx512Bf16}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const std::unique_ptr<Backend> backend = MakeCpuBackend(type, 2, isa);
      if (backend == nullptr) continue;
      const testing::RandomDecoder decoder(*backend, config, 3);
      const auto got = ScoreAll({backend.get(), decoder.weights.get(),
                                 testing::RandomDocument(*backend, config, tokens, type, 9)},
                                candidates);
      for (size_t i = 0; i < want.size(); ++i) {
        SCOPED_TRACE(backend->info().isa + " candidate " + std::to_string(i));
        const double bound = type == DType::kF32 ? 1e-4 : 0.35;
        EXPECT_LE(MaxAbsDifference(got[i], want[i]), bound);
        if (type == DType::kBF16) {
          EXPECT_GE(testing::Cosine(got[i], want[i]), 0.9995);
        }
      }
    }
  }
}

}  // namespace
}  // namespace longdoc
