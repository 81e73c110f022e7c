// A unary call whose answer one function computes.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <string_view>

#include "service/authorize.h"
#include "service/rpc_timer.h"
#include "service/status.h"

namespace longdoc::service {

// Destroys itself once it is completed and gRPC is done with it.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(ServiceContext& context, grpc::CallbackServerContext& call, Rpc rpc,
               std::string_view name)
      : call_(call), timer_(context, rpc, name, AdoptRequestId(call)) {}

  // Once.
  void Complete(const absl::Status& status) {
    timer_.SetStatus(status);
    Finish(ToGrpcStatus(status, call_));
  }
  void OnDone() override { delete this; }
  bool cancelled() const { return call_.IsCancelled(); }
  RpcDetails& details() { return timer_.details(); }

 private:
  grpc::CallbackServerContext& call_;
  RpcTimer timer_;
};

// Answers at once, on gRPC's thread: `fn` is quick.
template <typename Fn>
grpc::ServerUnaryReactor* Answer(ServiceContext& context, const AuthorizeFn& authorize,
                                 grpc::CallbackServerContext* call, Rpc rpc, std::string_view name,
                                 Fn fn) {
  auto* reactor = new UnaryReactor(context, *call, rpc, name);
  absl::Status status = Admit(context, authorize, *call);
  if (status.ok()) status = fn();
  reactor->Complete(status);
  return reactor;
}

}  // namespace longdoc::service
