// What EmbedDocument and EncodeDocument do differently. StreamSession does what they share: it
// receives and tokenizes a document, has it encoded and sends the answers of the call.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "google/protobuf/message.h"
#include "longdoc/v1/document_service.pb.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/context.h"
#include "service/request_options.h"

namespace longdoc::service {

// One message from the client.
struct DocumentInput {
  enum class Kind { kNone, kHeader, kChunk, kBreak };
  Kind kind = Kind::kNone;
  v1::DocumentHeader header{};
  std::optional<double> ttl_seconds{};  // EncodeDocument's header
  v1::DocumentChunk chunk{};
};
DocumentInput TakeInput(v1::EmbedDocumentRequest&& request);
DocumentInput TakeInput(v1::EncodeDocumentRequest&& request);

// Of one stream; destroyed when the stream ends, however it ends. Not thread-safe: AcceptHeader
// comes first, then the rest in order, from one job at a time; all but the functions that are const
// and may be called at any time.
class DocumentCall {
 public:
  virtual ~DocumentCall() = default;

  // An empty message of the type that this call answers with.
  virtual std::unique_ptr<google::protobuf::Message> NewResponse() const = 0;
  virtual v1::Progress* MutableProgress(google::protobuf::Message* response) const = 0;

  // Checks and completes the options of the header.
  virtual absl::Status AcceptHeader(const DocumentInput& input, std::shared_ptr<const Model> model,
                                    DocumentOptions* options) = 0;
  // The document is whole (`content_key`: if it is to be kept). True: no encode is needed.
  virtual absl::StatusOr<bool> Prepare(const TokenizedDocument& document,
                                       const std::string& content_key) = 0;
  // It is encoded; `encoded` is null when no encode was needed. `document` has ids if the options
  // are for_scoring.
  virtual absl::Status Answer(TokenizedDocument&& document, std::unique_ptr<EncodeResult> encoded,
                              v1::EncodeStats&& stats) = 0;
  // Builds the next answer into `response`, a NewResponse(). True: it is the last.
  virtual bool NextFrame(google::protobuf::Message* response) = 0;
};

// Vectors in frames, then the result. `context` outlives the calls.
std::unique_ptr<DocumentCall> MakeEmbedCall(const ServiceContext& context);
// Puts the document into the store, and answers with it. Holds room there while it is encoded.
std::unique_ptr<DocumentCall> MakeEncodeCall(const ServiceContext& context);

}  // namespace longdoc::service
