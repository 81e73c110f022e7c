#include "service/credentials.h"

#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "grpcpp/security/server_credentials.h"
#include "service/log.h"

namespace longdoc::service {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxTokenBytes = 4096;

absl::StatusOr<std::string> ReadSecretFile(const char* field, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: cannot open %s", field, path));
  }
  std::string text(kMaxFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: cannot read %s", field, path));
  }
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %s is larger than %d bytes", field, path, kMaxFileBytes));
  }
  return text;
}

absl::StatusOr<std::string> ReadPemFile(const char* field, const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadSecretFile(field, path));
  if (text.find("-----BEGIN ") == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s holds no PEM block", field, path));
  }
  return text;
}

absl::Status Unauthenticated(const char* message) {
  return WithReason(absl::UnauthenticatedError(message), "UNAUTHENTICATED");
}

// Touches every byte of `given` whatever it holds; the length alone shows in the time.
bool EqualInConstantTime(std::string_view expected, std::string_view given) {
  unsigned difference = expected.size() == given.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned char>(given[i]) ^
                  static_cast<unsigned char>(expected[i % expected.size()]);
  }
  return difference == 0;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const SecurityConfig& security) {
  if (security.tls_certificate_file.empty()) return grpc::InsecureServerCredentials();
  const bool mutual = !security.tls_client_ca_file.empty();
  grpc::SslServerCredentialsOptions options(
      mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
             : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  ASSIGN_OR_RETURN(pair.cert_chain,
                   ReadPemFile("security.tls_certificate_file", security.tls_certificate_file));
  ASSIGN_OR_RETURN(pair.private_key, ReadPemFile("security.tls_key_file", security.tls_key_file));
  options.pem_key_cert_pairs.push_back(std::move(pair));
  if (mutual) {
    ASSIGN_OR_RETURN(options.pem_root_certs,
                     ReadPemFile("security.tls_client_ca_file", security.tls_client_ca_file));
  }
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::string> ReadBearerToken(const std::string& path) {
  ASSIGN_OR_RETURN(std::string token, ReadSecretFile("security.bearer_token_file", path));
  token = token.substr(0, token.find('\n'));
  if (!token.empty() && token.back() == '\r') token.pop_back();
  if (token.empty() || token.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("security.bearer_token_file: the first line of %s must hold 1 to %d "
                        "characters; it holds %d",
                        path, kMaxTokenBytes, token.size()));
  }
  for (const char c : token) {
    if (c <= ' ' || c > '~') {
      return absl::InvalidArgumentError(absl::StrFormat(
          "security.bearer_token_file: the first line of %s must be visible ASCII", path));
    }
  }
  return token;
}

absl::Status CheckAuthorization(std::string_view expected_token, std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.empty()) {
    return Unauthenticated("no credentials; send metadata authorization: Bearer TOKEN");
  }
  const std::string scheme(authorization.substr(0, kScheme.size()));
  if (!absl::EqualsIgnoreCase(scheme, std::string(kScheme))) {
    return Unauthenticated("authorization must be of the scheme Bearer");
  }
  if (!EqualInConstantTime(expected_token, authorization.substr(kScheme.size()))) {
    return Unauthenticated("the bearer token is not valid");
  }
  return absl::OkStatus();
}

absl::StatusOr<AuthorizeFn> MakeAuthorizer(const SecurityConfig& security) {
  if (security.bearer_token_file.empty()) return AuthorizeFn(nullptr);
  ASSIGN_OR_RETURN(std::string token, ReadBearerToken(security.bearer_token_file));
  auto limiter = std::make_shared<LogLimiter>(1);
  return AuthorizeFn([token = std::move(token), limiter](const std::string& authorization) {
    absl::Status status = CheckAuthorization(token, authorization);
    int64_t suppressed = 0;
    if (!status.ok() && limiter->Allow(&suppressed)) {
      Log(LogLevel::kWarning, "request refused",
          {{"reason", "UNAUTHENTICATED"},
           {"message", std::string(status.message())},
           {"more_since_last", suppressed}});
    }
    return status;
  });
}

}  // namespace longdoc::service
