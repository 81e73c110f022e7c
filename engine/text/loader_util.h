// Shared by the tokenizer loaders: files, and JSON that may be hostile.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longdoc::text_internal {

// Whole file. NOT_FOUND if there is none; INVALID_ARGUMENT above `max_bytes` or if it is not a
// regular file.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// Parses `json`, whose root must be an object. INVALID_ARGUMENT for malformed text, too many bytes,
// values or levels; checked before the parser takes memory. `what` names the file in messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view json, const std::string& what);

// Member `key` of `object` if it is there and not null, else nullptr.
const nlohmann::json* FindMember(const nlohmann::json& object, const char* key);

// Reads an optional member into `*value` (kept if absent or null); INVALID_ARGUMENT naming
// `path`.`key` if its type is another.
absl::Status ReadBool(const nlohmann::json& object, const char* key, const std::string& path,
                      bool* value);
absl::Status ReadString(const nlohmann::json& object, const char* key, const std::string& path,
                        std::string* value);
absl::Status ReadInt(const nlohmann::json& object, const char* key, const std::string& path,
                     int64_t* value);

}  // namespace longdoc::text_internal
