// A StreamSession, or a session like it, on gRPC's callback API: for RPCs that stream a document
// in.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "service/executor.h"
#include "service/rpc_timer.h"
#include "service/status.h"
#include "service/stream_session.h"

namespace longdoc::service {

// Lives from the call's start to OnDone. The session calls it under its mutex and forgets it at
// Finish; gRPC's reactions go to the session. Messages are parsed here, not by gRPC: to gRPC's
// callback API a message that does not parse looks like a half-close, and a document that was cut
// there would be taken for whole.
template <typename Request, typename Session = StreamSession>
class DocumentReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                              public StreamTransport {
 public:
  DocumentReactor(ServiceContext& context, Rpc rpc, grpc::CallbackServerContext& call,
                  const absl::Status& admission, std::shared_ptr<Session> session)
      : context_(context),
        call_(call),
        timer_(context, rpc, Identify(call)),
        reply_(call, timer_.identity()),
        session_(std::move(session)) {
    session_->Start(this, admission);
  }
  DocumentReactor(ServiceContext& context, Rpc rpc, grpc::CallbackServerContext& call,
                  const absl::Status& admission, std::unique_ptr<DocumentCall> document_call)
      : DocumentReactor(context, rpc, call, admission,
                        StreamSession::Create(context, std::move(document_call),
                                              PoolExecutor(context), SteadyDeadline(call))) {}

  void OnReadDone(bool ok) override {
    if (ok) return OnBytes();
    if (call_.IsCancelled()) {
      session_->OnCancel();
    } else {
      session_->OnReadsEnded();
    }
  }
  void OnWriteDone(bool ok) override { session_->OnWriteDone(ok); }
  void OnCancel() override { session_->OnCancel(); }
  void OnDone() override {
    timer_.details() = session_->details();
    delete this;
  }

 private:
  void OnBytes() {
    Request message;
    if (grpc::SerializationTraits<Request>::Deserialize(&request_, &message).ok()) {
      session_->OnMessage(std::move(message));
    } else {
      session_->OnMalformedMessage(Request::descriptor()->name());
    }
  }
  void StartRead() override {
    request_.Clear();
    ServerBidiReactor::StartRead(&request_);
  }
  void StartWrite(const google::protobuf::Message& response) override {
    bool own;
    response_.Clear();
    const grpc::Status status =
        grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(
            response, &response_, &own);
    // Fails only for messages beyond 2 GiB; an empty message would be no worse than a crash.
    if (!status.ok()) context_.metrics.Bug("response_serialization");
    timer_.CountSent(static_cast<int64_t>(response_.Length()));
    reply_.BeforeMessage();
    ServerBidiReactor::StartWrite(&response_);
  }
  void Finish(const absl::Status& status) override {
    timer_.SetStatus(status);
    ServerBidiReactor::Finish(reply_.Finish(status));
  }
  void Abort() override { call_.TryCancel(); }

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  grpc::ByteBuffer request_, response_;
  RpcTimer timer_;
  CallReply reply_;
  const std::shared_ptr<Session> session_;
};

}  // namespace longdoc::service
