// longdoc health
#include <iostream>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "service/tools/channel.h"
#include "service/tools/command.h"
#include "service/tools/embedder_options.h"
#include "service/tools/options.h"

namespace longdoc::tools {
namespace {

using grpc::health::v1::HealthCheckResponse;

absl::StatusOr<HealthCheckResponse::ServingStatus> Check(const RemoteOptions& options,
                                                         const std::string& service) {
  ASSIGN_OR_RETURN(const ServerConnection connection, ServerConnection::Create(options));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::ClientContext context;
  connection.Prepare(&context);
  HealthCheckResponse response;
  const auto stub = grpc::health::v1::Health::NewStub(connection.channel());
  const grpc::Status status = stub->Check(&context, request, &response);
  RETURN_IF_ERROR(connection.ToStatus(status, context));
  return response.status();
}

}  // namespace

int RunHealth(const std::vector<std::string>& words) {
  RemoteOptions remote;
  remote.timeout_seconds = 5;
  std::string service;
  OptionParser parser("longdoc health", "[OPTIONS] --server HOST:PORT",
                      "Asks a server's grpc.health.v1 service, prints SERVING or NOT_SERVING, and "
                      "exits\nwith 0 only for SERVING.",
                      "  longdoc health --server localhost:50051\n"
                      "  longdoc health --server localhost:50051 --service "
                      "longdoc.v1.EmbeddingService");
  parser.AddString("service", "NAME", "ask for this name; empty: the server as a whole", &service);
  AddServerOptions(parser, &remote);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (remote.address.empty() || !parser.positional().empty()) {
    return UsageError(parser.command(), "needs --server HOST:PORT and nothing else");
  }
  const absl::StatusOr<HealthCheckResponse::ServingStatus> status = Check(remote, service);
  if (!status.ok()) return Failure(parser.command(), status.status());
  std::cout << HealthCheckResponse::ServingStatus_Name(*status) << '\n';
  return *status == HealthCheckResponse::SERVING ? kExitOk : kExitFailure;
}

}  // namespace longdoc::tools
