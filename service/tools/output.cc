#include "service/tools/output.h"

#include <cstdio>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace longdoc::tools {

Output::~Output() {
  if (!path_.empty() && file_.is_open()) std::remove(Temporary().c_str());
}

absl::Status Output::Open(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  path_ = path;
  file_.open(Temporary(), std::ios::binary | std::ios::trunc);
  if (!file_) return absl::PermissionDeniedError(absl::StrCat("cannot write ", Temporary()));
  return absl::OkStatus();
}

absl::Status Output::Write(const std::string& line) {
  std::ostream& stream = path_.empty() ? std::cout : file_;
  stream << line;
  if (stream) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("cannot write to ", path_.empty() ? "standard output" : path_));
}

absl::Status Output::Flush() {
  (path_.empty() ? std::cout : file_).flush();
  return Write("");
}

absl::Status Output::Close() {
  if (path_.empty()) return Flush();
  file_.close();
  if (!file_ || std::rename(Temporary().c_str(), path_.c_str()) != 0) {
    return absl::DataLossError(absl::StrCat("cannot write ", path_));
  }
  return absl::OkStatus();
}

}  // namespace longdoc::tools
