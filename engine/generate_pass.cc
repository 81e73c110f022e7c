#include "engine/generate_pass.h"

#include <chrono>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace longdoc {
GeneratePass::GeneratePass(Setup setup)
    : setup_(std::move(setup)),
      sampler_(setup_.sampling),
      keys_(*setup_.pages, DecoderCacheShape(*setup_.weights, setup_.backend->info())) {}

int64_t GeneratePass::PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                                int64_t document_tokens, int64_t prompt_tokens,
                                int64_t max_new_tokens) {
  return DecoderLayers::PlanBytes(weights, backend, document_tokens, prompt_tokens + 1) +
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
  pass->logits_.resize(static_cast<size_t>(s.weights->config.vocab_size));
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
  layers_->Begin(absl::MakeConstSpan(&input_, 1));
  EnterPhase(Phase::kLayers);
  return absl::OkStatus();
}

// Ends the generation, or feeds the new token.
absl::Status GeneratePass::TakeToken() {
  ASSIGN_OR_RETURN(const SampledToken token, sampler_.Next(logits_, setup_.weights->LogitScale()));
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
  num_steps_ = 0;
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
    {
      std::lock_guard lock(count_mutex_);
      count_.rows += layers_->rows();
      count_.targets += 1;
    }
    failure_ = TakeToken();
    // A step tells; the phase in which it happens does not matter any more.
    if (!failure_.ok()) EnterPhase(Phase::kLogits);
  }
}

absl::Status GeneratePass::RunStep(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(failure_);
  const auto start = std::chrono::steady_clock::now();
  absl::Status status =
      phase_ == Phase::kLayers ? layers_->RunStep(step, scratch) : RunLogits(step, scratch);
  std::lock_guard lock(count_mutex_);
  count_.worker_seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return status;
}

absl::Status GeneratePass::RunLogits(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(DecoderFinalNorm(layers_->state(), {layers_->rows() - 1, 1}, scratch));
  return setup_.weights->vocabulary[step]->Gemm(
      1, scratch.input.data(), logits_.data() + step * DecoderWeights::kVocabularyTile);
}

double GeneratePass::Progress(int64_t /*steps_done*/) const {
  return static_cast<double>(tokens_.size()) / static_cast<double>(setup_.max_new_tokens);
}

DecodeCount GeneratePass::count() const {
  std::lock_guard lock(count_mutex_);
  return count_;
}

}  // namespace longdoc
