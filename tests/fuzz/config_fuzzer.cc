// The bytes are a config.json, of whatever model.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/model/colt5_config.h"
#include "engine/model/encoder_config.h"
#include "engine/model/model_type.h"

namespace longdoc {
namespace {

// What everything after the parsers takes for granted.
bool Sound(const EncoderConfig& c) {
  return c.num_heads > 0 && c.head_dim * c.num_heads == c.hidden_size && c.head_dim % 16 == 0 &&
         c.vocab_size > c.pad_token_id && c.pad_token_id >= 0 && std::isfinite(c.layer_norm_eps) &&
         c.slopes.size() == static_cast<size_t>(c.num_heads) && NumParameters(c) > 0 &&
         DenseFlopsPerToken(c) > 0;
}

bool Sound(const std::vector<float>& slopes, int64_t heads) {
  return slopes.size() == static_cast<size_t>(heads) &&
         std::all_of(slopes.begin(), slopes.end(), [](float m) { return m >= 0 && m <= 1; });
}

bool Sound(double rate) {
  for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{1'000'000}}) {
    const int64_t count = RoutedCount(n, rate);
    if (count < (rate > 0 ? 1 : 0) || count > n) return false;
  }
  return rate >= 0 && rate <= 1;
}

bool Sound(const Colt5Config& c) {
  return c.head_dim > 0 && c.head_dim % 16 == 0 && c.hidden_size % 16 == 0 && c.num_layers > 0 &&
         c.light_heads > 0 && c.heavy_heads > 0 && Sound(c.light_slopes, c.light_heads) &&
         Sound(c.heavy_slopes, c.heavy_heads) && c.light_radius > 0 && Sound(c.query_rate) &&
         Sound(c.kv_rate) && Sound(c.ff_rate) && c.vector_size() > 0 &&
         (c.decoder_layers == 0) == (c.decoder_heads == 0) &&
         (c.decoder_layers == 0) == (c.decoder_ff_size == 0) &&
         Sound(c.decoder_slopes, c.decoder_heads) && c.max_target_tokens > 0 &&
         c.rms_norm_eps >= 0 && c.rms_norm_eps <= 0.1f && NumParameters(c) > 0 &&
         DenseFlops(c, 100'000) > 0 && CrossKvFlops(c, 1) >= 0 &&
         (DecoderFlopsPerTarget(c) > 0) == (c.decoder_layers > 0);
}

// The configuration is sound, or the refusal says why.
template <typename Config>
bool Answered(const absl::StatusOr<Config>& config) {
  return config.ok() ? Sound(*config) : !config.status().message().empty();
}

}  // namespace
}  // namespace longdoc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto type = longdoc::ParseModelType(text);
  const auto encoder = longdoc::ParseEncoderConfig(text);
  const auto colt5 = longdoc::ParseColt5Config(text);
  if (!longdoc::Answered(encoder) || !longdoc::Answered(colt5)) std::abort();
  // A parser takes nothing but its own type.
  if (encoder.ok() && (!type.ok() || *type != longdoc::ModelType::kBert)) std::abort();
  if (colt5.ok() && (!type.ok() || *type != longdoc::ModelType::kColt5)) std::abort();
  return 0;
}
