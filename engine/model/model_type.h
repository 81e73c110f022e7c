// Which kind of model a directory holds, before anything else of it is read.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace longdoc {

enum class ModelType {
  kBert,   // "bert": JinaBERT, encoder_config.h
  kColt5,  // "longdoc_colt5": colt5_config.h
};

// By the field model_type alone; the rest is for ParseEncoderConfig or ParseColt5Config to check.
// INVALID_ARGUMENT for text that is no config.json or lacks the field; UNIMPLEMENTED naming a type
// that we do not have.
absl::StatusOr<ModelType> ParseModelType(std::string_view config_json);

// The same of `model_dir`/config.json. NOT_FOUND when there is no such file.
absl::StatusOr<ModelType> PeekModelType(const std::string& model_dir);

}  // namespace longdoc
