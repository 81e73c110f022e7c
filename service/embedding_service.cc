// EmbeddingService: thin reactors over TextJob and StreamSession.

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "engine/base/thread_pool.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "service/rpc_timer.h"
#include "service/services.h"
#include "service/status.h"
#include "service/stream_session.h"
#include "service/text_job.h"

namespace longdoc::service {
namespace {

absl::Status Authorize(const AuthorizeFn& authorize, const grpc::CallbackServerContext& call) {
  return authorize ? authorize(MetadataValue(call, "authorization")) : absl::OkStatus();
}

// Lives from the call's start to OnDone. The session calls it under its mutex and forgets it at
// Finish; gRPC's reactions go to the session. Messages are parsed here, not by gRPC: to gRPC's
// callback API a message that does not parse looks like a half-close, and a document that was cut
// there would be taken for whole.
class DocumentReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                              public StreamTransport {
 public:
  DocumentReactor(ServiceContext& context, grpc::CallbackServerContext& call,
                  const absl::Status& admission)
      : context_(context),
        call_(call),
        timer_(context, Rpc::kEmbedDocument, "EmbedDocument", AdoptRequestId(call)),
        session_(StreamSession::Create(
            context,
            [&pool = context.tokenizers](absl::AnyInvocable<void() &&> job) {
              pool.Post(std::move(job));
            },
            SteadyDeadline(call))) {
    session_->Start(this, admission);
  }

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
    v1::EmbedDocumentRequest message;
    if (grpc::SerializationTraits<v1::EmbedDocumentRequest>::Deserialize(&request_, &message)
            .ok()) {
      session_->OnMessage(std::move(message));
    } else {
      session_->OnMalformedMessage();
    }
  }
  void StartRead() override {
    request_.Clear();
    ServerBidiReactor::StartRead(&request_);
  }
  void StartWrite(const v1::EmbedDocumentResponse& response) override {
    bool own;
    response_.Clear();
    grpc::Status status =
        grpc::SerializationTraits<v1::EmbedDocumentResponse>::Serialize(response, &response_, &own);
    // Fails only for messages beyond 2 GiB; an empty message would be no worse than a crash.
    if (!status.ok()) context_.metrics.Bug("response_serialization");
    ServerBidiReactor::StartWrite(&response_);
  }
  void Finish(const absl::Status& status) override {
    timer_.SetStatus(status);
    ServerBidiReactor::Finish(ToGrpcStatus(status, call_));
  }
  void Abort() override { call_.TryCancel(); }

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  grpc::ByteBuffer request_, response_;
  RpcTimer timer_;
  const std::shared_ptr<StreamSession> session_;
};

class TextsReactor final : public grpc::ServerUnaryReactor {
 public:
  TextsReactor(ServiceContext& context, grpc::CallbackServerContext& call,
               const absl::Status& admission, const v1::EmbedTextsRequest& request,
               v1::EmbedTextsResponse* response)
      : call_(call),
        timer_(context, Rpc::kEmbedTexts, "EmbedTexts", AdoptRequestId(call)),
        // A copy: a cancelled call ends, and its request with it, while a job may still read.
        job_(TextJob::Create(
            context,
            [&pool = context.tokenizers](absl::AnyInvocable<void() &&> job) {
              pool.Post(std::move(job));
            },
            SteadyDeadline(call), v1::EmbedTextsRequest(request), response,
            [this](const absl::Status& status) { FinishCall(status); })) {
    context.metrics.BytesReceived(static_cast<int64_t>(request.ByteSizeLong()));
    if (admission.ok()) {
      job_->Start();
    } else {
      job_->Reject(admission);
    }
  }

  void OnCancel() override { job_->Cancel(); }
  void OnDone() override {
    timer_.details() = job_->details();
    delete this;
  }

 private:
  void FinishCall(const absl::Status& status) {
    timer_.SetStatus(status);
    Finish(ToGrpcStatus(status, call_));
  }

  grpc::CallbackServerContext& call_;
  RpcTimer timer_;
  const std::shared_ptr<TextJob> job_;
};

using EmbeddingServiceBase = v1::EmbeddingService::WithRawCallbackMethod_EmbedDocument<
    v1::EmbeddingService::WithCallbackMethod_EmbedTexts<v1::EmbeddingService::Service>>;

class EmbeddingServiceImpl final : public EmbeddingServiceBase {
 public:
  EmbeddingServiceImpl(ServiceContext& context, AuthorizeFn authorize)
      : context_(context), authorize_(std::move(authorize)) {}

  grpc::ServerUnaryReactor* EmbedTexts(grpc::CallbackServerContext* call,
                                       const v1::EmbedTextsRequest* request,
                                       v1::EmbedTextsResponse* response) override {
    return new TextsReactor(context_, *call, Authorize(authorize_, *call), *request, response);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* EmbedDocument(
      grpc::CallbackServerContext* call) override {
    return new DocumentReactor(context_, *call, Authorize(authorize_, *call));
  }

 private:
  ServiceContext& context_;
  const AuthorizeFn authorize_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeEmbeddingService(ServiceContext& context,
                                                    AuthorizeFn authorize) {
  return std::make_unique<EmbeddingServiceImpl>(context, std::move(authorize));
}

}  // namespace longdoc::service
