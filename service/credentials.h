// What a connection and a request need to be let in: TLS from files, a bearer token from a file.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/config.h"
#include "service/services.h"

namespace grpc {
class ServerCredentials;
}

namespace longdoc::service {

// Plain text, TLS, or mutual TLS, as the files say. They are read once, here. INVALID_ARGUMENT
// naming the file that cannot be read, is too large (1 MiB) or holds no PEM block.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const SecurityConfig& security);

// The first line of the token file: 1 to 4,096 visible ASCII characters. INVALID_ARGUMENT naming
// the file, never its content.
absl::StatusOr<std::string> ReadBearerToken(const std::string& path);

// Judges "Bearer TOKEN" (the scheme in any case) in time that does not depend on where a wrong
// token differs. UNAUTHENTICATED, reason UNAUTHENTICATED.
absl::Status CheckAuthorization(std::string_view expected_token, std::string_view authorization);

// A check for MakeEmbeddingService and its kin; null when no token file is configured. Refusals are
// logged, at most one line a second.
absl::StatusOr<AuthorizeFn> MakeAuthorizer(const SecurityConfig& security);

}  // namespace longdoc::service
