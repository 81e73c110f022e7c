// The parsers behind ParseTokenizerJson, one per model.type.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace longdoc::text_internal {

// `model`: the member of `root` of that name, an object. Errors as ParseTokenizerJson.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseWordPieceJson(const nlohmann::json& root,
                                                              const nlohmann::json& model);
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseBpeJson(const nlohmann::json& root,
                                                        const nlohmann::json& model);

}  // namespace longdoc::text_internal
