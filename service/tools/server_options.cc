#include "service/tools/server_options.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "service/log.h"
#include "service/server.h"

namespace longdoc::tools {
namespace {

absl::StatusOr<std::unique_ptr<service::Server>> StartPrivateServer(const EmbedderArgs& args) {
  service::ServerOptions options;
  options.listen_address = "127.0.0.1:0";
  options.metrics_address = "off";
  options.models.push_back({"local", args.model});
  options.engine.device = args.device;
  options.engine.compute_type = ParseComputeType(args.dtype);
  options.engine.num_threads = static_cast<int>(args.threads);
  options.limits.document.max_tokens = args.max_tokens;
  options.reflection = false;
  service::SetLogLevel(service::LogLevel::kError);
  return service::Server::Start(options, &Engine::Create);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerSession>> ServerSession::Open(const EmbedderArgs& args) {
  RemoteOptions remote = args.remote;
  std::unique_ptr<service::Server> server;
  std::string model = args.model;
  if (remote.address.empty()) {
    ASSIGN_OR_RETURN(server, StartPrivateServer(args));
    remote.address = absl::StrCat("127.0.0.1:", server->port());
    model.clear();
  }
  ASSIGN_OR_RETURN(ServerConnection connection, ServerConnection::Create(remote));
  return std::unique_ptr<ServerSession>(
      new ServerSession(std::move(server), std::move(connection), std::move(model)));
}

ServerSession::ServerSession(std::unique_ptr<service::Server> server, ServerConnection connection,
                             std::string model)
    : server_(std::move(server)), connection_(std::move(connection)), model_(std::move(model)) {}

ServerSession::~ServerSession() = default;

}  // namespace longdoc::tools
