// Which server a command talks to: one that runs, or one of its own in this process.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/tools/channel.h"
#include "service/tools/embedder_options.h"
#include "service/tools/options.h"

namespace longdoc::service {
class Server;
}

namespace longdoc::tools {

// With --server HOST:PORT a connection to it; with --model DIR a private server on the loopback
// interface, which serves that model and ends with this object.
class ServerSession {
 public:
  static absl::StatusOr<std::unique_ptr<ServerSession>> Open(const EmbedderArgs& args);
  ~ServerSession();

  const ServerConnection& connection() const { return connection_; }
  // The model's name there; empty: the server's default.
  const std::string& model() const { return model_; }

 private:
  ServerSession(std::unique_ptr<service::Server> server, ServerConnection connection,
                std::string model);
  const std::unique_ptr<service::Server> server_;
  const ServerConnection connection_;
  const std::string model_;
};

}  // namespace longdoc::tools
