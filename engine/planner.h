// Predicts what an encode takes before anything is allocated. Admission, EstimateDocument and
// `longdoc plan` all ask here, so that they cannot disagree.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/model/encoder_config.h"

namespace longdoc {

// Bytes that a pass over one sequence allocates: the residual stream, what attention holds, and the
// ids where they are copied. A batch takes no more than its sequences do alone.
int64_t PlanPassBytes(const EncoderConfig& config, const Backend& backend,
                      const AttentionPolicy& policy, int64_t tokens);

// Rows of a tile of a dense step over `rows` rows: cut so that every worker gets one.
int64_t TileRows(const BackendInfo& backend, int64_t rows);

// The attention problem of one layer with as many heads as slopes; sequences and pointers are left
// out, and `slopes` must outlive it.
kernels::AttentionProblem MakeAttentionProblem(absl::Span<const float> slopes, int64_t head_dim,
                                               const BackendInfo& backend,
                                               const AttentionPolicy& policy);

// How the memory of a device is divided, where weights and documents share it.
struct DeviceMemoryPlan {
  int64_t device_bytes = 0;   // all that may be taken
  int64_t weight_bytes = 0;   // of the models that are loaded
  int64_t scratch_bytes = 0;  // of the model that wants most
  int64_t fixed_bytes = 0;    // what the backend keeps for itself

  // What running documents may hold together. Blocks are up to an eighth larger than what is asked,
  // so that freed ones serve again: that is the margin for fragmentation.
  int64_t DocumentBytes() const;
};

// Scratch that one worker keeps for models of this shape (attention scratch not included).
int64_t PlanScratchBytes(const EncoderConfig& config, const BackendInfo& backend);

// Share of attention tiles that the policy is expected to leave for one sequence of `tokens`:
// rule B with a logit bound of 20 for kTolerance (kernels/attention.h). `block_tokens`: how far a
// query block spreads over the sequence (further, where its tokens are gathered).
double ExpectedTileFraction(absl::Span<const float> slopes, const AttentionPolicy& policy,
                            int64_t tokens, int64_t block_tokens = kernels::kQueryBlock);

// FLOPs of one attention tile, and of full attention: 4·H·D·n² a layer.
double AttentionTileFlops(int64_t head_dim);
double DenseAttentionFlops(const EncoderConfig& config, int64_t tokens);

}  // namespace longdoc
