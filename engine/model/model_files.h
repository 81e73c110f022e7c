// The texts of a model directory in Hugging Face's layout. Private to engine/model.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/colt5_config.h"
#include "engine/model/encoder_config.h"
#include "engine/model/random_weights.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

std::string ConfigJson(const EncoderConfig& config);
std::string ConfigJson(const Colt5Config& config);
// `max_tokens`: what the model advertises.
std::string TokenizerConfigJson(int64_t max_tokens);
// BertNormalizer, BertPreTokenizer, WordPiece and the template [CLS] A [SEP]. INVALID_ARGUMENT when
// a token is not UTF-8.
absl::StatusOr<std::string> TokenizerJson(const Tokenizer& tokenizer);

// Both write under a temporary name beside `path`, flush, then rename.
absl::Status WriteTextFile(const std::string& path, const std::string& text);
absl::Status WriteSafetensors(const std::string& path, const OwnedTensors& tensors);

}  // namespace longdoc
