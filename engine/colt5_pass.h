// One pass of packed sequences through a longdoc-CoLT5 encoder, as phases of small independent
// steps (colt5_steps.h). Phases that have nothing to do for the model's rates are skipped.
//
// The attention policy is that of heavy attention, kWindow meaning kTolerance there
// (colt5_layout.h); light attention always has the model's own window.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/colt5_layout.h"
#include "engine/colt5_model.h"
#include "engine/colt5_steps.h"
#include "engine/encode_pass.h"
#include "engine/span_pooling.h"
#include "engine/token_vectors.h"

namespace longdoc {

class Colt5Pass final : public EncodePass {
 public:
  // Of a layer up to kHeavyFeedForward, which the next layer's kEnter or kFinal follows.
  enum class Phase {
    kEnter,
    kRouteAttention,
    kHeavyProject,
    kBound,
    kAttend,
    kHeavyOutput,
    kLightOutput,
    kRouteFeedForward,
    kHeavyFeedForward,
    kFinal,
    kPool,
    kKeep,
    kFetch,
    kDone,
  };

  // Allocates everything; RESOURCE_EXHAUSTED when the system refuses. Backend and model outlive the
  // pass.
  static absl::StatusOr<std::unique_ptr<Colt5Pass>> Create(
      Backend& backend, const Colt5Model& model, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences);

  int64_t num_steps() const override { return num_steps_; }
  bool finished() const override { return phase_ == Phase::kDone; }
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) override;
  void NextPhase() override;
  double Progress(int64_t steps_done) const override;

  EncodeStats stats() const override;
  EncodeResult TakeResult(size_t sequence) override;
  Buffer TakeTokenVectors() override;
  int64_t first_token(size_t sequence) const override { return packing_.cu_seqlens[sequence]; }

  // Where it is. What a router chose is there (in memory of the device) from the end of its route
  // phase to the next layer's.
  Phase phase() const { return phase_; }
  size_t layer() const { return layer_; }
  const RoutedTokens& routed(RoutingStats::Router router) const { return state_.routed[router]; }

 private:
  struct FinalTile {
    size_t sequence;
    TokenTile tile;
  };

  Colt5Pass(Backend& backend, const Colt5Model& model, const AttentionPolicy& policy,
            const std::vector<PassSequence>& sequences);
  absl::Status Allocate();
  absl::Status AllocateRouting();
  absl::Status AllocateResults();
  absl::Status Fetch();
  RoutingStats MakeRoutingStats(size_t sequence) const;
  void PlanFinalTiles();
  void EnterPhase(Phase phase);
  int64_t StepsOf(Phase phase) const;
  double WeightOf(Phase phase, size_t layer) const;
  absl::Status RunRoute(int64_t step, WorkerScratch& scratch);
  absl::Status RunHeavyProject(int64_t step, WorkerScratch& scratch);
  absl::Status RunAttend(int64_t step, WorkerScratch& scratch);
  int64_t RoutedSteps(RoutingStats::Router router) const;
  TokenTile RoutedTile(RoutingStats::Router router, int64_t step) const;
  // Of the sequences [begin, end).
  EncodeStats MakeStats(size_t begin, size_t end) const;

  const AttentionPolicy policy_;
  const PassPacking packing_;
  const Colt5Layout layout_;
  SpanPooling pooling_;
  TokenVectorsToKeep to_keep_;
  Colt5State state_;
  Placed ids_;
  Buffer x_, routing_, ff_rows_, token_vectors_;
  std::vector<RoutingTally> tallies_;  // [B, routers], once fetched
  int64_t bytes_ = 0;                  // as allocated, results included
  int64_t tile_rows_ = 0;
  std::vector<FinalTile> final_tiles_;

  Phase phase_ = Phase::kEnter;
  size_t layer_ = 0;
  int64_t num_steps_ = 0;
  double weight_done_ = 0, weight_total_ = 0;  // FLOPs
  PassTimes times_;
};

}  // namespace longdoc
