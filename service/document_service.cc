// DocumentService: documents that stay encoded.

#include <memory>
#include <utility>

#include "longdoc/v1/document_service.grpc.pb.h"
#include "service/authorize.h"
#include "service/document_info.h"
#include "service/document_reactor.h"
#include "service/services.h"
#include "service/unary_reactor.h"

namespace longdoc::service {
namespace {

using DocumentServiceBase = v1::DocumentService::WithRawCallbackMethod_EncodeDocument<
    v1::DocumentService::WithCallbackMethod_GetDocument<
        v1::DocumentService::WithCallbackMethod_ListDocuments<
            v1::DocumentService::WithCallbackMethod_DeleteDocument<v1::DocumentService::Service>>>>;

class DocumentServiceImpl final : public DocumentServiceBase {
 public:
  DocumentServiceImpl(ServiceContext& context, AuthorizeFn authorize)
      : context_(context), authorize_(std::move(authorize)) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* EncodeDocument(
      grpc::CallbackServerContext* call) override {
    return new DocumentReactor<v1::EncodeDocumentRequest>(context_, Rpc::kEncodeDocument, *call,
                                                          Authorize(authorize_, *call),
                                                          MakeEncodeCall(context_));
  }

  grpc::ServerUnaryReactor* GetDocument(grpc::CallbackServerContext* call,
                                        const v1::GetDocumentRequest* request,
                                        v1::Document* response) override {
    return Answer(context_, authorize_, call, Rpc::kGetDocument, *request, *response,
                  [&] { return service::GetDocument(context_.documents, *request, response); });
  }

  grpc::ServerUnaryReactor* ListDocuments(grpc::CallbackServerContext* call,
                                          const v1::ListDocumentsRequest* request,
                                          v1::ListDocumentsResponse* response) override {
    return Answer(context_, authorize_, call, Rpc::kListDocuments, *request, *response,
                  [&] { return service::ListDocuments(context_.documents, *request, response); });
  }

  grpc::ServerUnaryReactor* DeleteDocument(grpc::CallbackServerContext* call,
                                           const v1::DeleteDocumentRequest* request,
                                           v1::DeleteDocumentResponse* response) override {
    return Answer(context_, authorize_, call, Rpc::kDeleteDocument, *request, *response,
                  [&] { return service::DeleteDocument(context_.documents, *request, response); });
  }

 private:
  ServiceContext& context_;
  const AuthorizeFn authorize_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeDocumentService(ServiceContext& context, AuthorizeFn authorize) {
  return std::make_unique<DocumentServiceImpl>(context, std::move(authorize));
}

}  // namespace longdoc::service
