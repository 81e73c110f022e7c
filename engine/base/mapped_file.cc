#include "engine/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

absl::Status OpenError(const std::string& path, int error) {
  const std::string message = absl::StrFormat("cannot open %s: %s", path, std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnknownError(message);
  }
}

// An open descriptor of a regular file and its size.
struct RegularFile {
  int fd = -1;
  int64_t size = 0;
  ~RegularFile() {
    if (fd >= 0) close(fd);
  }
};

absl::Status OpenRegular(const std::string& path, RegularFile& file) {
  // O_NONBLOCK: opening a FIFO must not hang; it is refused below.
  file.fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd < 0) return OpenError(path, errno);
  struct stat info;
  if (fstat(file.fd, &info) != 0) return OpenError(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s is not a regular file", path));
  }
  file.size = info.st_size;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  RegularFile file;
  RETURN_IF_ERROR(OpenRegular(path, file));
  MappedFile mapped;
  if (file.size == 0) return mapped;
  void* address = mmap(nullptr, static_cast<size_t>(file.size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot map %d bytes of %s: %s", file.size, path, std::strerror(errno)));
  }
  mapped.data_ = static_cast<const uint8_t*>(address);
  mapped.size_ = file.size;
  return mapped;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

void MappedFile::Release(int64_t begin, int64_t end) const {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  begin = std::max<int64_t>(begin, 0);
  end = std::min(end, size_);
  begin = (begin + page - 1) / page * page;
  // The last page of the file may be dropped whole: nothing else lives in its tail.
  if (end != size_) end = end / page * page;
  if (begin >= end) return;
  // Advice only: when the system refuses it, the pages merely stay.
  madvise(const_cast<uint8_t*>(data_) + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, int64_t max_bytes) {
  RegularFile file;
  RETURN_IF_ERROR(OpenRegular(path, file));
  if (file.size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has %d bytes, limit is %d", path, file.size, max_bytes));
  }
  std::string text(static_cast<size_t>(file.size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = read(file.fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnknownError(absl::StrFormat("cannot read %s: %s", path, std::strerror(errno)));
    }
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

}  // namespace longdoc
