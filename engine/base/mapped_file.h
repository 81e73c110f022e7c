// A whole file as read-only memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace longdoc {

// Owns a private read-only mapping of a regular file; move-only, immutable, thread-safe. Pages are
// read when touched. A file that another process truncates while it is mapped raises SIGBUS on
// access beyond its new end: model files are replaced by renaming, never rewritten in place.
class MappedFile {
 public:
  // NOT_FOUND when there is no such file, PERMISSION_DENIED, INVALID_ARGUMENT when it is not a
  // regular file. An empty file is legal and has no data.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_)};
  }

  // Gives the physical memory of the whole pages inside [begin, end) back to the system; they are
  // read again from the file when touched. Out-of-range parts are ignored.
  void Release(int64_t begin, int64_t end) const;

 private:
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

// Reads a small file whole. NOT_FOUND, or INVALID_ARGUMENT naming limit and size beyond
// `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes);

}  // namespace longdoc
