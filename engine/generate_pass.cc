#include "engine/generate_pass.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/encode_pass.h"

namespace longdoc {
GeneratePass::GeneratePass(Setup setup)
    : setup_(std::move(setup)),
      sampler_(setup_.sampling),
      keys_(*setup_.pages, DecoderCacheShape(*setup_.weights, setup_.backend->info())) {}

int64_t GeneratePass::PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                                int64_t document_tokens, int64_t prompt_tokens,
                                int64_t max_new_tokens) {
  return DecoderLayers::PlanBytes(weights, backend, document_tokens, prompt_tokens + 1) +
         4 * weights.config.vocab_size + static_cast<int64_t>(sizeof(SampledToken)) +
         KvPages(prompt_tokens + max_new_tokens) * DecoderCacheShape(weights, backend).page_bytes();
}

absl::StatusOr<std::unique_ptr<GeneratePass>> GeneratePass::Create(Setup setup) {
  std::unique_ptr<GeneratePass> pass(new GeneratePass(std::move(setup)));
  const Setup& s = pass->setup_;
  LD_CHECK(s.max_new_tokens > 0);
  std::vector<int32_t> inputs = {s.cls};
  inputs.insert(inputs.end(), s.prompt.begin(), s.prompt.end());
  ASSIGN_OR_RETURN(pass->layers_, DecoderLayers::Create(*s.backend, *s.weights, *s.document,
                                                        static_cast<int64_t>(inputs.size())));
  ASSIGN_OR_RETURN(pass->logits_, s.backend->memory().Allocate(4 * s.weights->config.vocab_size,
                                                               /*zeroed=*/false));
  if (s.backend->info().device_rounds) {
    ASSIGN_OR_RETURN(pass->token_, s.backend->memory().Allocate(sizeof(SampledToken), false));
    if (s.record) pass->recording_ = s.backend->NewRecording();
  }
  RETURN_IF_ERROR(pass->Feed(std::move(inputs)));
  return pass;
}

// [CLS], the prompt and all new tokens but the last, which is nobody's input.
int64_t GeneratePass::key_capacity() const {
  return static_cast<int64_t>(setup_.prompt.size()) + setup_.max_new_tokens;
}

// The next inputs, behind those that are in the cache.
absl::Status GeneratePass::Feed(std::vector<int32_t> ids) {
  next_ids_ = std::move(ids);
  input_.ids = next_ids_;
  input_.first = keys_.tokens();
  input_.keys = &keys_;
  RETURN_IF_ERROR(keys_.Extend(static_cast<int64_t>(next_ids_.size())));
  const double draw = UniformDraw(setup_.sampling.seed, tokens_.size());
  RETURN_IF_ERROR(layers_->Begin(absl::MakeConstSpan(&input_, 1),
                                 {key_capacity(), absl::MakeConstSpan(&draw, 1)}));
  const bool whole_round = setup_.backend->info().device_rounds && next_ids_.size() == 1;
  EnterPhase(whole_round ? Phase::kRound : Phase::kLayers);
  return absl::OkStatus();
}

// Ends the generation, or feeds the new token.
absl::Status GeneratePass::TakeToken() {
  const SampledToken token = sampled_;
  if (token.id == setup_.sep) {
    stopped_ = true;
    EnterPhase(Phase::kDone);
    return absl::OkStatus();
  }
  tokens_.push_back(token.id);
  log_probs_.push_back(token.log_prob);
  if (setup_.on_token) setup_.on_token(token.id, token.log_prob);
  if (static_cast<int64_t>(tokens_.size()) < setup_.max_new_tokens) return Feed({token.id});
  EnterPhase(Phase::kDone);
  return absl::OkStatus();
}

void GeneratePass::EnterPhase(Phase phase) {
  phase_ = phase;
  num_steps_ = phase == Phase::kSample || phase == Phase::kRound ? 1 : 0;
  if (phase == Phase::kLayers) num_steps_ = layers_->num_steps();
  if (phase == Phase::kLogits) {
    num_steps_ = static_cast<int64_t>(setup_.weights->vocabulary.size());
  }
}

void GeneratePass::NextPhase() {
  if (phase_ == Phase::kLayers) {
    layers_->NextPhase();
    EnterPhase(layers_->finished() ? Phase::kLogits : Phase::kLayers);
  } else if (phase_ == Phase::kLogits) {
    EnterPhase(Phase::kSample);
  } else if (phase_ == Phase::kSample || phase_ == Phase::kRound) {
    count_.rows += layers_->rows();
    count_.targets += 1;
    failure_ = TakeToken();
    // A step tells; the phase in which it happens does not matter any more.
    if (!failure_.ok()) EnterPhase(Phase::kSample);
  }
}

absl::Status GeneratePass::RunStep(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(failure_);
  const StepTimer timer(*setup_.backend, spent_);
  switch (phase_) {
    case Phase::kLayers:
      return layers_->RunStep(step, scratch);
    case Phase::kLogits:
      return RunLogits(step, scratch);
    case Phase::kSample:
      return RunSample(scratch);
    case Phase::kRound:
      return RunRound(scratch);
    case Phase::kDone:
      break;
  }
  return absl::InternalError("the generation is over");
}

absl::Status GeneratePass::RunLogits(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(DecoderFinalNorm(layers_->state(), {layers_->rows() - 1, 1}, nullptr, scratch));
  return setup_.weights->vocabulary[step]->Gemm(
      1, scratch.input.data(), logits_.as<float>() + step * DecoderWeights::kVocabularyTile);
}

absl::Status GeneratePass::RunSample(WorkerScratch& scratch) {
  if (token_.data() != nullptr) {
    RETURN_IF_ERROR(CallSampleToken(scratch));
    return FetchToken();
  }
  ASSIGN_OR_RETURN(const Placed logits, setup_.backend->Fetch(logits_.data(), logits_.bytes()));
  const size_t size = static_cast<size_t>(setup_.weights->config.vocab_size);
  ASSIGN_OR_RETURN(sampled_,
                   sampler_.Next({logits.as<float>(), size}, setup_.weights->LogitScale()));
  return absl::OkStatus();
}

// What a round has been called with can be recorded: by then scratch is large enough, and products
// and kernels have been prepared for such rows. Another pass may make scratch move; then a round is
// called and the next one recorded again.
absl::Status GeneratePass::RunRound(WorkerScratch& scratch) {
  const Addresses now = AddressesOf(scratch);
  if (recording_ != nullptr && now == called_ && now != recorded_) {
    ASSIGN_OR_RETURN(const bool recorded, recording_->Record([&] { return CallRound(scratch); }));
    if (recorded) {
      recorded_ = now;
      ++count_.recorded_rounds;
    } else {
      recording_ = nullptr;
    }
  }
  if (recording_ != nullptr && now == recorded_) {
    recording_->Replay();
    ++count_.replayed_rounds;
  } else {
    RETURN_IF_ERROR(CallRound(scratch));
    called_ = AddressesOf(scratch);
  }
  return FetchToken();
}

// All ops of a round.
absl::Status GeneratePass::CallRound(WorkerScratch& scratch) {
  RETURN_IF_ERROR(layers_->RunAll(scratch));
  RETURN_IF_ERROR(DecoderFinalNorm(layers_->state(), {layers_->rows() - 1, 1}, nullptr, scratch));
  float* logits = logits_.as<float>();
  for (const auto& tile : setup_.weights->vocabulary) {
    RETURN_IF_ERROR(tile->Gemm(1, scratch.input.data(), logits));
    logits += tile->n();
  }
  return CallSampleToken(scratch);
}

absl::Status GeneratePass::CallSampleToken(WorkerScratch& scratch) {
  SampleTokenArgs args;
  args.logits = logits_.as<float>();
  args.vocabulary = setup_.weights->config.vocab_size;
  args.scale = setup_.weights->LogitScale();
  args.options = setup_.sampling;
  args.draw = layers_->state().placed_draws;
  args.token = token_.as<SampledToken>();
  RETURN_IF_ERROR(
      scratch.Ensure(scratch.wide, setup_.backend->SampleScratchBytes(args.vocabulary)));
  args.scratch = scratch.wide.data();
  setup_.backend->SampleToken(args);
  return absl::OkStatus();
}

absl::Status GeneratePass::FetchToken() {
  ASSIGN_OR_RETURN(const Placed token, setup_.backend->Fetch(token_.data(), token_.bytes()));
  sampled_ = *token.as<SampledToken>();
  return sampled_.id < 0 ? LogitsNotFinite() : absl::OkStatus();
}

GeneratePass::Addresses GeneratePass::AddressesOf(const WorkerScratch& scratch) const {
  return {layers_->state().placed_ids, scratch.wide.data(), scratch.input.data(),
          scratch.inner.data(),        scratch.tile.data(), scratch.attention.data()};
}

double GeneratePass::Progress(int64_t /*steps_done*/) const {
  return static_cast<double>(tokens_.size()) / static_cast<double>(setup_.max_new_tokens);
}

DecodeCount GeneratePass::count() const {
  DecodeCount count = count_;
  count.worker_seconds = 1e-9 * static_cast<double>(*spent_);
  return count;
}

}  // namespace longdoc
