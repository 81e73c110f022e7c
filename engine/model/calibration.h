// Scales query and key weights until attention logits are as large as trained models have them.
// Private to engine/model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/encoder_config.h"
#include "engine/model/random_weights.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// Up to `max_tokens` ids drawn from evenly spaced windows of `text`, between [CLS] and [SEP].
// INVALID_ARGUMENT when the text is not UTF-8 or has fewer than 16 tokens.
absl::StatusOr<std::vector<int32_t>> CalibrationIds(const Tokenizer& tokenizer,
                                                    const std::string& text, int64_t max_tokens);

// Per layer and head, the bound max‖q‖·max‖k‖/√D over the text `ids`: [layers][heads].
std::vector<std::vector<double>> MeasureLogitBounds(const EncoderConfig& config,
                                                    const EncoderWeights& weights,
                                                    const std::vector<int32_t>& ids);

// Changes `tensors` so that MeasureLogitBounds gives `bound` for every layer and head. Layer by
// layer from the front, because each one's input depends on the scaled ones before it.
void CalibrateLogits(const EncoderConfig& config, double bound, const std::vector<int32_t>& ids,
                     OwnedTensors& tensors);

}  // namespace longdoc
