// All layers of the decoder over the next inputs of some sequences, as phases of small steps:
//
//   embed+project → per layer: self-attend → mix → per group of rows: cross-attend → mix(+project)
//
// Sequences are candidates of one document (teacher forcing), or one that is generated token by
// token: the same steps. Cross-attention is cut by query rows and by ranges of the document's keys,
// so that all workers have something to do even for one row; the ranges depend on the document
// alone, so that a row's result does not depend on its company.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/decoder_steps.h"
#include "engine/row_arrays.h"
#include "engine/spill.h"

namespace longdoc {

class DecoderLayers {
 public:
  static constexpr int64_t kMaxInputs = RowArrays::kMaxInputs;  // of a run

  // Memory for runs of up to `max_rows` rows over a document of so many tokens.
  static int64_t PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                           int64_t document_tokens, int64_t max_rows);

  // Allocates that; RESOURCE_EXHAUSTED when the system refuses. Backend, weights and document
  // outlive this; the document has as many layers as the decoder.
  static absl::StatusOr<std::unique_ptr<DecoderLayers>> Create(Backend& backend,
                                                               const DecoderWeights& weights,
                                                               const CrossKv& document,
                                                               int64_t max_rows);

  // Begins a run. At least one row, at most max_rows. The inputs stay until the run is over.
  // RESOURCE_EXHAUSTED when there is no memory.
  absl::Status Begin(absl::Span<const DecoderInput> inputs, const DecoderRunOptions& options = {});

  // As of a Pass: the steps of one run.
  int64_t num_steps() const { return num_steps_; }
  bool finished() const { return phase_ == Phase::kDone; }
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) const;
  void NextPhase();
  // Instead of all that: the whole run, from its beginning, as one step. May be called again.
  absl::Status RunAll(WorkerScratch& scratch);
  // Share of the run's work in the phases that are over, in [0, 1].
  double Progress() const { return weight_total_ > 0 ? weight_done_ / weight_total_ : 0; }

  // Where y and the rows are, for what follows the last layer.
  const DecoderState& state() const { return state_; }
  int64_t rows() const { return static_cast<int64_t>(state_.ids.size()); }

 private:
  enum class Phase { kEmbed, kSelfAttend, kSelfMix, kCross, kCrossMix, kDone };
  struct Group {  // tiles [begin, end), and which rows of them a step takes
    size_t tile_begin = 0, tile_end = 0;
    struct Block {
      size_t tile;
      RowRange rows;
    };
    std::vector<Block> blocks;
  };

  DecoderLayers() = default;
  void PlanRows(absl::Span<const DecoderInput> inputs);
  void PlanTiles();
  void PlanSelfAttention();
  void PlanGroups();
  int64_t StepsOf(Phase phase) const;
  double WeightOf(Phase phase) const;
  void EnterPhase(Phase phase);
  void Restart();

  DecoderState state_;
  KeptMemoryUse document_use_;
  Buffer y_, q_, attended_, partial_, qkv_;
  RowArrays row_arrays_;  // where attention is whole,
  Placed placed_ids_;     // or where it is in parts
  int64_t max_rows_ = 0;

  std::vector<RowRange> tiles_;
  std::vector<RowRange> self_units_;  // each within one input
  std::vector<size_t> self_steps_;    // step i runs units [self_steps_[i], self_steps_[i+1])
  std::vector<Group> groups_;

  Phase phase_ = Phase::kDone;
  size_t layer_ = 0, group_ = 0;
  int64_t num_steps_ = 0;
  double weight_done_ = 0, weight_total_ = 0;  // FLOPs
};

}  // namespace longdoc
