#include "service/tools/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/tools/input.h"

namespace longdoc::tools {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;
// Trailing metadata in which the server names the reason of an error (docs/api.md).
constexpr char kReasonKey[] = "longdoc-reason";

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadAll(path, kMaxPemBytes);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const RemoteOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  }
  if (options.tls_ca.empty() && options.tls_cert.empty()) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions ssl;
  ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadPem(options.tls_ca));
  ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadPem(options.tls_cert));
  ASSIGN_OR_RETURN(ssl.pem_private_key, ReadPem(options.tls_key));
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<ServerConnection> ServerConnection::Create(const RemoteOptions& options) {
  ServerConnection connection;
  connection.address_ = options.address;
  connection.timeout_seconds_ = options.timeout_seconds;
  if (!options.token_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadAll(options.token_file, kMaxPemBytes));
    const std::string token = text.substr(0, text.find_first_of("\r\n"));
    if (token.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(options.token_file, " holds no token"));
    }
    connection.authorization_ = absl::StrCat("Bearer ", token);
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials,
                   MakeCredentials(options));
  grpc::ChannelArguments arguments;
  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
  }
  // Notices a server that vanished during a long, quiet encode.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  connection.channel_ = grpc::CreateCustomChannel(options.address, credentials, arguments);
  return connection;
}

void ServerConnection::Prepare(grpc::ClientContext* context) const {
  const auto timeout = std::chrono::duration_cast<std::chrono::system_clock::duration>(
      std::chrono::duration<double>(timeout_seconds_));
  context->set_deadline(std::chrono::system_clock::now() + timeout);
  if (!authorization_.empty()) context->AddMetadata("authorization", authorization_);
}

absl::Status ServerConnection::ToStatus(const grpc::Status& status,
                                        const grpc::ClientContext& context) const {
  if (status.ok()) return absl::OkStatus();
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto reason = trailers.find(kReasonKey);
  std::string message = status.error_message();
  if (reason == trailers.end() && status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    message = absl::StrCat("cannot talk to ", address_, ": ", message);
  }
  const absl::Status result(static_cast<absl::StatusCode>(status.error_code()), message);
  if (reason == trailers.end()) return result;
  return WithReason(result, std::string(reason->second.data(), reason->second.size()));
}

}  // namespace longdoc::tools
