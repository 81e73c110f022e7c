// ModelService: what the server can do and what a document would cost.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "service/model_info.h"
#include "service/services.h"
#include "service/unary_reactor.h"

namespace longdoc::service {
namespace {

class ModelServiceImpl final : public v1::ModelService::CallbackService {
 public:
  ModelServiceImpl(ServiceContext& context, AuthorizeFn authorize)
      : context_(context), authorize_(std::move(authorize)) {}

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* call,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override {
    return Answer(context_, authorize_, call, Rpc::kListModels, *request, *response, [&] {
      for (const auto& [name, model] : context_.models) {
        FillModel(context_, *model, response->add_models());
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    return Answer(context_, authorize_, call, Rpc::kGetModel, *request, *response,
                  [&]() -> absl::Status {
                    ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                                     context_.FindModel(request->model()));
                    FillModel(context_, *model, response->mutable_model());
                    return absl::OkStatus();
                  });
  }

  grpc::ServerUnaryReactor* EstimateDocument(grpc::CallbackServerContext* call,
                                             const v1::EstimateDocumentRequest* request,
                                             v1::EstimateDocumentResponse* response) override {
    return Answer(context_, authorize_, call, Rpc::kEstimateDocument, *request, *response,
                  [&] { return Estimate(context_, *request, response); });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    auto* reactor = new UnaryReactor(context_, *call, Rpc::kTokenize, *request, *response);
    absl::Status admission = Admit(context_, authorize_, *call);
    if (!admission.ok()) {
      reactor->Complete(admission);
      return reactor;
    }
    // Request, response and reactor live until the reactor completes.
    context_.tokenizers.Post([this, reactor, request, response] {
      absl::Status status = TokenizeText(
          context_, *request, [reactor] { return reactor->cancelled(); }, response);
      if (!status.ok()) response->Clear();  // here, not on a thread of gRPC: it may be large
      reactor->details().tokens = response->tokens_size();
      reactor->Complete(status);
    });
    return reactor;
  }

 private:
  ServiceContext& context_;
  const AuthorizeFn authorize_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelService(ServiceContext& context, AuthorizeFn authorize) {
  return std::make_unique<ModelServiceImpl>(context, std::move(authorize));
}

}  // namespace longdoc::service
