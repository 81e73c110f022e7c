#include "engine/model/encoder_config.h"

#include <cmath>
#include <exception>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/json_sax.h"

namespace longdoc {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 1 << 20;

// A first pass that only looks for what the tree of the second one would hide or choke on.
class ShapeSax final : public JsonSax {
 public:
  ShapeSax() : JsonSax("config.json", /*max_depth=*/32) {}

 private:
  bool OnStartObject() override { return true; }
  bool OnStartArray() override { return depth() > 0 ? true : Unexpected("an array"); }
  bool OnString(const std::string&) override { return depth() > 0 ? true : Unexpected("a string"); }
  bool OnUnsigned(uint64_t) override { return depth() > 0 ? true : Unexpected("a number"); }
  bool OnOther(const char* kind) override { return depth() > 0 ? true : Unexpected(kind); }
};

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", message));
}

// Reads fields of the outermost object; null counts as absent, as Hugging Face writes it.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  const json* Find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  absl::Status Integer(const char* name, int64_t min, int64_t max, int64_t& value,
                       std::optional<int64_t> absent = std::nullopt) const {
    const json* field = Find(name);
    if (field == nullptr) {
      if (!absent) return Invalid(absl::StrCat(name, " is missing"));
      value = *absent;
      return absl::OkStatus();
    }
    if (!field->is_number_integer()) {
      return Invalid(absl::StrFormat("%s is %s, an integer is needed", name, field->type_name()));
    }
    // Values beyond int64 would wrap in get<int64_t>.
    const bool fits =
        !field->is_number_unsigned() || field->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
    if (!fits || field->get<int64_t>() < min || field->get<int64_t>() > max) {
      return Invalid(
          absl::StrFormat("%s is %s, the limits are %d to %d", name, field->dump(), min, max));
    }
    value = field->get<int64_t>();
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> String(const char* name, const char* absent) const {
    const json* field = Find(name);
    if (field == nullptr) return std::string(absent);
    if (!field->is_string()) {
      return Invalid(absl::StrFormat("%s is %s, a string is needed", name, field->type_name()));
    }
    return field->get<std::string>();
  }

  // UNIMPLEMENTED unless the field says `wanted`.
  absl::Status Only(const char* name, const char* absent, const char* wanted) const {
    ASSIGN_OR_RETURN(const std::string value, String(name, absent));
    if (value == wanted) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrFormat("config.json: %s is %s%s, only \"%s\" is supported", name, Quoted(value),
                        Find(name) == nullptr ? " by default" : "", wanted));
  }

 private:
  const json& object_;
};

absl::Status ParseSizes(const Fields& fields, EncoderConfig& config) {
  RETURN_IF_ERROR(fields.Integer("vocab_size", 1, 4'194'304, config.vocab_size));
  RETURN_IF_ERROR(fields.Integer("hidden_size", 16, 16'384, config.hidden_size));
  RETURN_IF_ERROR(fields.Integer("num_hidden_layers", 1, 256, config.num_layers));
  RETURN_IF_ERROR(fields.Integer("num_attention_heads", 1, 256, config.num_heads));
  RETURN_IF_ERROR(fields.Integer("intermediate_size", 1, 131'072, config.intermediate_size));
  RETURN_IF_ERROR(fields.Integer("type_vocab_size", 1, 1024, config.type_vocab_size, 2));
  RETURN_IF_ERROR(fields.Integer("max_position_embeddings", 1, int64_t{1} << 31,
                                 config.max_position_embeddings, 512));
  int64_t pad = 0;
  RETURN_IF_ERROR(fields.Integer("pad_token_id", 0, config.vocab_size - 1, pad, 0));
  config.pad_token_id = static_cast<int32_t>(pad);
  if (config.hidden_size % config.num_heads != 0) {
    return Invalid(absl::StrFormat("hidden_size %d is no multiple of num_attention_heads %d",
                                   config.hidden_size, config.num_heads));
  }
  config.head_dim = config.hidden_size / config.num_heads;
  if (config.head_dim % 16 != 0 || config.head_dim > 256) {
    return Invalid(absl::StrFormat(
        "hidden_size / num_attention_heads is %d, a multiple of 16 up to 256 is needed",
        config.head_dim));
  }
  return absl::OkStatus();
}

absl::Status ParseEpsilon(const Fields& fields, EncoderConfig& config) {
  const json* eps = fields.Find("layer_norm_eps");
  if (eps == nullptr) return absl::OkStatus();
  if (!eps->is_number()) {
    return Invalid(absl::StrFormat("layer_norm_eps is %s, a number is needed", eps->type_name()));
  }
  const double value = eps->get<double>();
  if (!(value >= 0 && value <= 0.1)) {
    return Invalid(absl::StrFormat("layer_norm_eps is %g, the limits are 0 to 0.1", value));
  }
  config.layer_norm_eps = static_cast<float>(value);
  return absl::OkStatus();
}

// Which of the two code bases the file names, as text-embeddings-inference looks for them.
absl::Status ParseFamily(const Fields& fields, EncoderConfig& config) {
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

absl::StatusOr<EncoderConfig> ParseObject(const json& object) {
  const Fields fields(object);
  if (fields.Find("model_type") == nullptr) return Invalid("model_type is missing");
  RETURN_IF_ERROR(fields.Only("model_type", "", "bert"));
  RETURN_IF_ERROR(fields.Only("position_embedding_type", "absolute", "alibi"));
  RETURN_IF_ERROR(fields.Only("feed_forward_type", "original", "geglu"));
  RETURN_IF_ERROR(fields.Only("hidden_act", "gelu", "gelu"));
  RETURN_IF_ERROR(fields.Only("emb_pooler", "mean", "mean"));
  EncoderConfig config;
  RETURN_IF_ERROR(ParseSizes(fields, config));
  RETURN_IF_ERROR(ParseEpsilon(fields, config));
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
  if (text.size() > kMaxConfigBytes) {
    return Invalid(absl::StrFormat("%d bytes, limit is %d", text.size(), kMaxConfigBytes));
  }
  ShapeSax shape;
  RETURN_IF_ERROR(shape.Run(text));
  try {
    return ParseObject(json::parse(text.begin(), text.end()));
  } catch (const std::exception& error) {
    return Invalid(absl::StrCat("cannot be read: ", error.what()));
  }
}

int64_t NumParameters(const EncoderConfig& config) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const int64_t embeddings = (config.vocab_size + config.type_vocab_size) * c + 2 * c;
  int64_t layer = 4 * (c * c + c)                                      // query, key, value, output
                  + 2 * c                                              // attention norm
                  + 3 * f * c + c                                      // gated, down, down bias
                  + 2 * c;                                             // feed-forward norm
  if (config.family == EncoderFamily::kJinaBertB) layer += 3 * 2 * c;  // q, k and first norms
  return embeddings + config.num_layers * layer;
}

double DenseFlopsPerToken(const EncoderConfig& config) {
  const double c = static_cast<double>(config.hidden_size);
  const double f = static_cast<double>(config.intermediate_size);
  return 2 * static_cast<double>(config.num_layers) * (4 * c * c + 3 * f * c);
}

}  // namespace longdoc
