// One pass of packed sequences through an encoder, as phases of small independent steps.
//
//   embed+project → for each layer: bound → attend → mix(+project) → pool
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/encode_pass.h"
#include "engine/encoder_steps.h"
#include "engine/engine.h"

namespace longdoc {

class ForwardPass final : public EncodePass {
 public:
  // Allocates everything; RESOURCE_EXHAUSTED when the system refuses. Backend and model outlive the
  // pass.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(
      Backend& backend, const EncoderModel& model, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences);

  int64_t num_steps() const override { return num_steps_; }
  bool finished() const override { return phase_ == Phase::kDone; }
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) override;
  void NextPhase() override;
  double Progress(int64_t steps_done) const override;

  EncodeStats stats() const override;
  EncodeResult TakeResult(size_t sequence) override;
  Buffer TakeTokenVectors() override { return std::move(buffers_.x); }
  int64_t first_token(size_t sequence) const override { return cu_seqlens_[sequence]; }

 private:
  enum class Phase { kEmbed, kBound, kAttend, kMix, kPool, kDone };
  struct BoundStep {  // all keys of sequences × kv heads
    int64_t sequence_begin, sequence_end;
    int32_t head_begin, head_end;
  };
  struct PoolStep {
    size_t sequence;
    int64_t span;  // -1: the whole sequence
  };

  struct Buffers {
    Buffer x, q, kv, bounds;
    int64_t bytes() const { return x.bytes() + q.bytes() + kv.bytes() + bounds.bytes(); }
  };

  ForwardPass() = default;
  absl::Status Allocate();
  EncodeStats MakeStats(const kernels::AttentionStats& attention, int64_t tokens) const;
  void PlanTiles();
  void PlanBoundSteps();
  void PlanAttentionSteps();
  void PlanPoolSteps();
  int64_t tokens() const { return cu_seqlens_.back(); }
  double dense_flops() const;
  void EnterPhase(Phase phase);
  int64_t StepsOf(Phase phase) const;
  double WeightOf(Phase phase) const;
  TokenTile Tile(int64_t step) const;
  absl::Status RunAttention(int64_t step, WorkerScratch& scratch);
  void RunBound(int64_t step);
  void RunPool(int64_t step);

  const EncoderModel* model_ = nullptr;
  AttentionPolicy policy_;
  std::vector<PassSequence> sequences_;
  std::vector<int32_t> ids_;           // packed
  std::vector<int64_t> cu_seqlens_;    // [B+1]
  std::vector<EncodeResult> results_;  // vectors only
  Buffers buffers_;
  EncoderState state_;

  int64_t bytes_ = 0;  // of all buffers, as allocated
  int64_t tile_rows_ = 0;
  std::vector<BoundStep> bound_steps_;
  std::vector<kernels::AttentionUnit> units_;
  std::vector<int64_t> unit_groups_;  // step i runs units [groups[i], groups[i+1])
  std::vector<PoolStep> pool_steps_;

  Phase phase_ = Phase::kEmbed;
  size_t layer_ = 0;
  int64_t num_steps_ = 0;
  double weight_done_ = 0, weight_total_ = 0;  // FLOPs
  double attention_weight_ = 0;                // of one layer

  mutable std::mutex stats_mutex_;
  std::vector<kernels::AttentionStats> attention_stats_;  // by sequence
  double attention_seconds_ = 0, dense_seconds_ = 0;
};

}  // namespace longdoc
