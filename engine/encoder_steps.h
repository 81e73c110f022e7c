// The dense steps of an encoder on a tile of tokens. Formulas: docs/models.md (JinaBERT A and B).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/encoder_model.h"
#include "engine/worker_scratch.h"

namespace longdoc {

// What a pass over packed tokens works on; x and the attention's buffers cover all T tokens.
struct EncoderState {
  Backend* backend = nullptr;
  const EncoderModel* model = nullptr;
  const int32_t* ids = nullptr;  // [T], of the device
  float* x = nullptr;            // [T, C], the residual stream
  AttentionSteps* attention = nullptr;
};

// A run of packed tokens.
struct TokenTile {
  int64_t begin = 0;
  int64_t rows = 0;
};

// x = LayerNorm(word + type), then the first layer's projections.
absl::Status EmbedStep(const EncoderState& s, TokenTile tile, WorkerScratch& scratch);

// What follows attention in `layer`: output projection, residual, norm, gated feed-forward in this
// tile only (its wide intermediate never exists for the whole document), norm; then the next
// layer's projections, while the tile is in cache.
absl::Status MixStep(const EncoderState& s, size_t layer, TokenTile tile, WorkerScratch& scratch);

}  // namespace longdoc
