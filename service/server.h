// The life of a server: start, serve, drain.
//
//   Start   HTTP port (alive, not ready) -> engine -> models, each warmed up by one encode ->
//           gRPC port -> health SERVING, /readyz 200
//   Drain   health NOT_SERVING and /readyz 503 at once ("liveness" stays SERVING) -> drain_delay,
//   so
//           that load balancers notice -> new RPCs UNAVAILABLE, running ones finish within
//           drain_grace -> the rest is cancelled -> engine stopped
//
// Health names: "" , "readiness" and each API service say whether to send work; "liveness" says
// that the process lives. The process's signals and exit codes are the business of main.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "service/config.h"
#include "service/context.h"

namespace longdoc::service {

// Exit codes of longdoc-server, documented in docs/operations.md.
enum ExitCode {
  kExitOk = 0,
  kExitOther = 1,       // also: a second signal during the drain
  kExitBadConfig = 2,   // configuration, flags, files that they name, models
  kExitNoDevice = 3,    // the device that was asked for cannot be used
  kExitDeviceLost = 4,  // the device failed while in use; a new process may use it again
};

class Server {
 public:
  using EngineFactory =
      std::function<absl::StatusOr<std::unique_ptr<Engine>>(const EngineOptions&)>;

  // Blocks until the server serves. `make_engine` is Engine::Create but in tests. Every failure
  // names what failed, and ExitCodeOf tells its class.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const EngineFactory& make_engine);
  ~Server();  // without Drain: cancels what runs
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;          // really bound
  int metrics_port() const;  // really bound; 0 when the metrics port is off

  // Blocks until drained; at most drain_delay + drain_grace and a few seconds. Once.
  void Drain();

  const ServiceContext& context() const;
  const Engine& engine() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// For --check_config: CheckServerOptions, and that the files and directories that the options name
// can be read. Loads no weights. INVALID_ARGUMENT or NOT_FOUND naming the field and the path.
absl::Status CheckFiles(const ServerOptions& options);

// The exit code for a failed Start; kExitOther for a status that Start did not make.
ExitCode ExitCodeOf(const absl::Status& status);
absl::Status WithExitCode(absl::Status status, ExitCode code);

}  // namespace longdoc::service
