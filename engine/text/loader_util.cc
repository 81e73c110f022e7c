#include "engine/text/loader_util.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <fstream>
#include <limits>

#include "absl/strings/str_format.h"
#include "engine/text/vocabulary.h"

namespace longdoc::text_internal {
namespace {

constexpr int kMaxDepth = 64;
// Values of a file: two per vocabulary entry are enough for every real one.
constexpr int64_t kMaxValues = 2 * kMaxVocabularySize;

// Counts levels and separators outside strings; does not care whether the JSON is well-formed.
absl::Status CheckShape(std::string_view json, const std::string& what) {
  int depth = 0;
  int64_t values = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++values;
      if (++depth > kMaxDepth) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s: nested deeper than %d levels at byte %d", what, kMaxDepth, i));
      }
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',') {
      ++values;
    }
    if (values > kMaxValues) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: more than %d values", what, kMaxValues));
    }
  }
  return absl::OkStatus();
}

absl::Status WrongType(const std::string& path, const char* key, const char* want,
                       const nlohmann::json& value) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s.%s: want %s, got %s", path, key, want, value.type_name()));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) {
      return absl::NotFoundError(absl::StrFormat("%s: no such file", path));
    }
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", path, std::strerror(error)));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: not a regular file", path));
  }
  if (info.st_size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes, limit %d", path, info.st_size, max_bytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content(static_cast<size_t>(info.st_size), '\0');
  if (!file.read(content.data(), info.st_size)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: cannot be read", path));
  }
  return content;
}

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view json, const std::string& what) {
  if (static_cast<int64_t>(json.size()) > kMaxVocabularyFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes, limit %d", what, json.size(), kMaxVocabularyFileBytes));
  }
  if (absl::Status status = CheckShape(json, what); !status.ok()) return status;
  try {
    nlohmann::json root = nlohmann::json::parse(json.begin(), json.end());
    if (!root.is_object()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: root is not an object", what));
    }
    return root;
  } catch (const nlohmann::json::parse_error& error) {
    // The library's own message quotes the input; only the position is passed on.
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: malformed JSON at byte %d", what, error.byte));
  } catch (const std::exception&) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: malformed JSON", what));
  }
}

const nlohmann::json* FindMember(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::Status ReadBool(const nlohmann::json& object, const char* key, const std::string& path,
                      bool* value) {
  const nlohmann::json* member = FindMember(object, key);
  if (member == nullptr) return absl::OkStatus();
  if (!member->is_boolean()) return WrongType(path, key, "a boolean", *member);
  *value = *member->get_ptr<const bool*>();
  return absl::OkStatus();
}

absl::Status ReadString(const nlohmann::json& object, const char* key, const std::string& path,
                        std::string* value) {
  const nlohmann::json* member = FindMember(object, key);
  if (member == nullptr) return absl::OkStatus();
  if (!member->is_string()) return WrongType(path, key, "a string", *member);
  *value = *member->get_ptr<const std::string*>();
  return absl::OkStatus();
}

absl::Status ReadInt(const nlohmann::json& object, const char* key, const std::string& path,
                     int64_t* value) {
  const nlohmann::json* member = FindMember(object, key);
  if (member == nullptr) return absl::OkStatus();
  if (member->is_number_unsigned()) {
    const uint64_t number = *member->get_ptr<const uint64_t*>();
    // Beyond int64: keep it too large for any limit instead of letting it wrap.
    *value = number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
                 ? std::numeric_limits<int64_t>::max()
                 : static_cast<int64_t>(number);
    return absl::OkStatus();
  }
  if (!member->is_number_integer()) return WrongType(path, key, "an integer", *member);
  *value = *member->get_ptr<const int64_t*>();
  return absl::OkStatus();
}

}  // namespace longdoc::text_internal
