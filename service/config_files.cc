// The files of --config.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "service/config.h"

namespace longdoc::service {
namespace {

constexpr size_t kMaxFiles = 64;

absl::StatusOr<std::string> ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("--config: cannot open ", path.string()));
  // One byte more than the limit is enough for ParseServerConfig to refuse.
  std::string text((1 << 20) + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return absl::NotFoundError(absl::StrCat("--config: cannot read ", path.string()));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

// Kubernetes mounts a ConfigMap as links beside hidden directories that hold the versions.
absl::StatusOr<std::vector<std::filesystem::path>> TextprotoFiles(const std::string& directory) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.front() == '.' || at->path().extension() != ".textproto") continue;
    if (paths.size() == kMaxFiles) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--config: %s has more than %d files *.textproto", directory, kMaxFiles));
    }
    paths.push_back(at->path());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("--config: cannot read ", directory, ": ", error.message()));
  }
  if (paths.empty()) {
    return absl::NotFoundError(absl::StrCat("--config: no files *.textproto in ", directory));
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

absl::StatusOr<std::vector<ConfigText>> ReadConfigFiles(const std::string& path) {
  std::vector<ConfigText> texts;
  std::error_code ignored;  // what is no directory is opened as a file, and says why it cannot be
  if (!std::filesystem::is_directory(path, ignored)) {
    ASSIGN_OR_RETURN(std::string text, ReadText(path));
    texts.push_back({"configuration", std::move(text)});
    return texts;
  }
  ASSIGN_OR_RETURN(const std::vector<std::filesystem::path> files, TextprotoFiles(path));
  for (const std::filesystem::path& file : files) {
    ASSIGN_OR_RETURN(std::string text, ReadText(file));
    texts.push_back({absl::StrCat("configuration ", file.filename().string()), std::move(text)});
  }
  return texts;
}

}  // namespace longdoc::service
