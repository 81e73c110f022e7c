#include "service/tools/scoring_client.h"

#include <memory>
#include <thread>

#include "engine/base/status_macros.h"
#include "longdoc/v1/document_service.grpc.pb.h"
#include "longdoc/v1/scoring_service.grpc.pb.h"
#include "service/tools/wire.h"

namespace longdoc::tools {
namespace {

// Runs a bidirectional call: `send` writes on a thread of its own, `receive` takes every response.
// The first error of ours wins over the call's status; a source that fails must not make the
// document look complete.
template <class Request, class Response>
absl::Status Pump(
    const ServerConnection& connection, grpc::ClientContext& context,
    grpc::ClientReaderWriter<Request, Response>& stream, DocumentInput* document,
    const std::function<absl::Status(grpc::ClientReaderWriter<Request, Response>&)>& send,
    const std::function<absl::Status(Response&)>& receive) {
  absl::Status sent;
  std::thread sender([&] {
    sent = send(stream);
    if (sent.ok()) stream.WritesDone();
    if (!sent.ok() && !absl::IsCancelled(sent)) context.TryCancel();
  });
  absl::Status received;
  Response response;
  while (received.ok() && stream.Read(&response)) received = receive(response);
  if (!received.ok()) context.TryCancel();
  // The server is done with us, whatever is left of the document.
  if (document != nullptr && document->source != nullptr) document->source->Interrupt();
  sender.join();
  const grpc::Status status = stream.Finish();
  if (!sent.ok() && !absl::IsCancelled(sent)) return sent;
  RETURN_IF_ERROR(received);
  return connection.ToStatus(status, context);
}

// Content of a document as the chunks of any request that has them.
template <class Request, class Stream>
absl::Status SendChunks(DocumentInput& document, Stream& stream) {
  Request request;
  return SendContent(document, [&](v1::DocumentChunk& chunk) {
    request.mutable_chunk()->Swap(&chunk);
    return stream.Write(request);
  });
}

}  // namespace

absl::StatusOr<v1::EncodeDocumentResult> KeepDocument(const ServerConnection& connection,
                                                      const std::string& model,
                                                      const EmbedOptions& options,
                                                      double ttl_seconds, DocumentInput& document,
                                                      const OnProgressFn& on_progress) {
  using Stream = grpc::ClientReaderWriter<v1::EncodeDocumentRequest, v1::EncodeDocumentResponse>;
  v1::EncodeDocumentRequest header;
  RETURN_IF_ERROR(
      FillDocumentHeader(options, document, model, header.mutable_header()->mutable_document()));
  if (ttl_seconds > 0) header.mutable_header()->set_ttl_seconds(ttl_seconds);
  grpc::ClientContext context;
  connection.Prepare(&context);
  const auto stub = v1::DocumentService::NewStub(connection.channel());
  const std::unique_ptr<Stream> stream = stub->EncodeDocument(&context);
  v1::EncodeDocumentResult result;
  RETURN_IF_ERROR((Pump<v1::EncodeDocumentRequest, v1::EncodeDocumentResponse>(
      connection, context, *stream, &document,
      [&](Stream& s) {
        if (!s.Write(header)) return absl::OkStatus();
        return SendChunks<v1::EncodeDocumentRequest>(document, s);
      },
      [&](v1::EncodeDocumentResponse& response) {
        if (response.has_progress()) on_progress(FromProto(response.progress()));
        if (response.has_result()) result.Swap(response.mutable_result());
        return absl::OkStatus();
      })));
  return result;
}

absl::StatusOr<v1::ScoreSummary> ScoreCandidates(
    const ServerConnection& connection, const ScoreRequest& request,
    const std::function<bool(v1::Candidate* candidate)>& next, const OnProgressFn& on_progress,
    const std::function<absl::Status(const v1::CandidateScore&)>& on_score) {
  using Stream = grpc::ClientReaderWriter<v1::ScoreCandidatesRequest, v1::ScoreCandidatesResponse>;
  v1::ScoreCandidatesRequest first;
  v1::ScoreHeader* header = first.mutable_header();
  if (request.document == nullptr) {
    header->set_name(request.name);
  } else {
    RETURN_IF_ERROR(FillDocumentHeader(request.options, *request.document, request.model,
                                       header->mutable_inline_()));
    header->mutable_inline_()->clear_token_vectors();  // the methods say what is needed
  }
  for (const v1::ScoringMethod method : request.methods) header->add_methods(method);
  header->set_token_log_probabilities(request.token_log_probabilities);
  header->set_best_passages(request.best_passages);
  grpc::ClientContext context;
  connection.Prepare(&context);
  const auto stub = v1::ScoringService::NewStub(connection.channel());
  const std::unique_ptr<Stream> stream = stub->ScoreCandidates(&context);
  v1::ScoreSummary summary;
  RETURN_IF_ERROR((Pump<v1::ScoreCandidatesRequest, v1::ScoreCandidatesResponse>(
      connection, context, *stream, request.document,
      [&](Stream& s) -> absl::Status {
        if (!s.Write(first)) return absl::OkStatus();
        v1::ScoreCandidatesRequest message;
        if (request.document != nullptr) {
          RETURN_IF_ERROR(SendChunks<v1::ScoreCandidatesRequest>(*request.document, s));
          message.mutable_document_end();
          if (!s.Write(message)) return absl::OkStatus();
        }
        while (next(message.mutable_candidate())) {
          if (!s.Write(message)) break;
          message.Clear();
        }
        return absl::OkStatus();
      },
      [&](v1::ScoreCandidatesResponse& response) -> absl::Status {
        if (response.has_progress()) on_progress(FromProto(response.progress()));
        if (response.has_score()) return on_score(response.score());
        if (response.has_summary()) summary.Swap(response.mutable_summary());
        return absl::OkStatus();
      })));
  return summary;
}

}  // namespace longdoc::tools
