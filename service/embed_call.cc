// EmbedDocument: the vectors go back to the client.

#include <utility>

#include "service/document_call.h"
#include "service/response_frames.h"

namespace longdoc::service {
namespace {

class EmbedCall final : public DocumentCall {
 public:
  explicit EmbedCall(const ServiceContext& context) : context_(context) {}

  std::unique_ptr<google::protobuf::Message> NewResponse() const override {
    return std::make_unique<v1::EmbedDocumentResponse>();
  }
  v1::Progress* MutableProgress(google::protobuf::Message* response) const override {
    return static_cast<v1::EmbedDocumentResponse*>(response)->mutable_progress();
  }

  absl::Status AcceptHeader(const DocumentInput&, std::shared_ptr<const Model> model,
                            DocumentOptions* options) override {
    model_ = std::move(model);
    options_ = *options;
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Prepare(const TokenizedDocument&, const std::string&) override {
    return false;
  }

  absl::Status Answer(TokenizedDocument&& document, std::unique_ptr<EncodeResult> encoded,
                      v1::EncodeStats&& stats) override {
    v1::EmbedDocumentResult result;
    result.set_document_id(options_.document_id);
    result.set_model(model_->name());
    result.set_model_revision(model_->revision());
    *result.mutable_stats() = std::move(stats);
    frames_ = std::make_unique<ResponseFrames>(std::move(*encoded), std::move(document), options_,
                                               model_->info().dimensions,
                                               context_.limits.max_frame_bytes, std::move(result));
    return absl::OkStatus();
  }

  bool NextFrame(google::protobuf::Message* response) override {
    return frames_->Next(static_cast<v1::EmbedDocumentResponse*>(response));
  }

 private:
  const ServiceContext& context_;
  std::shared_ptr<const Model> model_;
  DocumentOptions options_;
  std::unique_ptr<ResponseFrames> frames_;
};

}  // namespace

DocumentInput TakeInput(v1::EmbedDocumentRequest&& request) {
  DocumentInput input;
  if (request.has_header()) {
    input.kind = DocumentInput::Kind::kHeader;
    input.header = std::move(*request.mutable_header());
  } else if (request.has_chunk()) {
    input.kind = DocumentInput::Kind::kChunk;
    input.chunk = std::move(*request.mutable_chunk());
  } else if (request.has_passage_break()) {
    input.kind = DocumentInput::Kind::kBreak;
  }
  return input;
}

std::unique_ptr<DocumentCall> MakeEmbedCall(const ServiceContext& context) {
  return std::make_unique<EmbedCall>(context);
}

}  // namespace longdoc::service
