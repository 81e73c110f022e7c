// The decoder of a longdoc-CoLT5 model, its matrices packed for a backend.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/loading.h"
#include "engine/model/colt5_config.h"
#include "engine/model/colt5_weights.h"

namespace longdoc {

// Formulas: docs/models.md (longdoc-CoLT5). Keys and values have one head (multi-query).
struct PackedDecoderLayer {
  PlacedFloats self_norm, cross_norm, ff_norm;  // [C]
  std::unique_ptr<PackedMatrix> self_qkv;       // [H·D + 2·D, C], rows: queries, key, value
  std::unique_ptr<PackedMatrix> self_output;    // [C, H·D]
  std::unique_ptr<PackedMatrix> cross_query;    // [H·D, C]
  std::unique_ptr<PackedMatrix> cross_output;   // [C, H·D]
  std::unique_ptr<PackedMatrix> gate_up;        // [2F, C], the first half is activated
  std::unique_ptr<PackedMatrix> down;           // [C, F]
};

// Immutable after Pack; shared by all passes. Knows nothing of the model around it.
struct DecoderWeights {
  // Rows of the vocabulary in one output product: logits never exceed such a tile of columns.
  static constexpr int64_t kVocabularyTile = 2048;

  // Packs on the calling thread, which InitWorkerThread() has prepared. `weights.embeddings` is
  // aligned to its type and outlives the result; everything else is copied. `placed_embeddings`:
  // where ops read that table, if it is placed already. The model has decoder layers.
  static absl::StatusOr<std::unique_ptr<DecoderWeights>> Pack(
      const Colt5Weights& weights, const Colt5Config& config, Backend& backend,
      const void* placed_embeddings = nullptr);

  float LogitScale() const;  // C^-0.5
  int64_t bytes() const;     // of everything packed; the embedding table is the model's

  Colt5Config config;
  std::vector<PackedDecoderLayer> layers;
  // For the encoder, once per document: row 2·D·l + (0 … 2D) of a state's product is layer l's key,
  // then its value.
  std::unique_ptr<PackedMatrix> cross_kv;  // [layers·2·D, C]
  PlacedFloats final_norm;                 // [C]
  PlacedFloats slopes;                     // [H] of self-attention
  const void* embeddings = nullptr;        // [V, C] of embeddings_type, where ops read it
  DType embeddings_type = DType::kF32;
  Placed own_embeddings;  // when it was placed for the decoder alone
  // The same table as the output projection: tile i has the rows from i · kVocabularyTile on. Its
  // products are the logits before LogitScale().
  std::vector<std::unique_ptr<PackedMatrix>> vocabulary;
};

}  // namespace longdoc
