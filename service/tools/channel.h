// A connection to a longdoc server, as the options --server, --tls-* and --token-file describe it.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/tools/embedder.h"

namespace longdoc::tools {

class ServerConnection {
 public:
  // Reads the files; does not connect yet. INVALID_ARGUMENT for options that do not go together.
  static absl::StatusOr<ServerConnection> Create(const RemoteOptions& options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  // Sets deadline and credentials of one call.
  void Prepare(grpc::ClientContext* context) const;
  // The status of a finished call, with its reason and with the server's address in messages about
  // connections.
  absl::Status ToStatus(const grpc::Status& status, const grpc::ClientContext& context) const;

 private:
  std::string address_, authorization_;
  double timeout_seconds_ = 0;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace longdoc::tools
