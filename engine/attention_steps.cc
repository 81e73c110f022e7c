#include "engine/attention_steps.h"

#include <algorithm>

namespace longdoc {
namespace {

// Steps smaller than this cost more to hand out than to run.
constexpr int64_t kMinBoundRows = 1 << 14;  // keys × heads
constexpr double kMinStepTiles = 64;

const int64_t* KeyOffsets(const kernels::AttentionProblem& p) {
  return p.cu_seqlens_k != nullptr ? p.cu_seqlens_k : p.cu_seqlens;
}

int64_t QueryBytes(const kernels::AttentionProblem& p) {
  return p.cu_seqlens[p.num_sequences] * p.num_heads * p.head_dim *
         static_cast<int64_t>(kernels::SizeOf(p.storage));
}

}  // namespace

void AddStats(const kernels::AttentionStats& from, kernels::AttentionStats* to) {
  to->tiles_computed += from.tiles_computed;
  to->tiles_dense += from.tiles_dense;
  to->max_bound = std::max(to->max_bound, from.max_bound);
}

int64_t AttentionSteps::Bytes(const kernels::AttentionProblem& problem) {
  return QueryBytes(problem) + kernels::AttentionKvBytes(problem) +
         kernels::AttentionBoundsBytes(problem);
}

absl::StatusOr<std::unique_ptr<AttentionSteps>> AttentionSteps::Create(
    Backend& backend, const kernels::AttentionProblem& problem) {
  std::unique_ptr<AttentionSteps> steps(new AttentionSteps(backend));
  kernels::AttentionProblem& p = steps->problem_;
  p = problem;
  MemoryPool& memory = backend.memory();
  ASSIGN_OR_RETURN(steps->q_, memory.Allocate(QueryBytes(p), /*zeroed=*/false));
  ASSIGN_OR_RETURN(steps->kv_, memory.Allocate(kernels::AttentionKvBytes(p), /*zeroed=*/true));
  ASSIGN_OR_RETURN(steps->bounds_,
                   memory.Allocate(kernels::AttentionBoundsBytes(p), /*zeroed=*/true));
  p.q = steps->q_.data();
  p.kv = steps->kv_.data();
  p.bounds = steps->bounds_.data();
  const char* fault = kernels::CheckAttentionProblem(p);
  if (fault[0] != '\0') return absl::InternalError(fault);
  steps->stats_.resize(p.num_sequences);
  if (p.skip != kernels::SkipMode::kDense) steps->PlanBounds();
  steps->PlanUnits();
  return steps;
}

void AttentionSteps::PlanBounds() {
  const int64_t* offsets = KeyOffsets(problem_);
  const int32_t heads = problem_.num_kv_heads;
  const int64_t b = problem_.num_sequences;
  for (int64_t s = 0; s < b;) {
    const int64_t n = offsets[s + 1] - offsets[s];
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
    while (end < b && (offsets[end + 1] - offsets[s]) * heads <= kMinBoundRows) ++end;
    bound_steps_.push_back({s, end, 0, heads});
    s = end;
  }
}

void AttentionSteps::PlanUnits() {
  units_ = backend_.PlanUnits(problem_);
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

void AttentionSteps::Bound(int64_t step) {
  const BoundStep& b = bound_steps_[step];
  for (int64_t s = b.sequence_begin; s < b.sequence_end; ++s) {
    for (int32_t h = b.head_begin; h < b.head_end; ++h) backend_.Bound(problem_, s, h);
  }
}

absl::Status AttentionSteps::Attend(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, backend_.AttendScratchBytes(problem_)));
  for (int64_t i = unit_groups_[step]; i < unit_groups_[step + 1]; ++i) {
    kernels::AttentionStats stats;
    backend_.Attend(problem_, units_[i], scratch.attention.data(), &stats);
    std::lock_guard lock(mutex_);
    AddStats(stats, &stats_[units_[i].sequence]);
  }
  return absl::OkStatus();
}

const void* AttentionSteps::Outputs(int64_t begin, int64_t rows, WorkerScratch& scratch) const {
  const int64_t width = int64_t{problem_.num_heads} * problem_.head_dim;
  if (problem_.storage == DType::kF32) {
    return static_cast<const float*>(problem_.q) + begin * width;
  }
  const uint16_t* stored = static_cast<const uint16_t*>(problem_.q) + begin * width;
  if (backend_.info().gemm_type == DType::kBF16) return stored;
  backend_.Bf16ToF32(stored, rows * width, scratch.input.as<float>());
  return scratch.input.data();
}

kernels::AttentionStats AttentionSteps::stats(size_t sequence) const {
  std::lock_guard lock(mutex_);
  return stats_[sequence];
}

}  // namespace longdoc
