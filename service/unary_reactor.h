// A unary call whose answer one function computes.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>

#include "google/protobuf/message.h"
#include "service/authorize.h"
#include "service/rpc_timer.h"
#include "service/status.h"

namespace longdoc::service {

// Destroys itself once it is completed and gRPC is done with it. `response` lives until then.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(ServiceContext& context, grpc::CallbackServerContext& call, Rpc rpc,
               const google::protobuf::Message& request, const google::protobuf::Message& response)
      : call_(call),
        response_(response),
        timer_(context, rpc, Identify(call)),
        reply_(call, timer_.identity()) {
    timer_.CountReceived(static_cast<int64_t>(request.ByteSizeLong()));
  }

  // Once.
  void Complete(const absl::Status& status) {
    timer_.SetStatus(status);
    if (status.ok()) timer_.CountSent(static_cast<int64_t>(response_.ByteSizeLong()));
    Finish(reply_.Finish(status));
  }
  void OnDone() override { delete this; }
  bool cancelled() const { return call_.IsCancelled(); }
  RpcDetails& details() { return timer_.details(); }

 private:
  grpc::CallbackServerContext& call_;
  const google::protobuf::Message& response_;
  RpcTimer timer_;
  CallReply reply_;
};

// Answers at once, on gRPC's thread: `fn` is quick.
template <typename Fn>
grpc::ServerUnaryReactor* Answer(ServiceContext& context, const AuthorizeFn& authorize,
                                 grpc::CallbackServerContext* call, Rpc rpc,
                                 const google::protobuf::Message& request,
                                 const google::protobuf::Message& response, Fn fn) {
  auto* reactor = new UnaryReactor(context, *call, rpc, request, response);
  absl::Status status = Admit(context, authorize, *call);
  if (status.ok()) status = fn();
  reactor->Complete(status);
  return reactor;
}

}  // namespace longdoc::service
