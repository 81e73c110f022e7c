// One pass of packed sequences through an encoder, as phases of small independent steps.
//
//   embed+project → for each layer: bound → attend → mix(+project) → pool
//
// The steps of a phase may run in any order on any threads; a phase starts when the one before has
// finished. The scheduler owns that protocol; this class knows what the steps are.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/encoder_steps.h"
#include "engine/engine.h"

namespace longdoc {

// Buffers of a pass. Shared, because token vectors outlive the pass.
struct PassBuffers {
  Buffer x, q, kv, bounds;
  int64_t bytes() const { return x.bytes() + q.bytes() + kv.bytes() + bounds.bytes(); }
};

// What one sequence wants; the ids stay the caller's until the pass is over.
struct PassSequence {
  absl::Span<const int32_t> ids;
  absl::Span<const TokenSpan> spans;
  std::vector<float> document;  // out: [C]
  std::vector<float> passages;  // out: [spans, C]
};

class ForwardPass {
 public:
  // Allocates everything; RESOURCE_EXHAUSTED when the system refuses.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(
      Backend& backend, std::shared_ptr<const EncoderModel> model, const AttentionPolicy& policy,
      std::vector<PassSequence> sequences);

  // Steps of the current phase; 0 only when the pass is over.
  int64_t num_steps() const { return num_steps_; }
  bool finished() const { return phase_ == Phase::kDone; }
  // Runs step [0, num_steps()) of the current phase. Distinct steps may run at once.
  absl::Status RunStep(int64_t step, WorkerScratch& scratch);
  // All steps of the phase have run: moves on to the next phase that has steps.
  void NextPhase();

  // Share of the whole work done when `steps_done` steps of the current phase are.
  double Progress(int64_t steps_done) const;

  std::vector<PassSequence>& sequences() { return sequences_; }
  int64_t tokens() const { return cu_seqlens_.back(); }
  const std::shared_ptr<PassBuffers>& buffers() const { return buffers_; }
  // Where a sequence's rows begin in x.
  int64_t first_token(size_t sequence) const { return cu_seqlens_[sequence]; }
  // Tiles, seconds, bounds and bytes of what has run so far: of the whole pass, and of one
  // sequence. Tiles are a sequence's own; seconds and bytes of a shared pass are divided by tokens.
  EncodeStats stats() const;
  EncodeStats stats(size_t sequence) const;

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

  ForwardPass() = default;
  absl::Status Allocate();
  EncodeStats MakeStats(const kernels::AttentionStats& attention, int64_t tokens) const;
  void PlanTiles();
  void PlanBoundSteps();
  void PlanAttentionSteps();
  void PlanPoolSteps();
  void EnterPhase(Phase phase);
  int64_t StepsOf(Phase phase) const;
  double WeightOf(Phase phase) const;
  TokenTile Tile(int64_t step) const;
  absl::Status RunAttention(int64_t step, WorkerScratch& scratch);
  void RunBound(int64_t step);
  void RunPool(int64_t step);

  std::shared_ptr<const EncoderModel> model_;
  AttentionPolicy policy_;
  std::vector<PassSequence> sequences_;
  std::vector<int32_t> ids_;         // packed
  std::vector<int64_t> cu_seqlens_;  // [B+1]
  std::shared_ptr<PassBuffers> buffers_;
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
