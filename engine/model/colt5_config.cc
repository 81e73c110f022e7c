#include "engine/model/colt5_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "engine/model/config_fields.h"
#include "engine/model/encoder_config.h"

namespace longdoc {
namespace {

constexpr int64_t kMaxHeads = 256;
constexpr int64_t kMaxFeedForward = 131'072;

absl::Status ParseSizes(const ConfigFields& fields, Colt5Config& config) {
  RETURN_IF_ERROR(fields.Integer("vocab_size", 1, 4'194'304, config.vocab_size));
  RETURN_IF_ERROR(fields.Integer("hidden_size", 16, 16'384, config.hidden_size));
  RETURN_IF_ERROR(fields.Integer("num_layers", 1, 256, config.num_layers));
  RETURN_IF_ERROR(fields.Integer("head_dim", 16, 256, config.head_dim, 64));
  RETURN_IF_ERROR(fields.Integer("output_size", 0, 16'384, config.output_size, 0));
  for (const auto& [name, value] :
       {std::pair("hidden_size", config.hidden_size), std::pair("head_dim", config.head_dim)}) {
    if (value % 16 != 0) {
      return InvalidConfig(absl::StrFormat("%s is %d, a multiple of 16 is needed", name, value));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseHeads(const ConfigFields& fields, const char* heads_name, const char* slopes_name,
                        int64_t& heads, std::vector<float>& slopes) {
  RETURN_IF_ERROR(fields.Integer(heads_name, 1, kMaxHeads, heads));
  return fields.Numbers(slopes_name, 0, 1, slopes, AlibiSlopes(heads));
}

absl::Status ParseEncoder(const ConfigFields& fields, Colt5Config& config) {
  RETURN_IF_ERROR(
      ParseHeads(fields, "light_heads", "light_slopes", config.light_heads, config.light_slopes));
  RETURN_IF_ERROR(
      ParseHeads(fields, "heavy_heads", "heavy_slopes", config.heavy_heads, config.heavy_slopes));
  RETURN_IF_ERROR(fields.Integer("light_radius", 1, 65'536, config.light_radius, 127));
  RETURN_IF_ERROR(fields.Integer("light_ff_size", 1, kMaxFeedForward, config.light_ff_size));
  RETURN_IF_ERROR(fields.Integer("heavy_ff_size", 1, kMaxFeedForward, config.heavy_ff_size));
  RETURN_IF_ERROR(fields.Number("query_rate", 0, 1, config.query_rate, 1.0 / 16));
  RETURN_IF_ERROR(fields.Number("kv_rate", 0, 1, config.kv_rate, 1.0 / 8));
  return fields.Number("ff_rate", 0, 1, config.ff_rate, 1.0 / 16);
}

absl::Status ParseDecoder(const ConfigFields& fields, Colt5Config& config) {
  RETURN_IF_ERROR(fields.Integer("decoder_layers", 0, 256, config.decoder_layers, 0));
  RETURN_IF_ERROR(fields.Integer("max_target_tokens", 1, 65'536, config.max_target_tokens, 2048));
  if (config.decoder_layers == 0) return absl::OkStatus();
  RETURN_IF_ERROR(ParseHeads(fields, "decoder_heads", "decoder_slopes", config.decoder_heads,
                             config.decoder_slopes));
  return fields.Integer("decoder_ff_size", 1, kMaxFeedForward, config.decoder_ff_size);
}

absl::StatusOr<Colt5Config> ParseFields(const ConfigFields& fields) {
  if (fields.Find("model_type") == nullptr) return InvalidConfig("model_type is missing");
  RETURN_IF_ERROR(fields.Only("model_type", "", "longdoc_colt5"));
  Colt5Config config;
  RETURN_IF_ERROR(ParseSizes(fields, config));
  RETURN_IF_ERROR(ParseEncoder(fields, config));
  RETURN_IF_ERROR(ParseDecoder(fields, config));
  double epsilon = 0;
  RETURN_IF_ERROR(fields.Number("rms_norm_eps", 0, 0.1, epsilon, 1e-6));
  config.rms_norm_eps = static_cast<float>(epsilon);
  return config;
}

// Weights of one attention's two sides: query and output of some tokens, key and value of others.
int64_t AttentionSide(const Colt5Config& config, int64_t heads) {
  return 2 * heads * config.head_dim * config.hidden_size;
}

int64_t FeedForward(const Colt5Config& config, int64_t size) {
  return 3 * size * config.hidden_size;
}

}  // namespace

int64_t RoutedCount(int64_t n, double rate) {
  if (n <= 0 || !(rate > 0)) return 0;
  const int64_t rounded = static_cast<int64_t>(std::floor(static_cast<double>(n) * rate + 0.5));
  return std::clamp<int64_t>(rounded, 1, n);
}

absl::StatusOr<Colt5Config> ParseColt5Config(std::string_view text) {
  return ParseConfig(text, ParseFields);
}

int64_t NumParameters(const Colt5Config& config) {
  const int64_t c = config.hidden_size;
  const int64_t encoder_layer = 5 * c  // two norms, three routers
                                + 2 * AttentionSide(config, config.light_heads) +
                                2 * AttentionSide(config, config.heavy_heads) +
                                FeedForward(config, config.light_ff_size) +
                                FeedForward(config, config.heavy_ff_size);
  int64_t total = config.vocab_size * c + config.num_layers * encoder_layer + c  // final norm
                  + config.output_size * c;
  if (config.decoder_layers > 0) {
    const int64_t decoder_layer =
        3 * c +  // norms
        2 * (AttentionSide(config, config.decoder_heads) + AttentionSide(config, 1)) +
        FeedForward(config, config.decoder_ff_size);
    total += config.decoder_layers * decoder_layer + c;
  }
  return total;
}

double DenseFlops(const Colt5Config& config, int64_t n) {
  const auto count = [](int64_t tokens, int64_t weights) {
    return 2 * static_cast<double>(tokens) * static_cast<double>(weights);
  };
  const int64_t heavy_side = AttentionSide(config, config.heavy_heads);
  const double layer =
      count(n, 3 * config.hidden_size + 2 * AttentionSide(config, config.light_heads) +
                   FeedForward(config, config.light_ff_size)) +
      count(RoutedCount(n, config.query_rate), heavy_side) +
      count(RoutedCount(n, config.kv_rate), heavy_side) +
      count(RoutedCount(n, config.ff_rate), FeedForward(config, config.heavy_ff_size));
  return static_cast<double>(config.num_layers) * layer;
}

double CrossKvFlops(const Colt5Config& config, int64_t n) {
  return 2 * static_cast<double>(config.decoder_layers) * static_cast<double>(n) *
         static_cast<double>(AttentionSide(config, 1));
}

double DecoderFlopsPerTarget(const Colt5Config& config) {
  if (config.decoder_layers == 0) return 0;
  const int64_t layer = 2 * AttentionSide(config, config.decoder_heads) +
                        AttentionSide(config, 1) +  // keys and values of self-attention
                        FeedForward(config, config.decoder_ff_size);
  return 2 * (static_cast<double>(config.decoder_layers) * static_cast<double>(layer) +
              static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size));
}

}  // namespace longdoc
