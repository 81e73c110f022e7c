// Where result lines go: standard output, or a file that takes its name only once it is whole.
#pragma once

#include <fstream>
#include <string>

#include "absl/status/status.h"

namespace longdoc::tools {

class Output {
 public:
  Output() = default;
  ~Output();  // an unfinished file is removed
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // `path` "": standard output. PERMISSION_DENIED when the file cannot be made.
  absl::Status Open(const std::string& path);
  // DATA_LOSS when the disk is full or the reader is gone.
  absl::Status Write(const std::string& line);
  absl::Status Flush();
  absl::Status Close();

 private:
  std::string Temporary() const { return path_ + ".part"; }
  std::string path_;
  std::ofstream file_;
};

}  // namespace longdoc::tools
