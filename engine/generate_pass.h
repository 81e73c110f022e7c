// Text from the decoder, token by token, over the paged cache:
//
//   the prompt's layers → logits → sample a token → its layers → logits → …
//
// Each round is a few phases of small steps, so that other work gets its turn in between, and a
// cancellation is seen at once.
//
// On a device a round of one token is one step: a few hundred ops that take it less time than the
// host needs to call them. They are the same calls in every round, so they are recorded and
// replayed. What differs (row_arrays.h) is copied to the device beforehand, and of the result only
// the token comes back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/decoder_layers.h"
#include "engine/pass.h"
#include "engine/sampler.h"
#include "engine/score_pass.h"

namespace longdoc {

class GeneratePass final : public Pass {
 public:
  struct Setup {
    Backend* backend = nullptr;
    KvPagePool* pages = nullptr;
    const DecoderWeights* weights = nullptr;
    const CrossKv* document = nullptr;
    int32_t cls = 0, sep = 0;
    absl::Span<const int32_t> prompt;  // the caller's until the pass is over
    int64_t max_new_tokens = 0;        // at least 1
    SamplingOptions sampling;
    std::function<void(int32_t token, float log_prob)> on_token;  // between steps; may be null
    bool record = true;                                           // false: for tests
  };

  static int64_t PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                           int64_t document_tokens, int64_t prompt_tokens, int64_t max_new_tokens);
  // RESOURCE_EXHAUSTED when the system refuses memory, or the cache is full.
  static absl::StatusOr<std::unique_ptr<GeneratePass>> Create(Setup setup);

  int64_t num_steps() const override { return num_steps_; }
  bool finished() const override { return phase_ == Phase::kDone; }
  // Also fails with what went wrong between the steps.
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) override;
  void NextPhase() override;
  double Progress(int64_t steps_done) const override;

  // After the end.
  std::vector<int32_t> TakeTokens() { return std::move(tokens_); }
  std::vector<float> TakeLogProbs() { return std::move(log_probs_); }
  bool stopped() const { return stopped_; }
  DecodeCount count() const;

 private:
  // kRound instead of the first three.
  enum class Phase { kLayers, kLogits, kSample, kRound, kDone };
  // Where the ops of a round work, as far as that may change between rounds.
  using Addresses = std::array<const void*, 6>;

  explicit GeneratePass(Setup setup);
  absl::Status Feed(std::vector<int32_t> ids);
  absl::Status TakeToken();
  absl::Status RunLogits(int64_t step, WorkerScratch& scratch);
  absl::Status RunSample(WorkerScratch& scratch);
  absl::Status RunRound(WorkerScratch& scratch);
  absl::Status CallRound(WorkerScratch& scratch);
  absl::Status CallSampleToken(WorkerScratch& scratch);
  absl::Status FetchToken();
  Addresses AddressesOf(const WorkerScratch& scratch) const;
  int64_t key_capacity() const;
  void EnterPhase(Phase phase);

  Setup setup_;
  Sampler sampler_;
  KvSequence keys_;
  std::unique_ptr<DecoderLayers> layers_;
  std::vector<int32_t> next_ids_;  // inputs of this round
  DecoderInput input_;
  Buffer logits_;  // [V], of the round's last row, unscaled
  Buffer token_;   // a SampledToken, where the device samples
  SampledToken sampled_;
  std::vector<int32_t> tokens_;
  std::vector<float> log_probs_;
  bool stopped_ = false;

  std::unique_ptr<OpRecording> recording_;  // null: rounds are not recorded
  Addresses called_{}, recorded_{};  // of the last round that was called; of the recorded one

  absl::Status failure_;
  Phase phase_ = Phase::kDone;
  int64_t num_steps_ = 0;

  const Backend::NanosecondCount spent_ = std::make_shared<std::atomic<int64_t>>(0);
  DecodeCount count_;  // but for the time
};

}  // namespace longdoc
