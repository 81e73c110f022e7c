// Embedding through a server: EmbedDocument, with the document streamed as it is read.
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "engine/base/status_macros.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "service/tools/channel.h"
#include "service/tools/embedder.h"
#include "service/tools/wire.h"

namespace longdoc::tools {
namespace {

using Stream = grpc::ClientReaderWriter<v1::EmbedDocumentRequest, v1::EmbedDocumentResponse>;

absl::Status FillHeader(const EmbedOptions& options, const DocumentInput& document,
                        const std::string& model, v1::DocumentHeader* header) {
  v1::VectorOptions* vector = header->mutable_vector();
  vector->set_dimensions(options.vector.dimensions);
  vector->set_normalize(options.vector.normalize);
  vector->set_encoding(ToProto(options.vector.encoding));
  return FillDocumentHeader(options, document, model, header);
}

void SetVector(v1::Vector* in, VectorRecord* record) {
  record->encoding = FromProto(in->encoding());
  record->dimensions = in->dimensions();
  record->scale = in->scale();
  record->data = std::move(*in->mutable_data());
}

absl::Status OnPassages(v1::PassageVectors* passages, EmbedSink& sink) {
  for (v1::PassageVector& passage : *passages->mutable_passages()) {
    VectorRecord record;
    record.kind = VectorKind::kPassage;
    record.granularity = passage.granularity();
    record.index = passage.index();
    record.tokens = FromProto(passage.tokens());
    record.bytes = FromProto(passage.bytes());
    SetVector(passage.mutable_vector(), &record);
    RETURN_IF_ERROR(sink.OnVector(record));
  }
  return absl::OkStatus();
}

absl::Status OnTokens(const v1::TokenVectors& tokens, EmbedSink& sink) {
  if (tokens.token_count() < 1) return absl::OkStatus();
  const size_t count = static_cast<size_t>(tokens.token_count());
  const size_t stride = tokens.data().size() / count;
  for (size_t i = 0; i < count; ++i) {
    VectorRecord record;
    record.kind = VectorKind::kToken;
    record.index = tokens.first_token() + static_cast<int64_t>(i);
    record.tokens = {record.index, record.index + 1};
    record.encoding = FromProto(tokens.encoding());
    record.dimensions = tokens.dimensions();
    if (i < static_cast<size_t>(tokens.scales_size())) {
      record.scale = tokens.scales(static_cast<int>(i));
    }
    if (i < static_cast<size_t>(tokens.bytes_size())) {
      record.bytes = FromProto(tokens.bytes(static_cast<int>(i)));
    }
    record.data = tokens.data().substr(i * stride, stride);
    RETURN_IF_ERROR(sink.OnVector(record));
  }
  return absl::OkStatus();
}

absl::Status OnResult(v1::EmbedDocumentResult* result, EmbedSink& sink, EmbedSummary* summary) {
  summary->model = result->model();
  summary->model_revision = result->model_revision();
  summary->num_passages = result->passage_count();
  summary->stats = result->stats();
  VectorRecord record;
  record.tokens = {0, result->stats().encoded_tokens()};
  record.bytes = FromProto(result->stats().encoded_bytes());
  SetVector(result->mutable_vector(), &record);
  return sink.OnVector(record);
}

class RemoteEmbedder final : public Embedder {
 public:
  RemoteEmbedder(ServerConnection connection, std::string model)
      : connection_(std::move(connection)), model_(std::move(model)) {}

  absl::StatusOr<EmbedSummary> Embed(const EmbedOptions& options, DocumentInput& document,
                                     EmbedSink& sink) override;
  absl::StatusOr<v1::EstimateDocumentResponse> Plan(int64_t tokens, int64_t num_passages,
                                                    bool token_vectors,
                                                    const AttentionPolicy& attention) override;

 private:
  const ServerConnection connection_;
  const std::string model_;
};

absl::StatusOr<EmbedSummary> RemoteEmbedder::Embed(const EmbedOptions& options,
                                                   DocumentInput& document, EmbedSink& sink) {
  v1::EmbedDocumentRequest header;
  RETURN_IF_ERROR(FillHeader(options, document, model_, header.mutable_header()));
  grpc::ClientContext context;
  connection_.Prepare(&context);
  const auto stub = v1::EmbeddingService::NewStub(connection_.channel());
  const std::unique_ptr<Stream> stream = stub->EmbedDocument(&context);

  absl::Status sent;
  std::thread sender([&] {
    if (!stream->Write(header)) return;
    v1::EmbedDocumentRequest request;
    sent = SendContent(document, [&](v1::DocumentChunk& chunk) {
      request.mutable_chunk()->Swap(&chunk);
      return stream->Write(request);
    });
    if (sent.ok()) stream->WritesDone();
    // The source failed: the document must not look complete. (Interrupted: the call is over.)
    if (!sent.ok() && !absl::IsCancelled(sent)) context.TryCancel();
  });
  EmbedSummary summary;
  absl::Status received;
  v1::EmbedDocumentResponse response;
  while (received.ok() && stream->Read(&response)) {
    if (response.has_progress()) sink.OnProgress(FromProto(response.progress()));
    if (response.has_passages()) received = OnPassages(response.mutable_passages(), sink);
    if (response.has_tokens()) received = OnTokens(response.tokens(), sink);
    if (response.has_result()) received = OnResult(response.mutable_result(), sink, &summary);
  }
  if (!received.ok()) context.TryCancel();
  // The server is done with us, whatever is left of the document.
  if (document.source != nullptr) document.source->Interrupt();
  sender.join();
  const grpc::Status status = stream->Finish();
  if (!sent.ok() && !absl::IsCancelled(sent)) return sent;
  RETURN_IF_ERROR(received);
  RETURN_IF_ERROR(connection_.ToStatus(status, context));
  return summary;
}

absl::StatusOr<v1::EstimateDocumentResponse> RemoteEmbedder::Plan(
    int64_t tokens, int64_t num_passages, bool token_vectors, const AttentionPolicy& attention) {
  v1::EstimateDocumentRequest request;
  request.set_model(model_);
  request.set_tokens(tokens);
  request.set_passage_count(num_passages);
  request.set_token_vectors(token_vectors);
  RETURN_IF_ERROR(SetAttention(attention, request.mutable_attention()));
  grpc::ClientContext context;
  connection_.Prepare(&context);
  v1::EstimateDocumentResponse response;
  const auto stub = v1::ModelService::NewStub(connection_.channel());
  const grpc::Status status = stub->EstimateDocument(&context, request, &response);
  RETURN_IF_ERROR(connection_.ToStatus(status, context));
  return response;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Embedder>> NewRemoteEmbedder(const RemoteOptions& options) {
  ASSIGN_OR_RETURN(ServerConnection connection, ServerConnection::Create(options));
  return std::make_unique<RemoteEmbedder>(std::move(connection), options.model);
}

}  // namespace longdoc::tools
