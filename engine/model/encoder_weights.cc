#include "engine/model/encoder_weights.h"

#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/hash.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/model/json_sax.h"

namespace longdoc {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

// Index of the first element whose exponent bits (`mask`) are all set, that is NaN or infinity; -1
// when all are finite. The branch-free inner loop runs at memory speed.
template <typename Word>
int64_t FirstNonFinite(const Word* words, int64_t count, Word mask) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Word bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= static_cast<Word>((words[i] & mask) == mask);
    if (bad == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((words[i] & mask) == mask) return i;
    }
  }
  return -1;
}

int64_t FirstNonFinite(const TensorView& tensor) {
  const int64_t count = tensor.num_elements();
  switch (tensor.dtype) {
    case DType::kF32:
      return FirstNonFinite<uint32_t>(static_cast<const uint32_t*>(tensor.data), count,
                                      0x7f800000u);
    case DType::kBF16:
      return FirstNonFinite<uint16_t>(static_cast<const uint16_t*>(tensor.data), count, 0x7f80u);
    case DType::kF16:
      return FirstNonFinite<uint16_t>(static_cast<const uint16_t*>(tensor.data), count, 0x7c00u);
  }
  return -1;
}

// Takes tensors out of a checkpoint by name; remembers the first error, so that the tables below
// read as tables.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, std::string prefix, bool check_finite)
      : checkpoint_(checkpoint), prefix_(std::move(prefix)), check_finite_(check_finite) {}

  TensorView Take(const std::string& name, const std::vector<int64_t>& shape) {
    if (!status_.ok()) return {};
    const std::string full = absl::StrCat(prefix_, name);
    absl::StatusOr<TensorView> tensor = checkpoint_.Get(full, shape);
    if (!tensor.ok()) {
      // A tensor that the architecture needs is part of a valid model: its absence is bad input.
      status_ = absl::InvalidArgumentError(std::string(tensor.status().message()));
      return {};
    }
    if (check_finite_) {
      const int64_t bad = FirstNonFinite(*tensor);
      if (bad >= 0) {
        status_ = absl::InvalidArgumentError(
            absl::StrFormat("tensor %s: element %d is not finite", Quoted(full), bad));
        return {};
      }
    }
    return *std::move(tensor);
  }

  NormWeights TakeNorm(const std::string& name, int64_t width) {
    NormWeights norm;
    norm.gamma = Take(absl::StrCat(name, ".weight"), {width});
    norm.beta = Take(absl::StrCat(name, ".bias"), {width});
    return norm;
  }

  const absl::Status& status() const { return status_; }

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
  bool check_finite_;
  absl::Status status_;
};

EncoderLayerWeights TakeLayer(Loader& load, const EncoderConfig& config, int64_t index) {
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
  w.attention_norm = load.TakeNorm(absl::StrCat(layer, "attention.output.LayerNorm"), c);
  const std::string mlp = absl::StrCat(layer, "mlp.");
  w.gated =
      load.Take(absl::StrCat(mlp, b ? "up_gated_layer.weight" : "gated_layers.weight"), {2 * f, c});
  w.down = load.Take(absl::StrCat(mlp, b ? "down_layer.weight" : "wo.weight"), {c, f});
  w.down_bias = load.Take(absl::StrCat(mlp, b ? "down_layer.bias" : "wo.bias"), {c});
  w.mlp_norm =
      load.TakeNorm(b ? absl::StrCat(layer, "layer_norm_2") : absl::StrCat(mlp, "layernorm"), c);
  if (b) {
    w.query_norm = load.TakeNorm(absl::StrCat(self, "layer_norm_q"), c);
    w.key_norm = load.TakeNorm(absl::StrCat(self, "layer_norm_k"), c);
    w.norm_1 = load.TakeNorm(absl::StrCat(layer, "layer_norm_1"), c);
  }
  return w;
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
  // More layers than config.json counts would be silently another model.
  const std::string beyond =
      absl::StrCat(prefix, "encoder.layer.", config.num_layers, ".attention.self.query.weight");
  if (checkpoint.Has(beyond)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("checkpoint has tensor %s, but config.json says num_hidden_layers %d",
                        beyond, config.num_layers));
  }

  Loader load(checkpoint, prefix, check_finite);
  const int64_t c = config.hidden_size;
  EncoderWeights& weights = result.weights;
  weights.word = load.Take(kWord, {config.vocab_size, c});
  weights.token_type =
      load.Take("embeddings.token_type_embeddings.weight", {config.type_vocab_size, c});
  weights.token_type.shape = {c};  // row 0: a single text has type 0 throughout
  weights.embedding_norm = load.TakeNorm("embeddings.LayerNorm", c);
  for (int64_t i = 0; i < config.num_layers && load.status().ok(); ++i) {
    weights.layers.push_back(TakeLayer(load, config, i));
  }
  RETURN_IF_ERROR(load.status());
  result.revision = absl::StrFormat("%016x", checkpoint.Fingerprint() ^ Fnv1a(config_json));
  return result;
}

}  // namespace longdoc
