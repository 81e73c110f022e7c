// Scales query and key weights until attention logits are as large as trained models have them.
// Private to engine/model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/colt5_config.h"
#include "engine/model/colt5_weights.h"
#include "engine/model/encoder_config.h"
#include "engine/model/plain_math.h"
#include "engine/model/random_weights.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// Up to `max_tokens` ids drawn from evenly spaced windows of `text`, between [CLS] and [SEP].
// INVALID_ARGUMENT when the text is not UTF-8 or has fewer than 16 tokens.
absl::StatusOr<std::vector<int32_t>> CalibrationIds(const Tokenizer& tokenizer,
                                                    const std::string& text, int64_t max_tokens);

// Per head, max‖q‖·max‖k‖/√D; the only key head of a multi-query attention goes with every query
// head.
std::vector<double> LogitBounds(const HeadNorms& norms, int64_t head_dim);

// Per layer and head, the bound max‖q‖·max‖k‖/√D over the text `ids`: [layers][heads].
std::vector<std::vector<double>> MeasureLogitBounds(const EncoderConfig& config,
                                                    const EncoderWeights& weights,
                                                    const std::vector<int32_t>& ids);

// Changes `tensors` so that MeasureLogitBounds gives `bound` for every layer and head. Layer by
// layer from the front, because each one's input depends on the scaled ones before it.
void CalibrateLogits(const EncoderConfig& config, double bound, const std::vector<int32_t>& ids,
                     OwnedTensors& tensors);

// The same bounds of a longdoc-CoLT5 model, whose heavy keys are scaled by their routing weights,
// and the standard deviations of its router scores.
struct Colt5Spread {
  // [layers][heads]; heavy ones are 0 where nothing is routed
  std::vector<std::vector<double>> light, heavy, self_attention, cross_attention;
  std::vector<std::vector<double>> routers;  // [layers]{query, key/value, feed-forward}
};
// The decoder reads the text's first tokens, given its states; `ids` begin with [CLS].
Colt5Spread MeasureSpread(const Colt5Config& config, const Colt5Weights& weights,
                          const std::vector<int32_t>& ids);

// Changes `tensors` so that MeasureSpread gives `bound` for every layer and head, and 1 for every
// router.
void CalibrateLogits(const Colt5Config& config, double bound, const std::vector<int32_t>& ids,
                     OwnedTensors& tensors);

}  // namespace longdoc
