#include "engine/forward_pass.h"

#include <algorithm>

#include "engine/arriving_ids.h"
#include "engine/base/check.h"
#include "engine/planner.h"

namespace longdoc {

ForwardPass::ForwardPass(Backend& backend, const EncoderModel& model, const AttentionPolicy& policy,
                         const std::vector<PassSequence>& sequences)
    : model_(model),
      policy_(policy),
      packing_(sequences),
      pooling_(backend, packing_, model.config().hidden_size, /*projection=*/nullptr),
      to_keep_(backend, packing_, model.config().hidden_size) {
  state_.backend = &backend;
  state_.model = &model;
}

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(
    Backend& backend, const EncoderModel& model, const AttentionPolicy& policy,
    const std::vector<PassSequence>& sequences) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(backend, model, policy, sequences));
  RETURN_IF_ERROR(pass->Allocate());
  pass->PlanWork();
  pass->EnterPhase(Phase::kEmbed);
  return pass;
}

absl::Status ForwardPass::Allocate() {
  Backend& backend = *state_.backend;
  const EncoderConfig& config = model_.config();
  ASSIGN_OR_RETURN(ids_, PlaceIds(backend, packing_));
  state_.ids = ids_.as<int32_t>();
  ASSIGN_OR_RETURN(x_, backend.memory().Allocate(packing_.tokens() * config.hidden_size * 4,
                                                 /*zeroed=*/false));
  kernels::AttentionProblem problem =
      MakeAttentionProblem(config.slopes, config.head_dim, backend.info(), policy_);
  problem.num_sequences = static_cast<int64_t>(packing_.sequences.size());
  problem.cu_seqlens = packing_.cu_seqlens.data();
  ASSIGN_OR_RETURN(attention_, backend.MakeAttention(problem));
  RETURN_IF_ERROR(pooling_.Allocate());
  RETURN_IF_ERROR(to_keep_.Allocate());
  bytes_ = ids_.copy.bytes() + x_.bytes() + backend.AttentionBytes(problem) + pooling_.bytes() +
           to_keep_.bytes();
  state_.x = x_.as<float>();
  state_.attention = attention_.get();
  return absl::OkStatus();
}

void ForwardPass::PlanWork() {
  tile_rows_ = TileRows(state_.backend->info(), packing_.tokens());
  const EncoderConfig& config = model_.config();
  const double layers = static_cast<double>(config.num_layers);
  for (size_t s = 0; s < packing_.sequences.size(); ++s) {
    const int64_t n = packing_.tokens(s);
    attention_weight_ +=
        ExpectedTileFraction(config.slopes, policy_, n) * DenseAttentionFlops(config, n) / layers;
  }
  weight_total_ = attention_weight_ * layers + dense_flops();
}

double ForwardPass::dense_flops() const {
  return DenseFlopsPerToken(model_.config()) * static_cast<double>(packing_.tokens());
}

int64_t ForwardPass::StepsOf(Phase phase) const {
  switch (phase) {
    case Phase::kEmbed:
    case Phase::kMix:
      return kernels::CeilDiv(packing_.tokens(), tile_rows_);
    case Phase::kBound:
      return attention_->num_bound_steps();
    case Phase::kAttend:
      return attention_->num_attend_steps();
    case Phase::kPool:
      return pooling_.num_steps();
    case Phase::kKeep:
      return to_keep_.num_steps();
    case Phase::kFetch:
      return 1;
    case Phase::kDone:
      return 0;
  }
  return 0;
}

double ForwardPass::WeightOf(Phase phase) const {
  const EncoderConfig& config = model_.config();
  const double dense = dense_flops();
  const double project = 6.0 * static_cast<double>(config.hidden_size * config.hidden_size) *
                         static_cast<double>(packing_.tokens());
  const double layers = static_cast<double>(config.num_layers);
  if (phase == Phase::kEmbed) return project;
  if (phase == Phase::kAttend) return attention_weight_;
  if (phase == Phase::kMix)
    return dense / layers - (layer_ + 1 == model_.layers().size() ? project : 0);
  return 0;
}

void ForwardPass::EnterPhase(Phase phase) {
  phase_ = phase;
  num_steps_ = StepsOf(phase);
}

void ForwardPass::NextPhase() {
  do {
    weight_done_ += WeightOf(phase_);
    switch (phase_) {
      case Phase::kEmbed:
        EnterPhase(Phase::kBound);
        break;
      case Phase::kBound:
        EnterPhase(Phase::kAttend);
        break;
      case Phase::kAttend:
        EnterPhase(Phase::kMix);
        break;
      case Phase::kMix:
        EnterPhase(++layer_ < model_.layers().size() ? Phase::kBound : Phase::kPool);
        break;
      case Phase::kPool:
        EnterPhase(Phase::kKeep);
        break;
      case Phase::kKeep:
        EnterPhase(Phase::kFetch);
        break;
      case Phase::kFetch:
      case Phase::kDone:
        EnterPhase(Phase::kDone);
        return;
    }
  } while (num_steps_ == 0);
}

double ForwardPass::Progress(int64_t steps_done) const {
  if (weight_total_ <= 0) return 0;
  const double share =
      num_steps_ == 0 ? 0 : static_cast<double>(steps_done) / static_cast<double>(num_steps_);
  return std::min(1.0, (weight_done_ + share * WeightOf(phase_)) / weight_total_);
}

TokenTile ForwardPass::Tile(int64_t step) const {
  const int64_t begin = step * tile_rows_;
  return {begin, std::min(tile_rows_, packing_.tokens() - begin)};
}

absl::Status ForwardPass::RunStep(int64_t step, WorkerScratch& scratch) {
  const bool attention = phase_ == Phase::kBound || phase_ == Phase::kAttend;
  const StepTimer timer(*state_.backend, attention ? times_.attention : times_.dense);
  switch (phase_) {
    case Phase::kEmbed:
      return EmbedStep(state_, Tile(step), scratch);
    case Phase::kBound:
      attention_->Bound(step);
      return absl::OkStatus();
    case Phase::kAttend:
      return attention_->Attend(step, scratch);
    case Phase::kMix:
      return MixStep(state_, layer_, Tile(step), scratch);
    case Phase::kPool:
      return pooling_.Run(step, state_.x, scratch);
    case Phase::kKeep:
      to_keep_.Run(step, state_.x);
      return absl::OkStatus();
    case Phase::kFetch:
      return Fetch();
    case Phase::kDone:
      LD_CHECK(false);
  }
  return absl::OkStatus();
}

// What callers read, to where they can read it.
absl::Status ForwardPass::Fetch() {
  if (packing_.sequences[0].token_vectors) {
    ASSIGN_OR_RETURN(x_, state_.backend->ToHost(std::move(x_)));
  }
  RETURN_IF_ERROR(attention_->FetchStats());
  return pooling_.Fetch();
}

EncodeStats ForwardPass::stats() const {
  kernels::AttentionStats attention;
  for (size_t s = 0; s < packing_.sequences.size(); ++s) {
    AddStats(attention_->stats(s), &attention);
  }
  return MakeStats(attention, packing_.tokens());
}

EncodeResult ForwardPass::TakeResult(size_t sequence) {
  EncodeResult result = pooling_.TakeVectors(sequence);
  result.kept_token_vectors = to_keep_.Take(sequence);
  result.stats = MakeStats(attention_->stats(sequence), packing_.tokens(sequence));
  return result;
}

EncodeStats ForwardPass::MakeStats(const kernels::AttentionStats& attention, int64_t tokens) const {
  const double share = static_cast<double>(tokens) / static_cast<double>(packing_.tokens());
  EncodeStats stats;
  stats.tokens = tokens;
  stats.attention_seconds = 1e-9 * static_cast<double>(*times_.attention) * share;
  stats.dense_seconds = 1e-9 * static_cast<double>(*times_.dense) * share;
  stats.tiles_computed = attention.tiles_computed;
  stats.tiles_dense = attention.tiles_dense;
  stats.dense_flops = dense_flops() * share;
  stats.attention_flops =
      AttentionTileFlops(model_.config().head_dim) * static_cast<double>(attention.tiles_computed);
  stats.max_logit_bound = attention.max_bound;
  stats.epsilon = policy_.mode == AttentionMode::kTolerance ? policy_.epsilon : 0;
  stats.peak_bytes = static_cast<int64_t>(static_cast<double>(bytes_) * share);
  stats.batch_sequences = static_cast<int64_t>(packing_.sequences.size());
  return stats;
}

}  // namespace longdoc
