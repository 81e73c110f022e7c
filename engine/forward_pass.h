// One pass of packed sequences through a JinaBERT encoder, as phases of small independent steps.
//
//   embed+project → for each layer: bound → attend → mix(+project) → pool → keep → fetch
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/attention_steps.h"
#include "engine/encode_pass.h"
#include "engine/encoder_steps.h"
#include "engine/engine.h"
#include "engine/span_pooling.h"
#include "engine/token_vectors.h"

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
  Buffer TakeTokenVectors() override { return std::move(x_); }
  int64_t first_token(size_t sequence) const override { return packing_.cu_seqlens[sequence]; }

 private:
  enum class Phase { kEmbed, kBound, kAttend, kMix, kPool, kKeep, kFetch, kDone };

  ForwardPass(Backend& backend, const EncoderModel& model, const AttentionPolicy& policy,
              const std::vector<PassSequence>& sequences);
  absl::Status Allocate();
  absl::Status Fetch();
  void PlanWork();
  double dense_flops() const;
  EncodeStats MakeStats(const kernels::AttentionStats& attention, int64_t tokens) const;
  void EnterPhase(Phase phase);
  int64_t StepsOf(Phase phase) const;
  double WeightOf(Phase phase) const;
  TokenTile Tile(int64_t step) const;

  const EncoderModel& model_;
  const AttentionPolicy policy_;
  const PassPacking packing_;
  Placed ids_;
  Buffer x_;
  std::unique_ptr<AttentionSteps> attention_;
  SpanPooling pooling_;
  TokenVectorsToKeep to_keep_;
  EncoderState state_;
  int64_t bytes_ = 0;  // as allocated
  int64_t tile_rows_ = 0;

  Phase phase_ = Phase::kEmbed;
  size_t layer_ = 0;
  int64_t num_steps_ = 0;
  double weight_done_ = 0, weight_total_ = 0;  // FLOPs
  double attention_weight_ = 0;                // of one layer
  PassTimes times_;
};

}  // namespace longdoc
