#include "service/tools/input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace longdoc::tools {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = 64 << 10;

class FileSource final : public ByteSource {
 public:
  FileSource(std::string path, int fd, std::optional<int64_t> size)
      : path_(std::move(path)), fd_(fd), interrupt_fd_(eventfd(0, EFD_CLOEXEC)), size_(size) {}
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) close(fd_);
    if (interrupt_fd_ >= 0) close(interrupt_fd_);
  }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  absl::Status Read(size_t max_bytes, std::string* chunk) override {
    chunk->resize(max_bytes);
    ssize_t count = 0;
    do {
      pollfd ready[] = {{fd_, POLLIN, 0}, {interrupt_fd_, POLLIN, 0}};
      if (poll(ready, 2, -1) > 0 && (ready[1].revents & POLLIN) != 0) {
        return absl::CancelledError(absl::StrCat("reading of ", path_, " was interrupted"));
      }
      count = read(fd_, chunk->data(), max_bytes);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path_));
    chunk->resize(static_cast<size_t>(count));
    return absl::OkStatus();
  }
  void Interrupt() override {
    // Only fails when the counter would overflow, and then the event is pending anyway.
    if (eventfd_write(interrupt_fd_, 1) != 0) return;
  }
  std::optional<int64_t> size() const override { return size_; }

 private:
  const std::string path_;
  const int fd_;
  const int interrupt_fd_;  // readable once Interrupt was called
  const std::optional<int64_t> size_;
};

bool IsSpace(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

// Hidden entries are left out, and so is what is below them.
absl::Status ListFiles(const std::string& directory, std::vector<std::string>* files) {
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const bool hidden = it->path().filename().string().front() == '.';
    if (hidden && it->is_directory()) it.disable_recursion_pending();
    if (!hidden && it->is_regular_file()) files->push_back(it->path().string());
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", directory));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenSource(const std::string& path) {
  if (path == "-") {
    return std::make_unique<FileSource>("standard input", STDIN_FILENO, std::nullopt);
  }
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat info = {};
  if (fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is a directory, not a file"));
  }
  std::optional<int64_t> size;
  if (S_ISREG(info.st_mode)) size = info.st_size;
  return std::make_unique<FileSource>(path, fd, size);
}

absl::StatusOr<std::string> ReadAll(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenSource(path));
  std::string text, chunk;
  while (true) {
    RETURN_IF_ERROR(source->Read(kReadBytes, &chunk));
    if (chunk.empty()) return text;
    text += chunk;
    if (static_cast<int64_t>(text.size()) > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is larger than the limit of ", max_bytes, " bytes"));
    }
  }
}

absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, OpenSource(path));
  std::vector<int32_t> ids;
  std::string chunk, word;
  constexpr size_t kMaxWord = 32;  // no id is longer; keeps a hostile file out of memory
  const auto end_word = [&]() -> absl::Status {
    if (word.empty()) return absl::OkStatus();
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": word ", ids.size() + 1, " is not a token id from 0 to ",
                       std::numeric_limits<int32_t>::max(), ": \"", word, "\""));
    }
    ids.push_back(id);
    word.clear();
    return absl::OkStatus();
  };
  do {
    RETURN_IF_ERROR(source->Read(kReadBytes, &chunk));
    for (char c : chunk) {
      if (!IsSpace(c)) word += c;
      if (IsSpace(c) || word.size() > kMaxWord) RETURN_IF_ERROR(end_word());
    }
  } while (!chunk.empty());
  RETURN_IF_ERROR(end_word());
  return ids;
}

absl::StatusOr<std::vector<std::string>> ExpandInputs(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (path != "-" && !fs::exists(path, error)) {
      return absl::NotFoundError(absl::StrCat("no such file or directory: ", path));
    }
    if (path == "-" || !fs::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> below;
    RETURN_IF_ERROR(ListFiles(path, &below));
    std::sort(below.begin(), below.end());
    files.insert(files.end(), below.begin(), below.end());
  }
  return files;
}

}  // namespace longdoc::tools
