// Reads config.json, which nobody vouches for, field by field. Private to engine/model.
#pragma once

#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace longdoc {

constexpr int64_t kMaxConfigBytes = 1 << 20;

// INVALID_ARGUMENT "config.json: <message>".
absl::Status InvalidConfig(const std::string& message);

// Reads fields of the outermost object; null counts as absent, as Hugging Face writes it. Every
// error names field, value and limits. `absent` is what a field that is not there stands for;
// without it the field is required.
class ConfigFields {
 public:
  explicit ConfigFields(const nlohmann::json& object) : object_(object) {}

  const nlohmann::json* Find(const char* name) const;  // null when absent
  absl::Status Integer(const char* name, int64_t min, int64_t max, int64_t& value,
                       std::optional<int64_t> absent = std::nullopt) const;
  absl::Status Number(const char* name, double min, double max, double& value, double absent) const;
  // An array of exactly absent.size() numbers.
  absl::Status Numbers(const char* name, double min, double max, std::vector<float>& values,
                       const std::vector<float>& absent) const;
  absl::StatusOr<std::string> String(const char* name, const char* absent) const;
  // UNIMPLEMENTED unless the field says `wanted`.
  absl::Status Only(const char* name, const char* absent, const char* wanted) const;

 private:
  const nlohmann::json& object_;
};

// The text as an object, its size, nesting and repeated keys checked. Throws what nlohmann throws.
absl::StatusOr<nlohmann::json> ParseConfigObject(std::string_view text);

// Runs `parse` over the fields of `text`: where exceptions of the JSON library end.
template <typename Config>
absl::StatusOr<Config> ParseConfig(std::string_view text,
                                   absl::StatusOr<Config> (*parse)(const ConfigFields&)) {
  try {
    ASSIGN_OR_RETURN(const nlohmann::json object, ParseConfigObject(text));
    return parse(ConfigFields(object));
  } catch (const std::exception& error) {
    return InvalidConfig(absl::StrCat("cannot be read: ", error.what()));
  }
}

}  // namespace longdoc
