// EmbeddingService: thin reactors over TextJob and StreamSession.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "engine/base/thread_pool.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "service/authorize.h"
#include "service/document_reactor.h"
#include "service/rpc_timer.h"
#include "service/services.h"
#include "service/status.h"
#include "service/text_job.h"

namespace longdoc::service {
namespace {

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
    return new DocumentReactor<v1::EmbedDocumentRequest>(
        context_, Rpc::kEmbedDocument, "EmbedDocument", *call, Authorize(authorize_, *call),
        MakeEmbedCall(context_));
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
