// A longdoc-server that the benchmark starts for itself.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace longdoc::tools {

class ServerProcess {
 public:
  // Starts the longdoc-server beside this binary on free ports of the loopback interface, serving
  // `model_dir` on `device`, and waits until it is ready. Its log is dropped afterwards.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(const std::string& model_dir,
                                                              const std::string& device,
                                                              int threads);
  ~ServerProcess();  // SIGTERM, and waits
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  const std::string& address() const { return address_; }

 private:
  ServerProcess(pid_t pid, int log_fd) : pid_(pid), log_fd_(log_fd) {}
  absl::Status WaitUntilServing();

  const pid_t pid_;
  const int log_fd_;  // its standard error
  std::string address_;
  std::thread drain_;  // reads the log on, so that the server never blocks
};

}  // namespace longdoc::tools
