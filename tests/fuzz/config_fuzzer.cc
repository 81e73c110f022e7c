// The bytes are a config.json.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/model/encoder_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = longdoc::ParseEncoderConfig({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    if (config.status().message().empty()) std::abort();
    return 0;
  }
  // What everything after it takes for granted.
  const bool sound =
      config->num_heads > 0 && config->head_dim * config->num_heads == config->hidden_size &&
      config->head_dim % 16 == 0 && config->vocab_size > config->pad_token_id &&
      config->pad_token_id >= 0 && std::isfinite(config->layer_norm_eps) &&
      config->slopes.size() == static_cast<size_t>(config->num_heads) &&
      longdoc::NumParameters(*config) > 0 && longdoc::DenseFlopsPerToken(*config) > 0;
  if (!sound) std::abort();
  return 0;
}
