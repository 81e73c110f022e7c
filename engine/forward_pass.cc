#include "engine/forward_pass.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/base/check.h"
#include "engine/planner.h"

namespace longdoc {
namespace {

// Steps smaller than this cost more to hand out than to run.
constexpr int64_t kMinBoundRows = 1 << 14;  // keys × heads
constexpr double kMinStepTiles = 64;

void Add(const kernels::AttentionStats& from, kernels::AttentionStats* to) {
  to->tiles_computed += from.tiles_computed;
  to->tiles_dense += from.tiles_dense;
  to->max_bound = std::max(to->max_bound, from.max_bound);
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(
    Backend& backend, const EncoderModel& model, const AttentionPolicy& policy,
    const std::vector<PassSequence>& sequences) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass());
  pass->model_ = &model;
  pass->policy_ = policy;
  pass->sequences_ = sequences;
  pass->state_.backend = &backend;
  pass->state_.model = &model;
  pass->cu_seqlens_.push_back(0);
  for (const PassSequence& s : pass->sequences_) {
    pass->ids_.insert(pass->ids_.end(), s.ids.begin(), s.ids.end());
    pass->cu_seqlens_.push_back(static_cast<int64_t>(pass->ids_.size()));
  }
  pass->state_.ids = pass->ids_.data();
  RETURN_IF_ERROR(pass->Allocate());
  pass->PlanTiles();
  pass->PlanBoundSteps();
  pass->PlanAttentionSteps();
  pass->PlanPoolSteps();
  pass->EnterPhase(Phase::kEmbed);
  return pass;
}

absl::Status ForwardPass::Allocate() {
  Backend& backend = *state_.backend;
  const int64_t dim = model_->config().hidden_size;
  kernels::AttentionProblem& p = state_.problem;
  p = MakeAttentionProblem(model_->config(), backend.info(), policy_);
  p.num_sequences = static_cast<int64_t>(sequences_.size());
  p.cu_seqlens = cu_seqlens_.data();
  MemoryPool& memory = backend.memory();
  const int64_t storage = static_cast<int64_t>(kernels::SizeOf(p.storage));
  ASSIGN_OR_RETURN(buffers_.x, memory.Allocate(tokens() * dim * 4, /*zeroed=*/false));
  ASSIGN_OR_RETURN(buffers_.q, memory.Allocate(tokens() * dim * storage, /*zeroed=*/false));
  ASSIGN_OR_RETURN(buffers_.kv, memory.Allocate(kernels::AttentionKvBytes(p), /*zeroed=*/true));
  ASSIGN_OR_RETURN(buffers_.bounds,
                   memory.Allocate(kernels::AttentionBoundsBytes(p), /*zeroed=*/true));
  bytes_ = buffers_.bytes();
  attention_stats_.resize(sequences_.size());
  state_.x = buffers_.x.as<float>();
  p.q = buffers_.q.data();
  p.kv = buffers_.kv.data();
  p.bounds = buffers_.bounds.data();
  const char* problem = kernels::CheckAttentionProblem(p);
  if (problem[0] != '\0') return absl::InternalError(problem);
  return absl::OkStatus();
}

void ForwardPass::PlanTiles() {
  const BackendInfo& info = state_.backend->info();
  // Short passes are cut so that every worker gets a tile.
  const int64_t share = kernels::RoundUp(kernels::CeilDiv(tokens(), info.num_workers), 32);
  tile_rows_ = std::min(info.token_tile, share);
  const EncoderConfig& config = model_->config();
  const double layers = static_cast<double>(config.num_layers);
  for (const PassSequence& s : sequences_) {
    const int64_t n = static_cast<int64_t>(s.ids.size());
    attention_weight_ +=
        ExpectedTileFraction(config, policy_, n) * DenseAttentionFlops(config, n) / layers;
  }
  weight_total_ = attention_weight_ * layers + dense_flops();
}

void ForwardPass::PlanBoundSteps() {
  const bool needed = state_.problem.skip != kernels::SkipMode::kDense;
  if (!needed) return;
  const int32_t heads = state_.problem.num_kv_heads;
  const int64_t b = state_.problem.num_sequences;
  for (int64_t s = 0; s < b;) {
    const int64_t n = cu_seqlens_[s + 1] - cu_seqlens_[s];
    if (n * heads > kMinBoundRows) {
      const int32_t per_step =
          static_cast<int32_t>(std::clamp<int64_t>(kMinBoundRows / n, 1, heads));
      for (int32_t h = 0; h < heads; h += per_step) {
        bound_steps_.push_back({s, s + 1, h, std::min(h + per_step, heads)});
      }
      ++s;
      continue;
    }
    int64_t end = s + 1;
    while (end < b && (cu_seqlens_[end + 1] - cu_seqlens_[s]) * heads <= kMinBoundRows) ++end;
    bound_steps_.push_back({s, end, 0, heads});
    s = end;
  }
}

void ForwardPass::PlanAttentionSteps() {
  units_ = state_.backend->PlanUnits(state_.problem);
  unit_groups_ = {0};
  double cost = 0;
  for (size_t i = 0; i < units_.size(); ++i) {
    cost += units_[i].cost;
    if (cost >= kMinStepTiles || i + 1 == units_.size()) {
      unit_groups_.push_back(static_cast<int64_t>(i) + 1);
      cost = 0;
    }
  }
}

void ForwardPass::PlanPoolSteps() {
  const size_t dim = static_cast<size_t>(model_->config().hidden_size);
  results_.resize(sequences_.size());
  for (size_t s = 0; s < sequences_.size(); ++s) {
    results_[s].document.resize(dim);
    results_[s].passages.resize(dim * sequences_[s].spans.size());
    pool_steps_.push_back({s, -1});
    for (size_t i = 0; i < sequences_[s].spans.size(); ++i) {
      pool_steps_.push_back({s, static_cast<int64_t>(i)});
    }
  }
}

int64_t ForwardPass::StepsOf(Phase phase) const {
  switch (phase) {
    case Phase::kEmbed:
    case Phase::kMix:
      return kernels::CeilDiv(tokens(), tile_rows_);
    case Phase::kBound:
      return static_cast<int64_t>(bound_steps_.size());
    case Phase::kAttend:
      return static_cast<int64_t>(unit_groups_.size()) - 1;
    case Phase::kPool:
      return kernels::CeilDiv(static_cast<int64_t>(pool_steps_.size()), 16);
    case Phase::kDone:
      return 0;
  }
  return 0;
}

double ForwardPass::WeightOf(Phase phase) const {
  const EncoderConfig& config = model_->config();
  const double dense = dense_flops();
  const double project = 6.0 * static_cast<double>(config.hidden_size * config.hidden_size) *
                         static_cast<double>(tokens());
  const double layers = static_cast<double>(config.num_layers);
  if (phase == Phase::kEmbed) return project;
  if (phase == Phase::kAttend) return attention_weight_;
  if (phase == Phase::kMix)
    return dense / layers - (layer_ + 1 == model_->layers().size() ? project : 0);
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
        EnterPhase(++layer_ < model_->layers().size() ? Phase::kBound : Phase::kPool);
        break;
      case Phase::kPool:
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
  return {begin, std::min(tile_rows_, tokens() - begin)};
}

absl::Status ForwardPass::RunStep(int64_t step, WorkerScratch& scratch) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status;
  const bool attention = phase_ == Phase::kBound || phase_ == Phase::kAttend;
  switch (phase_) {
    case Phase::kEmbed:
      status = EmbedStep(state_, Tile(step), scratch);
      break;
    case Phase::kBound:
      RunBound(step);
      break;
    case Phase::kAttend:
      status = RunAttention(step, scratch);
      break;
    case Phase::kMix:
      status = MixStep(state_, layer_, Tile(step), scratch);
      break;
    case Phase::kPool:
      RunPool(step);
      break;
    case Phase::kDone:
      LD_CHECK(false);
  }
  std::lock_guard lock(stats_mutex_);
  (attention ? attention_seconds_ : dense_seconds_) += SecondsSince(start);
  return status;
}

void ForwardPass::RunBound(int64_t step) {
  const BoundStep& b = bound_steps_[step];
  for (int64_t s = b.sequence_begin; s < b.sequence_end; ++s) {
    for (int32_t h = b.head_begin; h < b.head_end; ++h) {
      state_.backend->Bound(state_.problem, s, h);
    }
  }
}

absl::Status ForwardPass::RunAttention(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(
      scratch.Ensure(scratch.attention, state_.backend->AttendScratchBytes(state_.problem)));
  for (int64_t i = unit_groups_[step]; i < unit_groups_[step + 1]; ++i) {
    kernels::AttentionStats stats;
    state_.backend->Attend(state_.problem, units_[i], scratch.attention.data(), &stats);
    std::lock_guard lock(stats_mutex_);
    Add(stats, &attention_stats_[units_[i].sequence]);
  }
  return absl::OkStatus();
}

void ForwardPass::RunPool(int64_t step) {
  const int64_t dim = model_->config().hidden_size;
  const int64_t end = std::min<int64_t>((step + 1) * 16, static_cast<int64_t>(pool_steps_.size()));
  for (int64_t i = step * 16; i < end; ++i) {
    const PassSequence& s = sequences_[pool_steps_[i].sequence];
    EncodeResult& result = results_[pool_steps_[i].sequence];
    const int64_t base = cu_seqlens_[pool_steps_[i].sequence];
    const int64_t index = pool_steps_[i].span;
    const TokenSpan span =
        index < 0 ? TokenSpan{0, static_cast<int64_t>(s.ids.size())} : s.spans[index];
    float* out = index < 0 ? result.document.data() : result.passages.data() + index * dim;
    state_.backend->MeanPool(state_.x, dim, base + span.begin, base + span.end, out);
  }
}

EncodeStats ForwardPass::stats() const {
  std::lock_guard lock(stats_mutex_);
  kernels::AttentionStats attention;
  for (const kernels::AttentionStats& s : attention_stats_) Add(s, &attention);
  return MakeStats(attention, tokens());
}

EncodeResult ForwardPass::TakeResult(size_t sequence) {
  EncodeResult result = std::move(results_[sequence]);
  std::lock_guard lock(stats_mutex_);
  result.stats =
      MakeStats(attention_stats_[sequence], cu_seqlens_[sequence + 1] - cu_seqlens_[sequence]);
  return result;
}

double ForwardPass::dense_flops() const {
  return DenseFlopsPerToken(model_->config()) * static_cast<double>(tokens());
}

EncodeStats ForwardPass::MakeStats(const kernels::AttentionStats& attention, int64_t tokens) const {
  const double share = static_cast<double>(tokens) / static_cast<double>(this->tokens());
  EncodeStats stats;
  stats.tokens = tokens;
  stats.attention_seconds = attention_seconds_ * share;
  stats.dense_seconds = dense_seconds_ * share;
  stats.tiles_computed = attention.tiles_computed;
  stats.tiles_dense = attention.tiles_dense;
  stats.dense_flops = dense_flops() * share;
  stats.attention_flops =
      AttentionTileFlops(model_->config().head_dim) * static_cast<double>(attention.tiles_computed);
  stats.max_logit_bound = attention.max_bound;
  stats.epsilon = policy_.mode == AttentionMode::kTolerance ? policy_.epsilon : 0;
  stats.peak_bytes = static_cast<int64_t>(static_cast<double>(bytes_) * share);
  stats.batch_sequences = static_cast<int64_t>(sequences_.size());
  return stats;
}

}  // namespace longdoc
