#include "engine/encoder_model.h"

#include <cstdint>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/forward_pass.h"
#include "engine/loading.h"
#include "engine/planner.h"

namespace longdoc {
namespace {

NormVectors ToVectors(const NormWeights& norm) {
  if (norm.gamma.data == nullptr) return {};
  return {ToFloats(norm.gamma), ToFloats(norm.beta)};
}

absl::StatusOr<PackedLayer> PackLayer(const EncoderLayerWeights& w, Backend& backend) {
  PackedLayer layer;
  ASSIGN_OR_RETURN(
      layer.qkv, backend.Pack({w.query, w.key, w.value}, {w.query_bias, w.key_bias, w.value_bias}));
  ASSIGN_OR_RETURN(layer.output, backend.Pack({w.output}, {w.output_bias}));
  ASSIGN_OR_RETURN(layer.gated, backend.Pack({w.gated}, {}));
  ASSIGN_OR_RETURN(layer.down, backend.Pack({w.down}, {w.down_bias}));
  layer.attention_norm = ToVectors(w.attention_norm);
  layer.mlp_norm = ToVectors(w.mlp_norm);
  layer.query_norm = ToVectors(w.query_norm);
  layer.key_norm = ToVectors(w.key_norm);
  layer.norm_1 = ToVectors(w.norm_1);
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
  model->info_ = MakeInfo(model->config());
  ASSIGN_OR_RETURN(model->tokenizer_, LoadModelTokenizer(dir, model->config().vocab_size));
  model->compute_type_ = ComputeTypeOf(backend);
  RETURN_IF_ERROR(model->PackLayers(backend));
  model->KeepEmbeddings();
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

void EncoderModel::KeepEmbeddings() {
  word_ = AlignedTable(checkpoint_.weights.word);
  weight_bytes_ += word_.view().bytes();
  token_type_ = ToFloats(checkpoint_.weights.token_type);
  embedding_norm_ = ToVectors(checkpoint_.weights.embedding_norm);
}

EncodePlan EncoderModel::PlanEncode(const BackendInfo& backend, const EncodeShape& shape) const {
  EncodePlan plan;
  plan.tokens = shape.tokens;
  const PassBytes bytes = PlanPassBytes(config(), backend, shape.tokens, 1);
  plan.activation_bytes = bytes.total();
  const int64_t vector_bytes = config().hidden_size * static_cast<int64_t>(sizeof(float));
  // Token vectors are the residual stream itself: they cost time to live, not space.
  plan.output_bytes = shape.num_vectors * vector_bytes;
  plan.scratch_bytes = PlanScratchBytes(config(), backend);
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
