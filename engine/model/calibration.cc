#include "engine/model/calibration.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/plain_encoder.h"

namespace longdoc {
namespace {

// Enough text to draw from; more would only cost time.
constexpr size_t kMaxTextBytes = size_t{4} << 20;
constexpr int64_t kMinTokens = 16;
constexpr int64_t kWindows = 4;

}  // namespace

std::vector<double> LogitBounds(const HeadNorms& norms, int64_t head_dim) {
  std::vector<double> bounds;
  for (size_t h = 0; h < norms.query.size(); ++h) {
    const float key = norms.key[norms.key.size() == 1 ? 0 : h];
    bounds.push_back(static_cast<double>(norms.query[h]) * static_cast<double>(key) /
                     std::sqrt(static_cast<double>(head_dim)));
  }
  return bounds;
}

absl::StatusOr<std::vector<int32_t>> CalibrationIds(const Tokenizer& tokenizer,
                                                    const std::string& text, int64_t max_tokens) {
  size_t bytes = std::min(text.size(), kMaxTextBytes);
  // Not inside a character: back over continuation bytes.
  while (bytes > 0 && bytes < text.size() && (text[bytes] & 0xc0) == 0x80) --bytes;
  ASSIGN_OR_RETURN(const TokenSequence all,
                   tokenizer.Encode(std::string_view(text).substr(0, bytes), false));
  const int64_t count = static_cast<int64_t>(all.ids.size());
  if (count < kMinTokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "calibration text has %d tokens, at least %d are needed", count, kMinTokens));
  }
  std::vector<int32_t> ids = {tokenizer.special().cls};
  const int64_t wanted = std::min(count, max_tokens - 2);
  for (int64_t w = 0; w < kWindows; ++w) {
    const int64_t size = wanted * (w + 1) / kWindows - wanted * w / kWindows;
    const int64_t begin = (count - wanted) * w / (kWindows - 1) + wanted * w / kWindows;
    ids.insert(ids.end(), all.ids.begin() + begin, all.ids.begin() + begin + size);
  }
  ids.push_back(tokenizer.special().sep);
  return ids;
}

std::vector<std::vector<double>> MeasureLogitBounds(const EncoderConfig& config,
                                                    const EncoderWeights& weights,
                                                    const std::vector<int32_t>& ids) {
  PlainEncoder encoder(config, weights, ids);
  std::vector<std::vector<double>> bounds;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    bounds.push_back(LogitBounds(encoder.ProjectLayer(l), config.head_dim));
    encoder.FinishLayer(l);
  }
  return bounds;
}

void CalibrateLogits(const EncoderConfig& config, double bound, const std::vector<int32_t>& ids,
                     OwnedTensors& tensors) {
  const EncoderWeights weights = ViewWeights(config, tensors);
  const bool b = config.family == EncoderFamily::kJinaBertB;
  PlainEncoder encoder(config, weights, ids);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::vector<double> seen = LogitBounds(encoder.ProjectLayer(l), config.head_dim);
    for (int64_t h = 0; h < config.num_heads; ++h) {
      const double measured = seen[static_cast<size_t>(h)];
      if (!(measured > 0)) continue;
      // Half of the factor each, so that queries and keys stay of like size. Variant B normalises
      // both after the projection: there the gains carry the scale.
      const double factor = std::sqrt(bound / measured);
      for (const char* side : {"query", "key"}) {
        const std::string name = !b ? side : side[0] == 'q' ? "layer_norm_q" : "layer_norm_k";
        for (const char* part : {".weight", ".bias"}) {
          ScalePart(tensors.at(SelfAttentionName(l, name + part)), h, config.num_heads, factor);
        }
      }
    }
    if (l + 1 == config.num_layers) break;
    encoder.ProjectLayer(l);
    encoder.FinishLayer(l);
  }
}

}  // namespace longdoc
