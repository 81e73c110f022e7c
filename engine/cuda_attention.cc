#include "engine/cuda_attention.h"

#include <type_traits>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "kernels/cuda/attention_layer.h"

namespace longdoc {
namespace {

using kernels::cuda::AttentionLayer;

int64_t StatsBytes(const kernels::AttentionProblem& problem) {
  return problem.num_sequences * static_cast<int64_t>(sizeof(kernels::AttentionStats));
}

// Without what is not there yet, or lies on the device: memory and positions.
absl::Status Check(const kernels::AttentionProblem& problem) {
  kernels::AttentionProblem readable = problem;
  readable.cu_seqlens_k = nullptr;
  readable.q_positions = readable.k_positions = nullptr;
  int64_t anything = 0;
  readable.q = readable.kv = readable.bounds = &anything;
  const char* fault = kernels::CheckAttentionProblem(readable);
  if (fault[0] != '\0') return absl::InternalError(fault);
  return absl::OkStatus();
}

class CudaAttention final : public AttentionSteps {
 public:
  CudaAttention(Backend& backend, kernels::cuda::Runtime& runtime,
                const kernels::AttentionProblem& problem)
      : backend_(backend), problem_(problem), layer_(runtime, problem) {}
  absl::Status Allocate();

  void StoreQueries(int64_t begin, int64_t rows, const float* q, int64_t stride) override {
    layer_.StoreQueries(begin, rows, q, stride);
  }
  void StoreKeysValues(int64_t begin, int64_t rows, const float* kv, int64_t stride) override {
    layer_.StoreKeysValues(begin, rows, kv, stride);
  }
  // The device plans and bounds as it goes.
  void PlanUnits() override {}
  int64_t num_bound_steps() const override { return 0; }
  void Bound(int64_t) override {}
  int64_t num_attend_steps() const override { return layer_.num_groups(); }
  absl::Status Attend(int64_t step, WorkerScratch&) override {
    layer_.Attend(static_cast<int32_t>(step));
    return absl::OkStatus();
  }
  const void* Outputs(int64_t begin, int64_t, WorkerScratch&) const override {
    return layer_.Outputs(begin);
  }
  absl::Status FetchStats() override;
  kernels::AttentionStats stats(size_t sequence) const override { return stats_[sequence]; }

 private:
  absl::Status PlaceArrays(kernels::AttentionProblem* arrays);

  Backend& backend_;
  const kernels::AttentionProblem problem_;
  AttentionLayer layer_;
  std::vector<Placed> placed_;
  Buffer q_, kv_, workspace_, device_stats_;
  std::vector<kernels::AttentionStats> stats_;  // by sequence, once fetched
};

absl::Status CudaAttention::Allocate() {
  const AttentionLayer::Sizes sizes = AttentionLayer::SizesOf(problem_);
  MemoryPool& memory = backend_.memory();
  stats_.resize(static_cast<size_t>(problem_.num_sequences));
  ASSIGN_OR_RETURN(q_, memory.Allocate(sizes.q_bytes, /*zeroed=*/false));
  ASSIGN_OR_RETURN(kv_, memory.Allocate(sizes.kv_bytes, /*zeroed=*/false));
  ASSIGN_OR_RETURN(workspace_, memory.Allocate(sizes.workspace_bytes, /*zeroed=*/false));
  ASSIGN_OR_RETURN(device_stats_, memory.Allocate(StatsBytes(problem_), /*zeroed=*/true));
  kernels::AttentionProblem arrays = problem_;
  RETURN_IF_ERROR(PlaceArrays(&arrays));
  layer_.Bind(arrays, q_.data(), kv_.data(), workspace_.data(),
              device_stats_.as<kernels::AttentionStats>());
  return absl::OkStatus();
}

absl::Status CudaAttention::PlaceArrays(kernels::AttentionProblem* arrays) {
  const auto place = [this](auto*& array, int64_t count) -> absl::Status {
    if (array == nullptr) return absl::OkStatus();
    ASSIGN_OR_RETURN(Placed placed,
                     backend_.Place(array, count * static_cast<int64_t>(sizeof(*array))));
    array = static_cast<std::remove_reference_t<decltype(array)>>(placed.data);
    placed_.push_back(std::move(placed));
    return absl::OkStatus();
  };
  const int64_t sequences = problem_.num_sequences;
  RETURN_IF_ERROR(place(arrays->cu_seqlens, sequences + 1));
  RETURN_IF_ERROR(place(arrays->cu_seqlens_k, sequences + 1));
  RETURN_IF_ERROR(place(arrays->slopes, problem_.num_heads));
  const kernels::AttentionMask& mask = problem_.mask;
  if (mask.block_row_offsets == nullptr) return absl::OkStatus();
  int64_t rows = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    rows +=
        kernels::CeilDiv(problem_.cu_seqlens[s + 1] - problem_.cu_seqlens[s], mask.block_tokens);
  }
  RETURN_IF_ERROR(place(arrays->mask.block_columns, mask.block_row_offsets[rows]));
  return place(arrays->mask.block_row_offsets, rows + 1);
}

absl::Status CudaAttention::FetchStats() {
  RETURN_IF_ERROR(backend_.CopyToHost(stats_.data(), device_stats_.data(), device_stats_.bytes()));
  for (kernels::AttentionStats& stats : stats_) stats = layer_.InHostTiles(stats);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeCudaAttention(
    Backend& backend, kernels::cuda::Runtime& runtime, const kernels::AttentionProblem& problem) {
  RETURN_IF_ERROR(Check(problem));
  auto attention = std::make_unique<CudaAttention>(backend, runtime, problem);
  RETURN_IF_ERROR(attention->Allocate());
  return std::unique_ptr<AttentionSteps>(std::move(attention));
}

int64_t CudaAttentionBytes(const kernels::AttentionProblem& problem) {
  return AttentionLayer::SizesOf(problem).total() + StatsBytes(problem);
}

}  // namespace longdoc
