// Who may call, and when: for the start of every RPC.
#pragma once

#include <grpcpp/server_context.h>

#include "absl/status/status.h"
#include "engine/base/status_macros.h"
#include "service/context.h"
#include "service/services.h"
#include "service/status.h"

namespace longdoc::service {

// What `authorize` says of the call's token; OK without one.
inline absl::Status Authorize(const AuthorizeFn& authorize,
                              const grpc::CallbackServerContext& call) {
  return authorize ? authorize(MetadataValue(call, "authorization")) : absl::OkStatus();
}

// The same while the server serves, DRAINING after that.
inline absl::Status Admit(const ServiceContext& context, const AuthorizeFn& authorize,
                          const grpc::CallbackServerContext& call) {
  RETURN_IF_ERROR(Authorize(authorize, call));
  return context.CheckServing();
}

}  // namespace longdoc::service
