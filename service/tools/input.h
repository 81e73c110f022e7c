// Where documents come from: files, directories, standard input, lists of token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longdoc::tools {

// Bytes of one document, read as they are wanted. Not thread-safe but for Interrupt.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Replaces *chunk by the next at most `max_bytes` bytes; empty at the end. CANCELLED once
  // Interrupt was called.
  virtual absl::Status Read(size_t max_bytes, std::string* chunk) = 0;
  // Ends a Read that waits for a pipe or terminal, and all later ones. From any thread.
  virtual void Interrupt() = 0;
  // How much there is in all, when that is known.
  virtual std::optional<int64_t> size() const = 0;
};

// `path`, or standard input for "-". NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (a directory).
absl::StatusOr<std::unique_ptr<ByteSource>> OpenSource(const std::string& path);
// All of it. INVALID_ARGUMENT beyond `max_bytes`.
absl::StatusOr<std::string> ReadAll(const std::string& path, int64_t max_bytes);

// Ids separated by white space. INVALID_ARGUMENT naming the word and its number for anything that
// is not a 32-bit id >= 0.
absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const std::string& path);

// Directories are replaced by the files below them, sorted; hidden files and directories are left
// out. Other paths stay. NOT_FOUND for a path that does not exist.
absl::StatusOr<std::vector<std::string>> ExpandInputs(const std::vector<std::string>& paths);

}  // namespace longdoc::tools
