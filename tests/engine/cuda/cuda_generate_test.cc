// Generation on the device: rounds that are recorded and replayed, and tokens that it samples.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "engine/base/status_macros.h"
#include "engine/generate_pass.h"
#include "engine/spill.h"
#include "gtest/gtest.h"
#include "tests/engine/decoder/decoder_helpers.h"

namespace longdoc {
namespace {

using testing::RandomFloats;
using testing::RandomTokens;
using Ids = std::vector<int32_t>;

constexpr double kLogProbBound = 0.5;  // from fp32, as of the CPU's bf16

const SamplingOptions kGreedy;
const SamplingOptions kTruncated = {1.3f, 40, 0.9f, 77};

struct Text {
  Ids tokens;
  std::vector<float> log_probs;
  DecodeCount count;
};

// One phase as the scheduler runs it.
absl::Status RunPhase(Backend& backend, Pass& pass, WorkerScratch& scratch) {
  for (int64_t step = 0; step < pass.num_steps(); ++step) {
    absl::Status status = pass.RunStep(step, scratch);
    status.Update(backend.EndStep());
    RETURN_IF_ERROR(status);
  }
  pass.NextPhase();
  return absl::OkStatus();
}

// A decoder on one backend, and a document there.
struct Side {
  Side(std::unique_ptr<Backend> on, const Colt5Config& config) : backend(std::move(on)) {
    backend->InitWorkerThread();
    decoder.emplace(*backend, config, 5);
    document = testing::RandomDocument(*backend, config, 333, DType::kBF16, 9);
    pages.emplace(backend->memory(), int64_t{1} << 40);
    scratch.emplace(backend->scratch_memory());
  }
  // `prompt` outlives the pass. [SEP] never comes.
  std::unique_ptr<GeneratePass> Begin(const Ids& prompt, int64_t tokens,
                                      const SamplingOptions& sampling, bool record = true) {
    GeneratePass::Setup s;
    s.backend = backend.get();
    s.pages = &*pages;
    s.weights = decoder->weights.get();
    s.document = document.get();
    s.cls = testing::kCls;
    s.sep = -2;
    s.prompt = prompt;
    s.max_new_tokens = tokens;
    s.sampling = sampling;
    s.record = record;
    auto pass = GeneratePass::Create(std::move(s));
    EXPECT_TRUE(pass.ok()) << pass.status();
    return *std::move(pass);
  }
  absl::Status Run(GeneratePass& pass) {
    while (!pass.finished()) RETURN_IF_ERROR(RunPhase(*backend, pass, *scratch));
    return absl::OkStatus();
  }
  Text Generate(const Ids& prompt, int64_t tokens, const SamplingOptions& sampling,
                bool record = true) {
    const auto pass = Begin(prompt, tokens, sampling, record);
    const absl::Status status = Run(*pass);
    EXPECT_TRUE(status.ok()) << status;
    Text text{pass->TakeTokens(), pass->TakeLogProbs(), pass->count()};
    EXPECT_EQ(text.tokens.size(), static_cast<size_t>(tokens));
    return text;
  }

  std::unique_ptr<Backend> backend;
  std::optional<testing::RandomDecoder> decoder;
  std::shared_ptr<const CrossKv> document;
  std::optional<KvPagePool> pages;
  std::optional<WorkerScratch> scratch;
};

class CudaGenerate : public ::testing::Test {
 protected:
  const Colt5Config config_ = testing::SmallDecoderConfig();
  Side cuda_{*MakeCudaBackend(CudaOptions()), config_};
};

// Also where the cache grows by pages, of 128 tokens each.
TEST_F(CudaGenerate, ReplayedRoundsAreTheCalledOnes) {
  struct Case {
    int64_t prompt, tokens;
    SamplingOptions sampling;
  };
  for (const Case& c :
       {Case{120, 20, kGreedy}, Case{0, 8, kTruncated}, Case{250, 12, kTruncated},
        Case{5, 9, {0.7f, 0, 1, 3}}, Case{5, 9, {1, 30, 1, 4}}, Case{5, 9, {1, 0, 0.8f, 5}}}) {
    SCOPED_TRACE(c.prompt);
    const Ids prompt = RandomTokens(2, c.prompt, config_.vocab_size);
    const Text called = cuda_.Generate(prompt, c.tokens, c.sampling, /*record=*/false);
    const Text replayed = cuda_.Generate(prompt, c.tokens, c.sampling);
    EXPECT_EQ(replayed.tokens, called.tokens);
    EXPECT_EQ(replayed.log_probs, called.log_probs);
    EXPECT_EQ(called.count.recorded_rounds, 0);
    EXPECT_EQ(called.count.replayed_rounds, 0);
    // The first round of one token is called. That of [CLS] is one, too, when there is no prompt.
    EXPECT_EQ(replayed.count.recorded_rounds, 1);
    EXPECT_EQ(replayed.count.replayed_rounds, c.tokens - (c.prompt == 0 ? 1 : 2));
    EXPECT_EQ(replayed.count.rows, called.count.rows);
    EXPECT_GT(replayed.count.worker_seconds, 0);
  }
}

// As far as both wrote the same, they found it about as likely; and where the device samples other
// tokens than the host that is because of bf16, and rare.
TEST_F(CudaGenerate, AgreesWithTheCpu) {
  Side cpu(MakeCpuBackend(DType::kF32, 1), config_);
  int64_t same = 0, all = 0;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    const Ids prompt = RandomTokens(seed, 3, config_.vocab_size);
    SamplingOptions sampling = seed % 2 == 0 ? kGreedy : kTruncated;
    sampling.seed = seed;
    const Text a = cuda_.Generate(prompt, 6, sampling), b = cpu.Generate(prompt, 6, sampling);
    EXPECT_EQ(b.count.replayed_rounds, 0);
    for (size_t i = 0; i < a.tokens.size(); ++i, ++same) {
      ++all;
      if (a.tokens[i] != b.tokens[i]) break;
      EXPECT_NEAR(a.log_probs[i], b.log_probs[i], kLogProbBound) << seed << ", " << i;
    }
  }
  EXPECT_GE(same, all * 8 / 10) << "of " << all;
  EXPECT_GE(all, 60);
}

TEST_F(CudaGenerate, SeveralInTurn) {
  const Ids prompts[] = {
      RandomTokens(1, 4, config_.vocab_size), RandomTokens(2, 125, config_.vocab_size), {}};
  const SamplingOptions sampling[] = {kGreedy, kTruncated, {1, 0, 1, 8}};
  std::vector<Text> alone;
  for (int i = 0; i < 3; ++i) alone.push_back(cuda_.Generate(prompts[i], 10, sampling[i]));
  std::vector<std::unique_ptr<GeneratePass>> passes;
  for (int i = 0; i < 3; ++i) passes.push_back(cuda_.Begin(prompts[i], 10, sampling[i]));
  for (bool running = true; running;) {
    running = false;
    for (const auto& pass : passes) {
      if (pass->finished()) continue;
      running = true;
      ASSERT_TRUE(RunPhase(*cuda_.backend, *pass, *cuda_.scratch).ok());
    }
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(passes[i]->TakeTokens(), alone[i].tokens) << i;
    EXPECT_EQ(passes[i]->TakeLogProbs(), alone[i].log_probs) << i;
    EXPECT_GT(passes[i]->count().replayed_rounds, 5) << i;
  }
}

TEST_F(CudaGenerate, RecordsAgainWhenScratchHasMoved) {
  const Ids prompt = {7, 8, 9};
  const Text want = cuda_.Generate(prompt, 14, kTruncated);
  const auto pass = cuda_.Begin(prompt, 14, kTruncated);
  Backend& backend = *cuda_.backend;
  while (pass->count().replayed_rounds < 3) {
    ASSERT_TRUE(RunPhase(backend, *pass, *cuda_.scratch).ok());
  }
  // Another pass needs more of it, and a third one gets the old piece.
  Buffer& wide = cuda_.scratch->wide;
  const void* const old = wide.data();
  const int64_t bytes = wide.bytes();
  ASSERT_TRUE(cuda_.scratch->Ensure(wide, 3 * bytes).ok());
  ASSERT_NE(wide.data(), old);
  const std::vector<char> theirs(static_cast<size_t>(bytes), 'x');
  absl::StatusOr<Buffer> taken = backend.memory().Allocate(bytes, /*zeroed=*/false);
  ASSERT_TRUE(taken.ok());
  ASSERT_EQ(taken->data(), old);
  backend.CopyToDevice(taken->data(), theirs.data(), bytes);
  ASSERT_TRUE(cuda_.Run(*pass).ok());
  EXPECT_EQ(pass->count().recorded_rounds, 2);
  EXPECT_EQ(pass->count().replayed_rounds, want.count.replayed_rounds - 1);
  EXPECT_EQ(pass->TakeTokens(), want.tokens);
  std::vector<char> found(theirs.size());
  ASSERT_TRUE(backend.CopyToHost(found.data(), taken->data(), bytes).ok());
  EXPECT_EQ(found, theirs);
}

TEST_F(CudaGenerate, WithoutRecordingRoundsAreCalled) {
  const Ids prompt = {7, 8};
  const Text want = cuda_.Generate(prompt, 8, kTruncated);
  kernels::cuda::emulation::AllowCaptures(false);
  const Text got = cuda_.Generate(prompt, 8, kTruncated);
  kernels::cuda::emulation::AllowCaptures(true);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.log_probs, want.log_probs);
  EXPECT_EQ(got.count.recorded_rounds, 0);
  EXPECT_EQ(got.count.replayed_rounds, 0);
  EXPECT_EQ(cuda_.Generate(prompt, 8, kTruncated).count.recorded_rounds, 1);
}

// A recording has the document's address. It cannot move before the end; afterwards it can, and
// another recording finds it where it is then.
TEST_F(CudaGenerate, TheDocumentStaysUntilTheEnd) {
  MemorySpill& spill = *cuda_.backend->spill();
  spill.Add(*cuda_.document);
  const Ids prompt = {7, 8, 9};
  auto pass = cuda_.Begin(prompt, 10, kGreedy);
  while (!pass->finished()) {
    EXPECT_FALSE(spill.SpillOne());
    ASSERT_TRUE(RunPhase(*cuda_.backend, *pass, *cuda_.scratch).ok());
  }
  const Ids tokens = pass->TakeTokens();
  pass.reset();
  const void* const old = cuda_.document->layers[0].data();
  EXPECT_TRUE(spill.SpillOne());
  absl::StatusOr<Buffer> taken =  // its place
      cuda_.backend->memory().Allocate(cuda_.document->layers[0].bytes(), /*zeroed=*/true);
  ASSERT_TRUE(taken.ok());
  pass = cuda_.Begin(prompt, 10, kGreedy);
  EXPECT_TRUE(taken->data() == old || cuda_.document->layers[1].data() != old);
  EXPECT_NE(cuda_.document->layers[0].data(), old);
  ASSERT_TRUE(cuda_.Run(*pass).ok());
  EXPECT_EQ(pass->TakeTokens(), tokens);
  EXPECT_EQ(spill.stats().returned, 1);
}

TEST_F(CudaGenerate, LogitsThatAreNotFiniteEndIt) {
  const Ids prompt = {7, 8, 9};
  for (const int64_t replays : {0, 3}) {
    const auto pass = cuda_.Begin(prompt, 12, kTruncated);
    while (pass->count().replayed_rounds < replays) {
      ASSERT_TRUE(RunPhase(*cuda_.backend, *pass, *cuda_.scratch).ok());
    }
    const Buffer& layer = cuda_.document->layers[1];
    std::vector<char> sound(static_cast<size_t>(layer.bytes()));
    ASSERT_TRUE(cuda_.backend->CopyToHost(sound.data(), layer.data(), layer.bytes()).ok());
    const std::vector<char> nan(sound.size(), '\xff');
    cuda_.backend->CopyToDevice(layer.data(), nan.data(), layer.bytes());
    const absl::Status status = cuda_.Run(*pass);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_EQ(status.message(), LogitsNotFinite().message());
    cuda_.backend->CopyToDevice(layer.data(), sound.data(), layer.bytes());
  }
}

TEST_F(CudaGenerate, PlannedBytesAreEnough) {
  for (const auto& [prompt_tokens, new_tokens] : {std::pair{0, 3}, {3, 12}, {200, 5}}) {
    const Ids prompt = RandomTokens(3, prompt_tokens, config_.vocab_size);
    const int64_t planned = GeneratePass::PlanBytes(*cuda_.decoder->weights, cuda_.backend->info(),
                                                    333, prompt_tokens, new_tokens);
    MemoryPool& memory = cuda_.backend->memory();
    cuda_.Generate(prompt, new_tokens, kTruncated);  // scratch has grown
    const int64_t before = memory.allocated_bytes();
    auto pass = cuda_.Begin(prompt, new_tokens, kTruncated);
    int64_t most = 0;
    while (!pass->finished()) {
      ASSERT_TRUE(RunPhase(*cuda_.backend, *pass, *cuda_.scratch).ok());
      most = std::max(most, memory.allocated_bytes() - before);
    }
    EXPECT_LE(most, planned);
    EXPECT_GE(most, planned / 2);
    pass.reset();
    EXPECT_EQ(memory.allocated_bytes(), before);
  }
}

// ---- the backend's ops --------------------------------------------------------------------------

TEST_F(CudaGenerate, SamplesWhatTheHostSamples) {
  constexpr int64_t kVocabulary = 3000;
  constexpr float kScale = 0.125f;
  Backend& backend = *cuda_.backend;
  std::vector<float> logits = RandomFloats(4, kVocabulary, 60);
  for (size_t v = 0; v < logits.size(); v += 7) logits[v] = std::round(logits[v] / 4) * 4;  // ties
  auto scratch = backend.memory().Allocate(backend.SampleScratchBytes(kVocabulary), false);
  auto token = backend.memory().Allocate(sizeof(SampledToken), false);
  ASSERT_TRUE(scratch.ok() && token.ok());
  SampleTokenArgs args;
  args.vocabulary = kVocabulary;
  args.scale = kScale;
  args.token = token->as<SampledToken>();
  args.scratch = scratch->data();
  const auto sample = [&](double draw) {
    const auto placed = backend.Place(logits.data(), 4 * kVocabulary);
    const auto placed_draw = backend.Place(&draw, sizeof(draw));
    args.logits = placed->as<float>();
    args.draw = placed_draw->as<double>();
    backend.SampleToken(args);
    return *backend.Fetch(token->data(), token->bytes())->as<SampledToken>();
  };
  for (const SamplingOptions& options :
       {kGreedy, kTruncated, SamplingOptions{2, 0, 1, 1}, SamplingOptions{0.5f, 9, 1, 2},
        SamplingOptions{3, 0, 0.3f, 3}, SamplingOptions{1, 0, 0, 4}}) {
    Sampler sampler(options);
    args.options = options;
    for (uint64_t i = 0; i < 12; ++i) {
      const SampledToken want = *sampler.Next(logits, kScale);
      const SampledToken got = sample(UniformDraw(options.seed, i));
      EXPECT_EQ(got.id, want.id) << options.temperature << " " << i;
      EXPECT_NEAR(got.log_prob, want.log_prob, 1e-5);
    }
  }
  logits[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(sample(0.5).id, -1);
}

TEST_F(CudaGenerate, OnlyOpsOfThisThreadAreRecorded) {
  Backend& backend = *cuda_.backend;
  const std::vector<float> ones(64, 1);
  const auto in = backend.Place(ones.data(), 256), out = backend.Place(ones.data(), 256),
             other = backend.Place(ones.data(), 256);
  ASSERT_TRUE(in.ok() && out.ok() && other.ok());
  const auto read = [&](const Placed& placed) {
    float value = 0;
    EXPECT_TRUE(backend.CopyToHost(&value, placed.data, 4).ok());
    return value;
  };
  kernels::ScatterAddArgs add;
  add.rows = 1;
  add.dim = 64;
  add.in = in->as<float>();
  add.out = out->copy.as<float>();
  const auto recording = backend.NewRecording();
  absl::StatusOr<bool> recorded = recording->Record([&] {
    backend.ScatterAdd(add);
    std::thread([&] {
      backend.InitWorkerThread();
      const std::vector<float> twos(64, 2);
      backend.CopyToDevice(other->copy.data(), twos.data(), 256);
    }).join();
    backend.ScatterAdd(add);
    return absl::OkStatus();
  });
  ASSERT_TRUE(recorded.ok() && *recorded) << recorded.status();
  EXPECT_EQ(read(*out), 1) << "nothing has run yet";
  EXPECT_EQ(read(*other), 2);
  backend.CopyToDevice(other->copy.data(), ones.data(), 256);
  recording->Replay();
  EXPECT_EQ(read(*out), 3);
  recording->Replay();
  EXPECT_EQ(read(*out), 5);
  EXPECT_EQ(read(*other), 1);
}

TEST_F(CudaGenerate, WhatCannotBeRecordedIsNot) {
  Backend& backend = *cuda_.backend;
  const auto recording = backend.NewRecording();
  kernels::GatedGeluArgs bad;
  bad.rows = -1;
  const float value = 1;
  const auto place = backend.Place(&value, 4);
  ASSERT_TRUE(place.ok());
  const std::function<absl::Status()> faults[] = {
      [&] { return absl::InternalError("of the caller"); },
      [&] {
        backend.GatedGelu(bad);
        return absl::OkStatus();
      },
      [&] {
        backend.CopyToDevice(place->copy.data(), &value, 4);
        return absl::OkStatus();
      },
      [&] { return backend.Synchronize(); },
      [&] { return backend.memory().Allocate(100 << 20, false).status(); },
  };
  for (const auto& fault : faults) {
    const absl::StatusOr<bool> recorded = recording->Record(fault);
    ASSERT_TRUE(recorded.ok()) << recorded.status();
    EXPECT_FALSE(*recorded);
    EXPECT_TRUE(backend.EndStep().ok());
  }
  // What went wrong before is told.
  backend.GatedGelu(bad);
  const absl::Status status = recording->Record([] { return absl::OkStatus(); }).status();
  EXPECT_TRUE(absl::StartsWith(status.message(), "cuda: gated gelu: ")) << status;
  EXPECT_TRUE(*recording->Record([] { return absl::OkStatus(); }));
}

}  // namespace
}  // namespace longdoc
