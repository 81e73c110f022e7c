#include "engine/model/encoder_config.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/config_fields.h"

namespace longdoc {
namespace {

using nlohmann::json;

absl::Status ParseSizes(const ConfigFields& fields, EncoderConfig& config) {
  RETURN_IF_ERROR(fields.Integer("vocab_size", 1, 4'194'304, config.vocab_size));
  RETURN_IF_ERROR(fields.Integer("hidden_size", 16, 16'384, config.hidden_size));
  RETURN_IF_ERROR(fields.Integer("num_hidden_layers", 1, 256, config.num_layers));
  RETURN_IF_ERROR(fields.Integer("num_attention_heads", 1, 256, config.num_heads));
  RETURN_IF_ERROR(fields.Integer("intermediate_size", 1, 131'072, config.intermediate_size));
  RETURN_IF_ERROR(fields.Integer("type_vocab_size", 1, 1024, config.type_vocab_size, 2));
  RETURN_IF_ERROR(fields.Integer("max_position_embeddings", 1, int64_t{1} << 31,
                                 config.max_position_embeddings, 512));
  RETURN_IF_ERROR(fields.Integer("num_labels", 0, 1 << 20, config.num_labels, 0));
  int64_t pad = 0;
  RETURN_IF_ERROR(fields.Integer("pad_token_id", 0, config.vocab_size - 1, pad, 0));
  config.pad_token_id = static_cast<int32_t>(pad);
  if (config.hidden_size % config.num_heads != 0) {
    return InvalidConfig(absl::StrFormat("hidden_size %d is no multiple of num_attention_heads %d",
                                         config.hidden_size, config.num_heads));
  }
  config.head_dim = config.hidden_size / config.num_heads;
  if (config.head_dim % 16 != 0 || config.head_dim > 256) {
    return InvalidConfig(absl::StrFormat(
        "hidden_size / num_attention_heads is %d, a multiple of 16 up to 256 is needed",
        config.head_dim));
  }
  return absl::OkStatus();
}

// Which of the two code bases the file names, as text-embeddings-inference looks for them.
absl::Status ParseFamily(const ConfigFields& fields, EncoderConfig& config) {
  ASSIGN_OR_RETURN(std::string origin, fields.String("_name_or_path", ""));
  if (const json* map = fields.Find("auto_map"); map != nullptr && map->is_object()) {
    const auto it = map->find("AutoConfig");
    if (it != map->end() && it->is_string()) absl::StrAppend(&origin, " ", it->get<std::string>());
  }
  if (origin.find("jina-bert-v2-qk-post-norm") != std::string::npos) {
    config.family = EncoderFamily::kJinaBertB;
  }
  return absl::OkStatus();
}

absl::StatusOr<EncoderConfig> ParseFields(const ConfigFields& fields) {
  if (fields.Find("model_type") == nullptr) return InvalidConfig("model_type is missing");
  RETURN_IF_ERROR(fields.Only("model_type", "", "bert"));
  RETURN_IF_ERROR(fields.Only("position_embedding_type", "absolute", "alibi"));
  RETURN_IF_ERROR(fields.Only("feed_forward_type", "original", "geglu"));
  RETURN_IF_ERROR(fields.Only("hidden_act", "gelu", "gelu"));
  RETURN_IF_ERROR(fields.Only("emb_pooler", "mean", "mean"));
  EncoderConfig config;
  RETURN_IF_ERROR(ParseSizes(fields, config));
  double epsilon = 0;
  RETURN_IF_ERROR(fields.Number("layer_norm_eps", 0, 0.1, epsilon, config.layer_norm_eps));
  config.layer_norm_eps = static_cast<float>(epsilon);
  RETURN_IF_ERROR(ParseFamily(fields, config));
  config.slopes = AlibiSlopes(config.num_heads);
  return config;
}

}  // namespace

std::vector<float> AlibiSlopes(int64_t num_heads, double bias_max) {
  if (num_heads <= 0) return {};
  int64_t power = 1;  // the largest power of two up to num_heads
  while (power * 2 <= num_heads) power *= 2;
  const double step = -bias_max / static_cast<double>(power);
  std::vector<float> slopes(static_cast<size_t>(num_heads));
  for (int64_t h = 0; h < num_heads; ++h) {
    // Heads beyond the power of two take the odd places of the series with twice as many heads.
    const double exponent = h < power ? step * static_cast<double>(h + 1)
                                      : step / 2 * static_cast<double>(2 * (h - power) + 1);
    slopes[static_cast<size_t>(h)] = static_cast<float>(std::exp2(exponent));
  }
  return slopes;
}

absl::StatusOr<EncoderConfig> ParseEncoderConfig(std::string_view text) {
  return ParseConfig(text, ParseFields);
}

int64_t NumParameters(const EncoderConfig& config) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t embeddings = (config.vocab_size + config.type_vocab_size) * c + 2 * c;
  int64_t layer = 4 * (c * c + c)                                       // query, key, value, output
                  + 2 * c                                               // attention norm
                  + 3 * f * c + c                                       // gated, down, down bias
                  + 2 * c;                                              // feed-forward norm
  if (config.family == EncoderFamily::kJinaBertB) layer += 3 * 2 * c;   // q, k and first norms
  const int64_t head = config.num_labels == 1 ? c * c + c + c + 1 : 0;  // pooler, classifier
  return embeddings + config.num_layers * layer + head;
}

double DenseFlopsPerToken(const EncoderConfig& config) {
  const double c = static_cast<double>(config.hidden_size);
  const double f = static_cast<double>(config.intermediate_size);
  return 2 * static_cast<double>(config.num_layers) * (4 * c * c + 3 * f * c);
}

}  // namespace longdoc
