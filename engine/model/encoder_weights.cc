#include "engine/model/encoder_weights.h"

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_fields.h"
#include "engine/model/tensor_loader.h"

namespace longdoc {
namespace {

NormWeights TakeNorm(TensorLoader& load, const std::string& name, int64_t width) {
  NormWeights norm;
  norm.gamma = load.Take(absl::StrCat(name, ".weight"), {width});
  norm.beta = load.Take(absl::StrCat(name, ".bias"), {width});
  return norm;
}

EncoderLayerWeights TakeLayer(TensorLoader& load, const EncoderConfig& config, int64_t index) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const bool b = config.family == EncoderFamily::kJinaBertB;
  const std::string layer = absl::StrCat("encoder.layer.", index, ".");
  const std::string self = absl::StrCat(layer, "attention.self.");
  EncoderLayerWeights w;
  w.query = load.Take(absl::StrCat(self, "query.weight"), {c, c});
  w.query_bias = load.Take(absl::StrCat(self, "query.bias"), {c});
  w.key = load.Take(absl::StrCat(self, "key.weight"), {c, c});
  w.key_bias = load.Take(absl::StrCat(self, "key.bias"), {c});
  w.value = load.Take(absl::StrCat(self, "value.weight"), {c, c});
  w.value_bias = load.Take(absl::StrCat(self, "value.bias"), {c});
  w.output = load.Take(absl::StrCat(layer, "attention.output.dense.weight"), {c, c});
  w.output_bias = load.Take(absl::StrCat(layer, "attention.output.dense.bias"), {c});
  w.attention_norm = TakeNorm(load, absl::StrCat(layer, "attention.output.LayerNorm"), c);
  const std::string mlp = absl::StrCat(layer, "mlp.");
  w.gated =
      load.Take(absl::StrCat(mlp, b ? "up_gated_layer.weight" : "gated_layers.weight"), {2 * f, c});
  w.down = load.Take(absl::StrCat(mlp, b ? "down_layer.weight" : "wo.weight"), {c, f});
  w.down_bias = load.Take(absl::StrCat(mlp, b ? "down_layer.bias" : "wo.bias"), {c});
  w.mlp_norm =
      TakeNorm(load, b ? absl::StrCat(layer, "layer_norm_2") : absl::StrCat(mlp, "layernorm"), c);
  if (b) {
    w.query_norm = TakeNorm(load, absl::StrCat(self, "layer_norm_q"), c);
    w.key_norm = TakeNorm(load, absl::StrCat(self, "layer_norm_k"), c);
    w.norm_1 = TakeNorm(load, absl::StrCat(layer, "layer_norm_1"), c);
  }
  return w;
}

// The classifier has no prefix: it is not the encoder's.
HeadWeights TakeHead(TensorLoader& load, TensorLoader& load_classifier, int64_t c) {
  HeadWeights head;
  head.pooler = load.Take("pooler.dense.weight", {c, c});
  head.pooler_bias = load.Take("pooler.dense.bias", {c});
  head.classifier = load_classifier.Take("classifier.weight", {1, c});
  head.classifier_bias = load_classifier.Take("classifier.bias", {1});
  return head;
}

// Outputs of the checkpoint's classifier; 0 if it has none.
int64_t NumLabels(const Checkpoint& checkpoint) {
  const TensorEntry* classifier = checkpoint.Find("classifier.weight");
  return classifier == nullptr || classifier->shape.size() != 2 ? 0 : classifier->shape[0];
}

// The family by the names of the first layer's feed-forward tensors.
absl::StatusOr<EncoderFamily> FamilyByNames(const Checkpoint& checkpoint,
                                            const std::string& prefix) {
  const std::string layer = absl::StrCat(prefix, "encoder.layer.0.");
  const bool a = checkpoint.Has(absl::StrCat(layer, "mlp.gated_layers.weight"));
  const bool b = checkpoint.Has(absl::StrCat(layer, "mlp.up_gated_layer.weight"));
  if (a && b) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer, "mlp has both gated_layers and up_gated_layer"));
  }
  if (a) return EncoderFamily::kJinaBertA;
  if (b) return EncoderFamily::kJinaBertB;
  if (checkpoint.Has(absl::StrCat(layer, "intermediate.dense.weight"))) {
    return absl::UnimplementedError(
        absl::StrCat(layer, "intermediate is a plain feed-forward, only gated ones are supported"));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "checkpoint has neither ", layer, "mlp.gated_layers.weight nor mlp.up_gated_layer.weight"));
}

}  // namespace

absl::StatusOr<EncoderCheckpoint> LoadEncoderCheckpoint(const std::string& model_dir,
                                                        bool check_finite) {
  EncoderCheckpoint result;
  const std::string config_path = absl::StrCat(model_dir, "/config.json");
  ASSIGN_OR_RETURN(const std::string config_json, ReadSmallFile(config_path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(result.config, ParseEncoderConfig(config_json));
  ASSIGN_OR_RETURN(result.checkpoint, Checkpoint::Open(model_dir));
  const Checkpoint& checkpoint = *result.checkpoint;
  EncoderConfig& config = result.config;

  // Sequence-classification checkpoints carry the encoder under "bert.".
  const char* kWord = "embeddings.word_embeddings.weight";
  const std::string prefix =
      !checkpoint.Has(kWord) && checkpoint.Has(absl::StrCat("bert.", kWord)) ? "bert." : "";
  ASSIGN_OR_RETURN(config.family, FamilyByNames(checkpoint, prefix));
  RETURN_IF_ERROR(RefuseLayerBeyond(
      checkpoint,
      absl::StrCat(prefix, "encoder.layer.", config.num_layers, ".attention.self.query.weight"),
      "num_hidden_layers", config.num_layers));

  TensorLoader load(checkpoint, prefix, check_finite);
  const int64_t c = config.hidden_size;
  EncoderWeights& weights = result.weights;
  weights.word = load.Take(kWord, {config.vocab_size, c});
  weights.token_type =
      load.Take("embeddings.token_type_embeddings.weight", {config.type_vocab_size, c});
  weights.token_type.shape = {c};  // row 0: a single text has type 0 throughout
  weights.embedding_norm = TakeNorm(load, "embeddings.LayerNorm", c);
  for (int64_t i = 0; i < config.num_layers && load.status().ok(); ++i) {
    weights.layers.push_back(TakeLayer(load, config, i));
  }
  config.num_labels = NumLabels(checkpoint);
  TensorLoader load_classifier(checkpoint, "", check_finite);
  if (config.num_labels == 1) weights.head = TakeHead(load, load_classifier, c);
  RETURN_IF_ERROR(load.status());
  RETURN_IF_ERROR(load_classifier.status());
  result.revision = ModelRevision(checkpoint, config_json);
  return result;
}

}  // namespace longdoc
