// The RPC handlers, ready to be registered with a grpc::ServerBuilder.
//
// Each factory returns a callback-API service. The context must outlive it, and a service must
// outlive the server that it is registered with. Handlers never block a gRPC thread: tokenization
// and the building of answers run on the context's tokenizer pool, forward passes in the engine.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "service/context.h"

namespace grpc {
class Service;
}

namespace longdoc::service {

// Judges the value of the "authorization" metadata ("" when absent) at the start of every RPC: OK,
// or UNAUTHENTICATED with a reason. Called on gRPC threads, concurrently; must be quick.
using AuthorizeFn = std::function<absl::Status(const std::string& authorization)>;

// EmbedTexts and EmbedDocument.
std::unique_ptr<grpc::Service> MakeEmbeddingService(ServiceContext& context,
                                                    AuthorizeFn authorize = nullptr);
// EncodeDocument, GetDocument, ListDocuments and DeleteDocument.
std::unique_ptr<grpc::Service> MakeDocumentService(ServiceContext& context,
                                                   AuthorizeFn authorize = nullptr);
// ScoreCandidates, RankDocuments and GenerateText.
std::unique_ptr<grpc::Service> MakeScoringService(ServiceContext& context,
                                                  AuthorizeFn authorize = nullptr);
// ListModels, GetModel, Tokenize and EstimateDocument.
std::unique_ptr<grpc::Service> MakeModelService(ServiceContext& context,
                                                AuthorizeFn authorize = nullptr);

}  // namespace longdoc::service
