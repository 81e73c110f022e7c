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
         4 * weights.config.vocab_size +
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
  RETURN_IF_ERROR(pass->Feed(std::move(inputs)));
  return pass;
}

// The next inputs, behind those that are in the cache.
absl::Status GeneratePass::Feed(std::vector<int32_t> ids) {
  next_ids_ = std::move(ids);
  input_.ids = next_ids_;
  input_.first = keys_.tokens();
  input_.keys = &keys_;
  RETURN_IF_ERROR(keys_.Extend(static_cast<int64_t>(next_ids_.size())));
  RETURN_IF_ERROR(layers_->Begin(absl::MakeConstSpan(&input_, 1)));
  EnterPhase(Phase::kLayers);
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
  num_steps_ = phase == Phase::kSample ? 1 : 0;
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
  } else if (phase_ == Phase::kSample) {
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
  if (phase_ == Phase::kLayers) return layers_->RunStep(step, scratch);
  return phase_ == Phase::kLogits ? RunLogits(step, scratch) : RunSample();
}

absl::Status GeneratePass::RunLogits(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(DecoderFinalNorm(layers_->state(), {layers_->rows() - 1, 1}, scratch));
  return setup_.weights->vocabulary[step]->Gemm(
      1, scratch.input.data(), logits_.as<float>() + step * DecoderWeights::kVocabularyTile);
}

absl::Status GeneratePass::RunSample() {
  ASSIGN_OR_RETURN(const Placed logits, setup_.backend->Fetch(logits_.data(), logits_.bytes()));
  const size_t size = static_cast<size_t>(setup_.weights->config.vocab_size);
  ASSIGN_OR_RETURN(sampled_,
                   sampler_.Next({logits.as<float>(), size}, setup_.weights->LogitScale()));
  return absl::OkStatus();
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
