#include "tests/integration/server_process.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "nlohmann/json.hpp"

namespace longdoc::testing {

namespace {

// What a read-only root file system is to the server, and a bit more.
bool Confine() {
  std::string directory = "/tmp/longdoc-server-process-XXXXXX";
  const rlimit no_files = {0, 0};
  return mkdtemp(directory.data()) != nullptr && chdir(directory.c_str()) == 0 &&
         rmdir(directory.c_str()) == 0 && clearenv() == 0 &&
         setrlimit(RLIMIT_FSIZE, &no_files) == 0;
}

}  // namespace

ServerProcess::ServerProcess(const std::vector<std::string>& flags, bool confined)
    : ServerProcess(flags, std::string(LONGDOC_SERVER_BINARY), confined) {}

ServerProcess::ServerProcess(const std::vector<std::string>& flags, const std::string& binary,
                             bool confined) {
  int ends[2];
  LD_CHECK(pipe(ends) == 0);
  std::vector<std::string> words = {binary};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = fork();
  LD_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    if (confined && !Confine()) _exit(126);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ends[1]);
  pipe_ = ends[0];
}

ServerProcess::~ServerProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pipe_);
}

bool ServerProcess::ReadMore() {
  pollfd ready = {pipe_, POLLIN, 0};
  if (poll(&ready, 1, 60000) != 1) return false;
  char buffer[4096];
  const ssize_t n = read(pipe_, buffer, sizeof(buffer));
  if (n <= 0) return false;
  output_.append(buffer, static_cast<size_t>(n));
  return true;
}

bool ServerProcess::WaitForEvent(const std::string& event) {
  while (true) {
    const size_t end = output_.find('\n', seen_);
    if (end == std::string::npos) {
      if (!ReadMore()) return false;
      continue;
    }
    line_ = output_.substr(seen_, end - seen_);
    seen_ = end + 1;
    const auto json = nlohmann::json::parse(line_, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.value("event", "") == event) return true;
  }
}

int ServerProcess::IntField(const std::string& key) const {
  return nlohmann::json::parse(line_, nullptr, false).value(key, -1);
}

void ServerProcess::Signal(int number) { kill(pid_, number); }

int ServerProcess::Wait() {
  while (ReadMore()) {
  }
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return -1;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace longdoc::testing
