#include "engine/model/colt5_weights.h"

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_fields.h"
#include "engine/model/tensor_loader.h"

namespace longdoc {
namespace {

// Tensors of one layer, by their names within it.
class LayerTaker {
 public:
  LayerTaker(const char* side, int64_t index, const Colt5Config& config, const TakeTensor& take)
      : prefix_(absl::StrCat(side, ".layers.", index, ".")), config_(config), take_(take) {}

  // A norm's gain or a router: one value per channel.
  TensorView Vector(const char* name) const {
    return take_(absl::StrCat(prefix_, name, ".weight"), {config_.hidden_size});
  }

  Colt5AttentionWeights Attention(const char* name, int64_t heads, int64_t kv_heads) const {
    const int64_t c = config_.hidden_size, d = config_.head_dim;
    const std::string attention = absl::StrCat(prefix_, name, ".");
    Colt5AttentionWeights w;
    w.query = take_(attention + "query.weight", {heads * d, c});
    w.key = take_(attention + "key.weight", {kv_heads * d, c});
    w.value = take_(attention + "value.weight", {kv_heads * d, c});
    w.output = take_(attention + "output.weight", {c, heads * d});
    return w;
  }

  Colt5FeedForwardWeights FeedForward(const char* name, int64_t size) const {
    const std::string ff = absl::StrCat(prefix_, name, ".");
    Colt5FeedForwardWeights w;
    w.gate_up = take_(ff + "gate_up.weight", {2 * size, config_.hidden_size});
    w.down = take_(ff + "down.weight", {config_.hidden_size, size});
    return w;
  }

 private:
  std::string prefix_;
  const Colt5Config& config_;
  const TakeTensor& take_;
};

Colt5EncoderLayerWeights TakeEncoderLayer(const LayerTaker& take, const Colt5Config& config) {
  Colt5EncoderLayerWeights w;
  w.attention_norm = take.Vector("attention_norm");
  w.query_router = take.Vector("attention_router.query");
  w.kv_router = take.Vector("attention_router.kv");
  w.light_attention = take.Attention("light_attention", config.light_heads, config.light_heads);
  w.heavy_attention = take.Attention("heavy_attention", config.heavy_heads, config.heavy_heads);
  w.ff_norm = take.Vector("ff_norm");
  w.ff_router = take.Vector("ff_router");
  w.light_ff = take.FeedForward("light_ff", config.light_ff_size);
  w.heavy_ff = take.FeedForward("heavy_ff", config.heavy_ff_size);
  return w;
}

Colt5DecoderLayerWeights TakeDecoderLayer(const LayerTaker& take, const Colt5Config& config) {
  Colt5DecoderLayerWeights w;
  w.self_attention_norm = take.Vector("self_attention_norm");
  w.self_attention = take.Attention("self_attention", config.decoder_heads, /*kv_heads=*/1);
  w.cross_attention_norm = take.Vector("cross_attention_norm");
  w.cross_attention = take.Attention("cross_attention", config.decoder_heads, /*kv_heads=*/1);
  w.ff_norm = take.Vector("ff_norm");
  w.ff = take.FeedForward("ff", config.decoder_ff_size);
  return w;
}

}  // namespace

Colt5Weights CollectColt5Weights(const Colt5Config& config, const TakeTensor& take) {
  const int64_t c = config.hidden_size;
  Colt5Weights weights;
  weights.embeddings = take("embeddings.weight", {config.vocab_size, c});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    weights.encoder_layers.push_back(
        TakeEncoderLayer(LayerTaker("encoder", i, config, take), config));
  }
  weights.encoder_final_norm = take("encoder.final_norm.weight", {c});
  if (config.output_size > 0) {
    weights.output = take("encoder.output.weight", {config.output_size, c});
  }
  for (int64_t i = 0; i < config.decoder_layers; ++i) {
    weights.decoder_layers.push_back(
        TakeDecoderLayer(LayerTaker("decoder", i, config, take), config));
  }
  if (config.decoder_layers > 0)
    weights.decoder_final_norm = take("decoder.final_norm.weight", {c});
  return weights;
}

absl::StatusOr<Colt5Checkpoint> LoadColt5Checkpoint(const std::string& model_dir,
                                                    bool check_finite) {
  Colt5Checkpoint result;
  const std::string config_path = absl::StrCat(model_dir, "/config.json");
  ASSIGN_OR_RETURN(const std::string config_json, ReadSmallFile(config_path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(result.config, ParseColt5Config(config_json));
  ASSIGN_OR_RETURN(result.checkpoint, Checkpoint::Open(model_dir));
  const Colt5Config& config = result.config;
  RETURN_IF_ERROR(RefuseLayerBeyond(
      *result.checkpoint,
      absl::StrCat("encoder.layers.", config.num_layers, ".attention_norm.weight"), "num_layers",
      config.num_layers));
  RETURN_IF_ERROR(RefuseLayerBeyond(
      *result.checkpoint,
      absl::StrCat("decoder.layers.", config.decoder_layers, ".self_attention_norm.weight"),
      "decoder_layers", config.decoder_layers));

  TensorLoader load(*result.checkpoint, /*prefix=*/"", check_finite);
  result.weights = CollectColt5Weights(
      config, [&load](const std::string& name, const std::vector<int64_t>& shape) {
        return load.Take(name, shape);
      });
  RETURN_IF_ERROR(load.status());
  result.revision = ModelRevision(*result.checkpoint, config_json);
  return result;
}

}  // namespace longdoc
