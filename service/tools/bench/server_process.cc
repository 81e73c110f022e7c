#include "service/tools/bench/server_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

extern char** environ;

namespace longdoc::tools {
namespace {

constexpr int kStartMilliseconds = 60'000;

}  // namespace

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(const std::string& model_dir,
                                                                    const std::string& device,
                                                                    int threads) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string binary = self.parent_path() / "longdoc-server";
  if (error || access(binary.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot run ", binary, "; build it, or use --server"));
  }
  std::vector<std::string> words = {binary,
                                    absl::StrCat("--model=bench=", model_dir),
                                    "--listen=127.0.0.1:0",
                                    "--metrics_listen=off",
                                    absl::StrCat("--device=", device),
                                    absl::StrCat("--threads=", threads)};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<int, 2> fds;
  if (pipe2(fds.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, binary.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(fds[1]);
  if (failed != 0) {
    close(fds[0]);
    return absl::ErrnoToStatus(failed, absl::StrCat("cannot start ", binary));
  }
  std::unique_ptr<ServerProcess> server(new ServerProcess(pid, fds[0]));
  RETURN_IF_ERROR(server->WaitUntilServing());
  return server;
}

absl::Status ServerProcess::WaitUntilServing() {
  std::string line;
  std::string last;
  while (address_.empty()) {
    pollfd ready = {log_fd_, POLLIN, 0};
    if (poll(&ready, 1, kStartMilliseconds) <= 0) {
      return absl::DeadlineExceededError("the server did not get ready within 60 s");
    }
    char c = 0;
    if (read(log_fd_, &c, 1) != 1) {
      return absl::InternalError(absl::StrCat("the server did not start: ", last));
    }
    if (c != '\n') {
      line += c;
      continue;
    }
    const auto event = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (event.is_object() && event.value("event", "") == "serving") {
      address_ = absl::StrCat("127.0.0.1:", event.value("port", 0));
    }
    last.swap(line);
    line.clear();
  }
  drain_ = std::thread([fd = log_fd_] {
    std::array<char, 4096> buffer;
    while (read(fd, buffer.data(), buffer.size()) > 0) {
    }
  });
  return absl::OkStatus();
}

ServerProcess::~ServerProcess() {
  kill(pid_, SIGTERM);
  int exit_status = 0;
  waitpid(pid_, &exit_status, 0);
  if (drain_.joinable()) drain_.join();
  close(log_fd_);
}

}  // namespace longdoc::tools
