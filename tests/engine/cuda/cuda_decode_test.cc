// Scores, text and late interaction on the CUDA backend are what they are on the CPU, within bf16.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/generate_pass.h"
#include "engine/similarity.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::CpuEngine;
using testing::EncodeOn;
using testing::MakeTask;
using testing::RandomTokens;
using testing::ScoreAll;
using Ids = std::vector<int32_t>;

constexpr double kLogProbBound = 0.5;  // as of the CPU's bf16

struct Scores {
  std::vector<CandidateScore> of;
  DecodeStats stats;
};

Scores ScoreOn(Engine& engine, const std::shared_ptr<const Model>& model,
               const std::shared_ptr<const CrossKv>& document, std::vector<Ids> candidates) {
  Scores scores;
  scores.of.resize(candidates.size());
  std::promise<absl::StatusOr<DecodeStats>> done;
  ScoreTask task;
  task.model = model;
  task.document = document;
  task.candidates = std::move(candidates);
  task.want_log_probs = true;
  task.cancellation = std::make_shared<CancellationToken>();
  task.on_scored = [&scores](size_t i, absl::StatusOr<CandidateScore> score) {
    ASSERT_TRUE(score.ok()) << score.status();
    scores.of[i] = *std::move(score);
  };
  task.on_done = [&done](absl::StatusOr<DecodeStats> stats) { done.set_value(std::move(stats)); };
  EXPECT_TRUE(engine.Submit(std::move(task)).ok());
  const absl::StatusOr<DecodeStats> stats = done.get_future().get();
  EXPECT_TRUE(stats.ok()) << stats.status();
  if (stats.ok()) scores.stats = *stats;
  return scores;
}

GenerateResult GenerateOn(Engine& engine, const std::shared_ptr<const Model>& model,
                          const std::shared_ptr<const CrossKv>& document, const Ids& prompt,
                          int64_t tokens, SamplingOptions sampling = {}) {
  std::promise<absl::StatusOr<GenerateResult>> done;
  GenerateTask task;
  task.model = model;
  task.document = document;
  task.prompt = prompt;
  task.max_new_tokens = tokens;
  task.sampling = sampling;
  task.cancellation = std::make_shared<CancellationToken>();
  task.on_done = [&done](absl::StatusOr<GenerateResult> r) { done.set_value(std::move(r)); };
  EXPECT_TRUE(engine.Submit(std::move(task)).ok());
  absl::StatusOr<GenerateResult> result = done.get_future().get();
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : GenerateResult();
}

// A golden model and one of its documents, encoded where they are.
struct Side {
  Side(std::unique_ptr<Engine> on, const std::string& name) : engine(std::move(on)) {
    const std::string dir = testing::MakeTempDir(name);
    testing::WriteGoldenColt5(name, dir);
    absl::StatusOr<std::shared_ptr<const Model>> loaded = engine->LoadModel(name, dir);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    model = *std::move(loaded);
  }
  std::shared_ptr<const CrossKv> Encode(const Ids& ids) {
    EncodeTask task = MakeTask(model, ids);
    task.want_cross_kv = true;
    return EncodeOn(*engine, std::move(task)).cross_kv;
  }

  std::unique_ptr<Engine> engine;
  std::shared_ptr<const Model> model;
};

TEST(CudaDecode, ScoresAndTextAgreeWithTheCpu) {
  for (const std::string name : {"routed", "all"}) {
    Side cuda(testing::MakeEngine(testing::CudaOptions()), name), cpu(CpuEngine(), name);
    for (const testing::GoldenColt5Case& c : testing::LoadGoldenColt5(name).cases) {
      if (c.ids.size() > 700) continue;
      SCOPED_TRACE(name + ", " + std::to_string(c.ids.size()) + " tokens");
      const auto on_cuda = cuda.Encode(c.ids), on_cpu = cpu.Encode(c.ids);
      std::vector<Ids> candidates;
      for (const auto& candidate : c.candidates) candidates.push_back(candidate.ids);
      const Scores a = ScoreOn(*cuda.engine, cuda.model, on_cuda, candidates);
      const Scores b = ScoreOn(*cpu.engine, cpu.model, on_cpu, candidates);
      EXPECT_GT(a.stats.worker_seconds, 0);
      EXPECT_EQ(a.stats.targets, b.stats.targets);
      for (size_t i = 0; i < candidates.size(); ++i) {
        EXPECT_LE(testing::MaxAbsDifference(a.of[i].log_probs, b.of[i].log_probs), kLogProbBound);
        EXPECT_GE(testing::Cosine(a.of[i].log_probs, c.candidates[i].log_probs),
                  testing::kBf16Cosine);
        EXPECT_NEAR(a.of[i].mean, b.of[i].mean, 0.1);
      }
      const int64_t length = static_cast<int64_t>(c.continuation.size());
      const GenerateResult text = GenerateOn(*cuda.engine, cuda.model, on_cuda, c.prompt, length);
      const GenerateResult want = GenerateOn(*cpu.engine, cpu.model, on_cpu, c.prompt, length);
      ASSERT_EQ(text.tokens.size(), text.log_probs.size());
      // The first token that differs was nearly as likely.
      for (size_t i = 0; i < std::min(text.tokens.size(), want.tokens.size()); ++i) {
        EXPECT_NEAR(text.log_probs[i], want.log_probs[i], kLogProbBound) << i;
        if (text.tokens[i] != want.tokens[i]) break;
      }
    }
    const DecodeCounters counters = cuda.engine->stats().decode;
    EXPECT_GT(counters.recorded_rounds, 0);
    EXPECT_GT(counters.replayed_rounds, counters.recorded_rounds);
    EXPECT_EQ(cpu.engine->stats().decode.replayed_rounds, 0);
  }
}

// Candidates that share pages, begin and end in the middle of blocks, and are many; text that grows
// over several pages.
class CudaDecoder : public ::testing::Test {
 protected:
  CudaDecoder() {
    CudaOptions options;
    options.token_tile = 96;
    cuda_ = *MakeCudaBackend(options);
    cuda_->InitWorkerThread();
    cuda_decoder_.emplace(*cuda_, config_, 5);
    cpu_decoder_.emplace(*cpu_, config_, 5);
  }
  testing::ScoringSetup On(Backend& backend, const testing::RandomDecoder& decoder) {
    testing::ScoringSetup setup;
    setup.backend = &backend;
    setup.weights = decoder.weights.get();
    setup.document = testing::RandomDocument(backend, config_, 333, DType::kBF16, 9);
    return setup;
  }
  testing::ScoringSetup OnCuda() { return On(*cuda_, *cuda_decoder_); }
  testing::ScoringSetup OnCpu() { return On(*cpu_, *cpu_decoder_); }

  const Colt5Config config_ = testing::SmallDecoderConfig();
  std::unique_ptr<Backend> cuda_, cpu_ = MakeCpuBackend(DType::kF32, 1);
  std::optional<testing::RandomDecoder> cuda_decoder_, cpu_decoder_;
};

TEST_F(CudaDecoder, ManyCandidatesOfManyLengths) {
  std::vector<Ids> candidates;
  for (const int64_t length : {1, 2, 63, 64, 65, 127, 128, 129, 1, 7}) {
    candidates.push_back(RandomTokens(11 + candidates.size(), length, config_.vocab_size));
  }
  Ids longest = RandomTokens(3, 270, config_.vocab_size);
  candidates.push_back(longest);
  longest.resize(260);
  candidates.push_back(longest);  // shares two pages
  longest[140] = 17;
  candidates.push_back(longest);  // shares one
  const testing::ScoringSetup setup = OnCuda();
  const auto shared = ScoreAll(setup, candidates);
  const auto alone = ScoreAll(setup, candidates, /*share_prefixes=*/false);
  const auto cpu = ScoreAll(OnCpu(), candidates);
  for (size_t i = 0; i < candidates.size(); ++i) {
    EXPECT_LE(testing::MaxAbsDifference(shared[i], alone[i]), 0.05) << i;
    EXPECT_LE(testing::MaxAbsDifference(shared[i], cpu[i]), kLogProbBound) << i;
    EXPECT_GE(testing::Cosine(shared[i], cpu[i]), testing::kBf16Cosine) << i;
  }
}

TEST_F(CudaDecoder, PlannedBytesAreEnough) {
  const testing::ScoringSetup setup = OnCuda();
  for (const std::vector<Ids>& candidates :
       {std::vector<Ids>{Ids{5}}, std::vector<Ids>(40, RandomTokens(1, 6, config_.vocab_size))}) {
    std::vector<int64_t> lengths;
    for (const Ids& c : candidates) lengths.push_back(static_cast<int64_t>(c.size()));
    const int64_t planned = ScorePass::PlanBytes(*setup.weights, cuda_->info(), 333, lengths);
    KvPagePool pages(cuda_->memory(), int64_t{1} << 40);
    ScorePass::Setup s = testing::MakeScoreSetup(setup, pages, candidates);
    s.on_scored = [](size_t, std::vector<float>) {};
    const int64_t before = cuda_->memory().allocated_bytes();
    auto pass = ScorePass::Create(std::move(s));
    ASSERT_TRUE(pass.ok()) << pass.status();
    WorkerScratch scratch(cpu_->scratch_memory());  // the emulated device can use it
    int64_t most = 0;
    for (; !(*pass)->finished(); (*pass)->NextPhase()) {
      for (int64_t step = 0; step < (*pass)->num_steps(); ++step) {
        ASSERT_TRUE((*pass)->RunStep(step, scratch).ok());
        most = std::max(most, cuda_->memory().allocated_bytes() - before);
      }
    }
    EXPECT_LE(most, planned);
    EXPECT_GE(most, planned / 2);
    pass->reset();
    EXPECT_EQ(cuda_->memory().allocated_bytes(), before);
  }
}

// What was generated, scored: the paged cache that grew token by token holds what teacher forcing
// computes at once.
TEST_F(CudaDecoder, TextScoresAsItWasGenerated) {
  const testing::ScoringSetup setup = OnCuda();
  KvPagePool pages(cuda_->memory(), int64_t{1} << 40);
  const Ids prompt = RandomTokens(2, 120, config_.vocab_size);
  const auto generate = [&](const SamplingOptions& sampling, int64_t tokens,
                            std::vector<float>* log_probs) {
    GeneratePass::Setup s;
    s.backend = cuda_.get();
    s.pages = &pages;
    s.weights = setup.weights;
    s.document = setup.document.get();
    s.cls = testing::kCls;
    s.sep = -1;  // never comes
    s.prompt = prompt;
    s.max_new_tokens = tokens;
    s.sampling = sampling;
    auto pass = GeneratePass::Create(std::move(s));
    EXPECT_TRUE(pass.ok()) << pass.status();
    const absl::Status status = testing::RunPass(*cuda_, **pass);
    EXPECT_TRUE(status.ok()) << status;
    if (log_probs != nullptr) *log_probs = (*pass)->TakeLogProbs();
    return (*pass)->TakeTokens();
  };
  SamplingOptions sampled;
  sampled.temperature = 1;
  sampled.top_k = 20;
  sampled.top_p = 0.9f;
  sampled.seed = 77;
  std::map<bool, Ids> texts;
  for (const bool greedy : {true, false}) {
    std::vector<float> log_probs;
    const Ids text = generate(greedy ? SamplingOptions() : sampled, 24, &log_probs);
    ASSERT_EQ(text.size(), 24u);
    Ids whole = prompt;
    whole.insert(whole.end(), text.begin(), text.end());
    const std::vector<float> scored = ScoreAll(setup, {whole})[0];
    EXPECT_LE(testing::MaxAbsDifference(
                  log_probs, absl::MakeConstSpan(scored).subspan(prompt.size(), text.size())),
              0.05);
    texts[greedy] = text;
  }
  EXPECT_NE(texts[true], texts[false]) << "sampling chose what is likeliest: the test shows little";
  EXPECT_EQ(generate(sampled, 24, nullptr), texts[false]) << "the same seed";
  sampled.seed = 78;
  EXPECT_NE(generate(sampled, 24, nullptr), texts[false]) << "another seed";
}

TEST_F(CudaDecoder, ForksOwnWhatTheyWrite) {
  KvPagePool pages(cuda_->memory(), int64_t{1} << 30);
  const KvShape shape = DecoderCacheShape(*cuda_decoder_->weights, cuda_->info());
  KvSequence first(pages, shape);
  ASSERT_TRUE(first.Extend(5).ok());
  const std::vector<char> some(static_cast<size_t>(shape.page_bytes()), 'x');
  cuda_->CopyToDevice(first.Block(0, 0), some.data(), shape.page_bytes());
  KvSequence second = first.Fork();
  EXPECT_EQ(second.page(0), first.page(0));
  ASSERT_TRUE(second.Extend(1).ok());
  EXPECT_NE(second.page(0), first.page(0));
  const absl::StatusOr<Placed> copy = cuda_->Fetch(second.page(0), shape.page_bytes());
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(std::memcmp(copy->data, some.data(), some.size()), 0);
}

}  // namespace
}  // namespace longdoc
