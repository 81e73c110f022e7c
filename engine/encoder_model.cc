#include "engine/encoder_model.h"

#include <cstdint>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/forward_pass.h"
#include "engine/loading.h"
#include "engine/planner.h"

namespace longdoc {
namespace {

absl::StatusOr<NormVectors> PlaceNorm(const NormWeights& norm, Backend& backend) {
  NormVectors vectors;
  ASSIGN_OR_RETURN(vectors.gamma, PlacedFloats::Make(norm.gamma, backend));
  ASSIGN_OR_RETURN(vectors.beta, PlacedFloats::Make(norm.beta, backend));
  return vectors;
}

absl::StatusOr<PackedLayer> PackLayer(const EncoderLayerWeights& w, Backend& backend) {
  PackedLayer layer;
  ASSIGN_OR_RETURN(
      layer.qkv, backend.Pack({w.query, w.key, w.value}, {w.query_bias, w.key_bias, w.value_bias}));
  ASSIGN_OR_RETURN(layer.output, backend.Pack({w.output}, {w.output_bias}));
  ASSIGN_OR_RETURN(layer.gated, backend.Pack({w.gated}, {}));
  ASSIGN_OR_RETURN(layer.down, backend.Pack({w.down}, {w.down_bias}));
  ASSIGN_OR_RETURN(layer.attention_norm, PlaceNorm(w.attention_norm, backend));
  ASSIGN_OR_RETURN(layer.mlp_norm, PlaceNorm(w.mlp_norm, backend));
  ASSIGN_OR_RETURN(layer.query_norm, PlaceNorm(w.query_norm, backend));
  ASSIGN_OR_RETURN(layer.key_norm, PlaceNorm(w.key_norm, backend));
  ASSIGN_OR_RETURN(layer.norm_1, PlaceNorm(w.norm_1, backend));
  return layer;
}

ModelInfo MakeInfo(const EncoderConfig& config) {
  ModelInfo info;
  info.family = config.family == EncoderFamily::kJinaBertA ? "jina_bert_a" : "jina_bert_b";
  info.vocab_size = config.vocab_size;
  info.dimensions = info.hidden_size = config.hidden_size;
  info.num_layers = config.num_layers;
  info.num_heads = config.num_heads;
  info.head_dim = config.head_dim;
  info.parameters = NumParameters(config);
  return info;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const EncoderModel>> EncoderModel::Load(const std::string& name,
                                                                       const std::string& dir,
                                                                       Backend& backend) {
  std::shared_ptr<EncoderModel> model(new EncoderModel());
  model->name_ = name;
  ASSIGN_OR_RETURN(model->checkpoint_, LoadEncoderCheckpoint(dir));
  RETURN_IF_ERROR(CheckHeadDim(model->config().head_dim, backend));
  model->info_ = MakeInfo(model->config());
  ASSIGN_OR_RETURN(model->tokenizer_, LoadModelTokenizer(dir, model->config().vocab_size));
  model->compute_type_ = ComputeTypeOf(backend);
  RETURN_IF_ERROR(model->PackLayers(backend));
  RETURN_IF_ERROR(model->PlaceEmbeddings(backend));
  if (const HeadWeights& head = model->checkpoint_.weights.head; head.pooler.data != nullptr) {
    model->head_ = std::make_unique<CrossEncoderHead>(head);
    model->weight_bytes_ += model->head_->bytes();
    model->info_.can_cross_encode = CanReadPairs(*model->tokenizer_);
  }
  for (const std::string& tensor : model->checkpoint_.checkpoint->Names()) {
    model->checkpoint_.checkpoint->Release(tensor);
  }
  return model;
}

absl::Status EncoderModel::PackLayers(Backend& backend) {
  const auto& source = checkpoint_.weights.layers;
  layers_.resize(source.size());
  RETURN_IF_ERROR(PackInParallel(backend, source.size(), [&](size_t i) -> absl::Status {
    ASSIGN_OR_RETURN(layers_[i], PackLayer(source[i], backend));
    return absl::OkStatus();
  }));
  for (const PackedLayer& layer : layers_) {
    for (const auto* m : {&layer.qkv, &layer.output, &layer.gated, &layer.down}) {
      weight_bytes_ += (*m)->bytes();
    }
  }
  return absl::OkStatus();
}

absl::Status EncoderModel::PlaceEmbeddings(Backend& backend) {
  ASSIGN_OR_RETURN(word_, AlignedTable::Make(checkpoint_.weights.word, backend));
  weight_bytes_ += word_.view().bytes();
  ASSIGN_OR_RETURN(token_type_, PlacedFloats::Make(checkpoint_.weights.token_type, backend));
  ASSIGN_OR_RETURN(embedding_norm_, PlaceNorm(checkpoint_.weights.embedding_norm, backend));
  return absl::OkStatus();
}

EncodePlan EncoderModel::PlanEncode(const Backend& backend, const EncodeShape& shape) const {
  EncodePlan plan;
  plan.tokens = shape.tokens;
  plan.activation_bytes = PlanPassBytes(config(), backend, shape.attention, shape.tokens);
  const int64_t vector_bytes = config().hidden_size * static_cast<int64_t>(sizeof(float));
  // Token vectors are the residual stream itself: they cost time to live, not space. The others are
  // pooled in one piece, then handed out.
  plan.output_bytes = 2 * shape.num_vectors * vector_bytes;
  if (shape.keep_token_vectors) {
    plan.output_bytes += TokenVectors::Bytes(shape.tokens, config().hidden_size);
  }
  plan.scratch_bytes = PlanScratchBytes(config(), backend.info());
  plan.peak_bytes = plan.activation_bytes + plan.output_bytes;
  plan.expected_tile_fraction =
      ExpectedTileFraction(config().slopes, shape.attention, shape.tokens);
  plan.dense_flops = DenseFlopsPerToken(config()) * static_cast<double>(shape.tokens);
  plan.attention_flops = plan.expected_tile_fraction * DenseAttentionFlops(config(), shape.tokens);
  return plan;
}

absl::StatusOr<std::unique_ptr<EncodePass>> EncoderModel::MakePass(
    Backend& backend, const AttentionPolicy& policy,
    const std::vector<PassSequence>& sequences) const {
  return ForwardPass::Create(backend, *this, policy, sequences);
}

}  // namespace longdoc
