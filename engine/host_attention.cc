#include "engine/host_attention.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"

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

class HostAttention final : public AttentionSteps {
 public:
  HostAttention(const kernels::CpuKernels& kernels, const BackendInfo& info,
                const kernels::AttentionProblem& problem)
      : k_(kernels), info_(info), problem_(problem) {}
  absl::Status Allocate(MemoryPool& memory);

  void StoreQueries(int64_t begin, int64_t rows, const float* q, int64_t stride) override {
    k_.StoreQueries(problem_, begin, rows, q, stride);
  }
  void StoreKeysValues(int64_t begin, int64_t rows, const float* kv, int64_t stride) override {
    k_.StoreKeysValues(problem_, begin, rows, kv, stride);
  }
  void PlanUnits() override;
  int64_t num_bound_steps() const override { return static_cast<int64_t>(bound_steps_.size()); }
  void Bound(int64_t step) override;
  int64_t num_attend_steps() const override {
    return static_cast<int64_t>(unit_groups_.size()) - 1;
  }
  absl::Status Attend(int64_t step, WorkerScratch& scratch) override;
  const void* Outputs(int64_t begin, int64_t rows, WorkerScratch& scratch) const override;
  absl::Status FetchStats() override { return absl::OkStatus(); }
  kernels::AttentionStats stats(size_t sequence) const override;

 private:
  struct BoundStep {  // all keys of sequences × kv heads
    int64_t sequence_begin, sequence_end;
    int32_t head_begin, head_end;
  };
  void PlanBounds();

  const kernels::CpuKernels& k_;
  const BackendInfo& info_;
  kernels::AttentionProblem problem_;
  Buffer q_, kv_, bounds_;
  std::vector<BoundStep> bound_steps_;
  std::vector<kernels::AttentionUnit> units_;
  std::vector<int64_t> unit_groups_;  // step i runs units [groups[i], groups[i+1])
  mutable std::mutex mutex_;
  std::vector<kernels::AttentionStats> stats_;  // by sequence
};

absl::Status HostAttention::Allocate(MemoryPool& memory) {
  kernels::AttentionProblem& p = problem_;
  ASSIGN_OR_RETURN(q_, memory.Allocate(QueryBytes(p), /*zeroed=*/false));
  ASSIGN_OR_RETURN(kv_, memory.Allocate(kernels::AttentionKvBytes(p), /*zeroed=*/true));
  ASSIGN_OR_RETURN(bounds_, memory.Allocate(kernels::AttentionBoundsBytes(p), /*zeroed=*/true));
  p.q = q_.data();
  p.kv = kv_.data();
  p.bounds = bounds_.data();
  const char* fault = kernels::CheckAttentionProblem(p);
  if (fault[0] != '\0') return absl::InternalError(fault);
  stats_.resize(p.num_sequences);
  if (p.skip != kernels::SkipMode::kDense) PlanBounds();
  PlanUnits();
  return absl::OkStatus();
}

void HostAttention::PlanBounds() {
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

void HostAttention::PlanUnits() {
  units_ = k_.PlanUnits(problem_, info_.query_tile);
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

void HostAttention::Bound(int64_t step) {
  const BoundStep& b = bound_steps_[step];
  for (int64_t s = b.sequence_begin; s < b.sequence_end; ++s) {
    for (int32_t h = b.head_begin; h < b.head_end; ++h) k_.Bound(problem_, s, h);
  }
}

absl::Status HostAttention::Attend(int64_t step, WorkerScratch& scratch) {
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, k_.AttendScratchBytes(problem_)));
  for (int64_t i = unit_groups_[step]; i < unit_groups_[step + 1]; ++i) {
    kernels::AttentionStats stats;
    k_.Attend(problem_, units_[i], scratch.attention.data(), &stats);
    std::lock_guard lock(mutex_);
    AddStats(stats, &stats_[units_[i].sequence]);
  }
  return absl::OkStatus();
}

const void* HostAttention::Outputs(int64_t begin, int64_t rows, WorkerScratch& scratch) const {
  const int64_t width = int64_t{problem_.num_heads} * problem_.head_dim;
  if (problem_.storage == DType::kF32) {
    return static_cast<const float*>(problem_.q) + begin * width;
  }
  const uint16_t* stored = static_cast<const uint16_t*>(problem_.q) + begin * width;
  if (info_.gemm_type == DType::kBF16) return stored;
  k_.Bf16ToF32(stored, rows * width, scratch.input.as<float>());
  return scratch.input.data();
}

kernels::AttentionStats HostAttention::stats(size_t sequence) const {
  std::lock_guard lock(mutex_);
  return stats_[sequence];
}

}  // namespace

int64_t HostAttentionBytes(const kernels::AttentionProblem& problem) {
  return QueryBytes(problem) + kernels::AttentionKvBytes(problem) +
         kernels::AttentionBoundsBytes(problem);
}

absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeHostAttention(
    const kernels::CpuKernels& kernels, const BackendInfo& info, MemoryPool& memory,
    const kernels::AttentionProblem& problem) {
  auto steps = std::make_unique<HostAttention>(kernels, info, problem);
  RETURN_IF_ERROR(steps->Allocate(memory));
  return std::unique_ptr<AttentionSteps>(std::move(steps));
}

}  // namespace longdoc
