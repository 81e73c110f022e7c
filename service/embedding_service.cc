// EmbeddingService: thin reactors over TextJob and StreamSession.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "service/authorize.h"
#include "service/document_reactor.h"
#include "service/job_reactor.h"
#include "service/rpc_timer.h"
#include "service/services.h"
#include "service/text_job.h"

namespace longdoc::service {
namespace {

using EmbeddingServiceBase = v1::EmbeddingService::WithRawCallbackMethod_EmbedDocument<
    v1::EmbeddingService::WithCallbackMethod_EmbedTexts<v1::EmbeddingService::Service>>;

class EmbeddingServiceImpl final : public EmbeddingServiceBase {
 public:
  EmbeddingServiceImpl(ServiceContext& context, AuthorizeFn authorize)
      : context_(context), authorize_(std::move(authorize)) {}

  grpc::ServerUnaryReactor* EmbedTexts(grpc::CallbackServerContext* call,
                                       const v1::EmbedTextsRequest* request,
                                       v1::EmbedTextsResponse* response) override {
    return new JobReactor<TextJob>(context_, Rpc::kEmbedTexts, *call, Authorize(authorize_, *call),
                                   *request, response);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* EmbedDocument(
      grpc::CallbackServerContext* call) override {
    return new DocumentReactor<v1::EmbedDocumentRequest>(context_, Rpc::kEmbedDocument, *call,
                                                         Authorize(authorize_, *call),
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
