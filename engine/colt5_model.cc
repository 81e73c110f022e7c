#include "engine/colt5_model.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/colt5_layout.h"
#include "engine/colt5_pass.h"

namespace longdoc {
namespace {

absl::StatusOr<PackedFeedForward> PackFeedForward(const Colt5FeedForwardWeights& w,
                                                  Backend& backend) {
  PackedFeedForward ff;
  ASSIGN_OR_RETURN(ff.gate_up, backend.Pack({w.gate_up}, {}));
  ASSIGN_OR_RETURN(ff.down, backend.Pack({w.down}, {}));
  return ff;
}

absl::StatusOr<PackedColt5Layer> PackLayer(const Colt5EncoderLayerWeights& w, Backend& backend) {
  PackedColt5Layer layer;
  ASSIGN_OR_RETURN(layer.attention_norm, PlacedFloats::Make(w.attention_norm, backend));
  ASSIGN_OR_RETURN(layer.query_router, PlacedFloats::Make(w.query_router, backend));
  ASSIGN_OR_RETURN(layer.kv_router, PlacedFloats::Make(w.kv_router, backend));
  ASSIGN_OR_RETURN(layer.ff_norm, PlacedFloats::Make(w.ff_norm, backend));
  ASSIGN_OR_RETURN(layer.ff_router, PlacedFloats::Make(w.ff_router, backend));
  const Colt5AttentionWeights &light = w.light_attention, &heavy = w.heavy_attention;
  ASSIGN_OR_RETURN(layer.light_qkv, backend.Pack({light.query, light.key, light.value}, {}));
  ASSIGN_OR_RETURN(layer.light_output, backend.Pack({light.output}, {}));
  ASSIGN_OR_RETURN(layer.heavy_query, backend.Pack({heavy.query}, {}));
  ASSIGN_OR_RETURN(layer.heavy_kv, backend.Pack({heavy.key, heavy.value}, {}));
  ASSIGN_OR_RETURN(layer.heavy_output, backend.Pack({heavy.output}, {}));
  ASSIGN_OR_RETURN(layer.light_ff, PackFeedForward(w.light_ff, backend));
  ASSIGN_OR_RETURN(layer.heavy_ff, PackFeedForward(w.heavy_ff, backend));
  return layer;
}

int64_t PackedBytes(const PackedColt5Layer& w) {
  int64_t bytes = 0;
  for (const auto* m :
       {&w.light_qkv, &w.light_output, &w.heavy_query, &w.heavy_kv, &w.heavy_output,
        &w.light_ff.gate_up, &w.light_ff.down, &w.heavy_ff.gate_up, &w.heavy_ff.down}) {
    bytes += (*m)->bytes();
  }
  return bytes;
}

ModelInfo MakeInfo(const Colt5Config& config) {
  ModelInfo info;
  info.family = "longdoc_colt5";
  info.vocab_size = config.vocab_size;
  info.dimensions = config.vector_size();
  info.hidden_size = config.hidden_size;
  info.num_layers = config.num_layers;
  info.num_heads = std::max(config.light_heads, config.heavy_heads);
  info.head_dim = config.head_dim;
  info.parameters = NumParameters(config);
  info.can_score_likelihood = config.decoder_layers > 0;
  info.max_target_tokens = info.can_score_likelihood ? config.max_target_tokens : 0;
  return info;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Colt5Model>> Colt5Model::Load(const std::string& name,
                                                                   const std::string& dir,
                                                                   Backend& backend) {
  std::shared_ptr<Colt5Model> model(new Colt5Model());
  model->name_ = name;
  ASSIGN_OR_RETURN(model->checkpoint_, LoadColt5Checkpoint(dir));
  RETURN_IF_ERROR(CheckHeadDim(model->config().head_dim, backend));
  model->info_ = MakeInfo(model->config());
  ASSIGN_OR_RETURN(model->tokenizer_, LoadModelTokenizer(dir, model->config().vocab_size));
  model->compute_type_ = ComputeTypeOf(backend);
  RETURN_IF_ERROR(model->Pack(backend));
  for (const std::string& tensor : model->checkpoint_.checkpoint->Names()) {
    model->checkpoint_.checkpoint->Release(tensor);
  }
  return model;
}

absl::Status Colt5Model::Pack(Backend& backend) {
  Colt5Weights& weights = checkpoint_.weights;
  ASSIGN_OR_RETURN(embeddings_, AlignedTable::Make(weights.embeddings, backend));
  weights.embeddings = embeddings_.view();
  ASSIGN_OR_RETURN(final_norm_, PlacedFloats::Make(weights.encoder_final_norm, backend));
  const size_t count = weights.encoder_layers.size();
  layers_.resize(count);
  // The decoder packs as one more piece, beside the layers.
  RETURN_IF_ERROR(PackInParallel(backend, count + 1, [&](size_t i) -> absl::Status {
    if (i > 0) {
      ASSIGN_OR_RETURN(layers_[i - 1], PackLayer(weights.encoder_layers[i - 1], backend));
      return absl::OkStatus();
    }
    if (weights.output.data != nullptr) {
      ASSIGN_OR_RETURN(output_, backend.Pack({weights.output}, {}));
    }
    if (config().decoder_layers == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(decoder_,
                     DecoderWeights::Pack(weights, config(), backend, embeddings_.placed()));
    return absl::OkStatus();
  }));
  weight_bytes_ = embeddings().view().bytes();
  for (const PackedColt5Layer& layer : layers_) weight_bytes_ += PackedBytes(layer);
  if (output_ != nullptr) weight_bytes_ += output_->bytes();
  if (decoder_ != nullptr) weight_bytes_ += decoder_->bytes();
  return absl::OkStatus();
}

EncodePlan Colt5Model::PlanEncode(const Backend& backend, const EncodeShape& shape) const {
  const Colt5Layout layout(config(), backend, shape.attention, {0, shape.tokens});
  EncodePlan plan;
  plan.tokens = shape.tokens;
  plan.activation_bytes = layout.Bytes();
  plan.output_bytes = 2 * shape.num_vectors * info_.dimensions * 4;  // pooled, then handed out
  // Without a projection token vectors are the residual stream itself: no space of their own.
  if (shape.token_vectors || shape.keep_token_vectors) {
    plan.output_bytes += layout.TokenVectorBytes();
  }
  if (shape.keep_token_vectors) {
    plan.output_bytes += TokenVectors::Bytes(shape.tokens, info_.dimensions);
  }
  if (shape.cross_kv) plan.output_bytes += layout.CrossKvBytes(0, shape.cross_kv_type);
  plan.scratch_bytes = layout.ScratchBytes();
  plan.peak_bytes = plan.activation_bytes + plan.output_bytes;
  plan.dense_flops = layout.DenseFlops(0, shape.cross_kv);
  plan.attention_flops = layout.ExpectedAttentionFlops();
  plan.expected_tile_fraction = layout.ExpectedTileFraction();
  return plan;
}

absl::StatusOr<std::unique_ptr<EncodePass>> Colt5Model::MakePass(
    Backend& backend, const AttentionPolicy& policy,
    const std::vector<PassSequence>& sequences) const {
  return Colt5Pass::Create(backend, *this, policy, sequences);
}

}  // namespace longdoc
