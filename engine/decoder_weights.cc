#include "engine/decoder_weights.h"

#include <algorithm>
#include <cmath>

#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

absl::StatusOr<PackedDecoderLayer> PackLayer(const Colt5DecoderLayerWeights& w, Backend& backend) {
  PackedDecoderLayer layer;
  ASSIGN_OR_RETURN(layer.self_norm, PlacedFloats::Make(w.self_attention_norm, backend));
  ASSIGN_OR_RETURN(layer.cross_norm, PlacedFloats::Make(w.cross_attention_norm, backend));
  ASSIGN_OR_RETURN(layer.ff_norm, PlacedFloats::Make(w.ff_norm, backend));
  const Colt5AttentionWeights& self = w.self_attention;
  ASSIGN_OR_RETURN(layer.self_qkv, backend.Pack({self.query, self.key, self.value}, {}));
  ASSIGN_OR_RETURN(layer.self_output, backend.Pack({self.output}, {}));
  ASSIGN_OR_RETURN(layer.cross_query, backend.Pack({w.cross_attention.query}, {}));
  ASSIGN_OR_RETURN(layer.cross_output, backend.Pack({w.cross_attention.output}, {}));
  ASSIGN_OR_RETURN(layer.gate_up, backend.Pack({w.ff.gate_up}, {}));
  ASSIGN_OR_RETURN(layer.down, backend.Pack({w.ff.down}, {}));
  return layer;
}

// Rows [begin, begin + rows) of a [V, C] table.
TensorView Rows(const TensorView& table, int64_t begin, int64_t rows) {
  TensorView view = table;
  const int64_t row_bytes = table.shape[1] * static_cast<int64_t>(kernels::SizeOf(table.dtype));
  view.shape[0] = rows;
  view.data = static_cast<const char*>(table.data) + begin * row_bytes;
  return view;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderWeights>> DecoderWeights::Pack(
    const Colt5Weights& weights, const Colt5Config& config, Backend& backend,
    const void* placed_embeddings) {
  auto decoder = std::make_unique<DecoderWeights>();
  decoder->config = config;
  std::vector<TensorView> cross_kv;
  for (const Colt5DecoderLayerWeights& w : weights.decoder_layers) {
    ASSIGN_OR_RETURN(PackedDecoderLayer layer, PackLayer(w, backend));
    decoder->layers.push_back(std::move(layer));
    cross_kv.push_back(w.cross_attention.key);
    cross_kv.push_back(w.cross_attention.value);
  }
  ASSIGN_OR_RETURN(decoder->cross_kv, backend.Pack(cross_kv, {}));
  ASSIGN_OR_RETURN(decoder->final_norm, PlacedFloats::Make(weights.decoder_final_norm, backend));
  const TensorView slopes = {DType::kF32, {config.decoder_heads}, config.decoder_slopes.data()};
  ASSIGN_OR_RETURN(decoder->slopes, PlacedFloats::Make(slopes, backend));
  if (placed_embeddings == nullptr) {
    ASSIGN_OR_RETURN(decoder->own_embeddings,
                     backend.Place(weights.embeddings.data, weights.embeddings.bytes()));
    placed_embeddings = decoder->own_embeddings.data;
  }
  decoder->embeddings = placed_embeddings;
  decoder->embeddings_type = weights.embeddings.dtype;
  for (int64_t begin = 0; begin < config.vocab_size; begin += kVocabularyTile) {
    const int64_t rows = std::min(kVocabularyTile, config.vocab_size - begin);
    ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> tile,
                     backend.Pack({Rows(weights.embeddings, begin, rows)}, {}));
    decoder->vocabulary.push_back(std::move(tile));
  }
  return decoder;
}

float DecoderWeights::LogitScale() const {
  return 1.0f / std::sqrt(static_cast<float>(config.hidden_size));
}

int64_t DecoderWeights::bytes() const {
  int64_t sum = cross_kv->bytes() + own_embeddings.copy.bytes();
  for (const PackedDecoderLayer& w : layers) {
    for (const auto* m :
         {&w.self_qkv, &w.self_output, &w.cross_query, &w.cross_output, &w.gate_up, &w.down}) {
      sum += (*m)->bytes();
    }
  }
  for (const auto& tile : vocabulary) sum += tile->bytes();
  return sum;
}

}  // namespace longdoc
