// EncodeDocument: the encoded document stays here.

#include <utility>

#include "absl/time/time.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/document_store.h"
#include "service/document_call.h"
#include "service/document_info.h"
#include "service/document_intake.h"

namespace longdoc::service {
namespace {

class EncodeCall final : public DocumentCall {
 public:
  explicit EncodeCall(const ServiceContext& context) : context_(context) {}

  std::unique_ptr<google::protobuf::Message> NewResponse() const override {
    return std::make_unique<v1::EncodeDocumentResponse>();
  }
  v1::Progress* MutableProgress(google::protobuf::Message* response) const override {
    return static_cast<v1::EncodeDocumentResponse*>(response)->mutable_progress();
  }

  absl::Status AcceptHeader(const DocumentInput& input, std::shared_ptr<const Model> model,
                            DocumentOptions* options) override {
    if (input.header.has_vector() || input.header.omit_document_vector()) {
      return WithReason(
          absl::InvalidArgumentError(
              "document.vector and document.omit_document_vector do not apply to a document that "
              "is kept"),
          "INVALID_OPTION");
    }
    if (input.ttl_seconds) {
      ASSIGN_OR_RETURN(ttl_, context_.documents.CheckTtl(absl::Seconds(*input.ttl_seconds)));
    }
    options->for_scoring = options->keep = options->token_vectors_for_scoring = true;
    model_ = std::move(model);
    options_ = *options;
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Prepare(const TokenizedDocument& document,
                               const std::string& content_key) override {
    content_key_ = content_key;
    pin_ = context_.documents.FindByContent(content_key_, ttl_);
    if (pin_) return true;
    ASSIGN_OR_RETURN(
        const int64_t bytes,
        BytesToKeep(context_, *model_, options_, static_cast<int64_t>(document.ids.size()),
                    static_cast<int64_t>(document.passages.size())));
    ASSIGN_OR_RETURN(reservation_, context_.documents.Reserve(bytes));
    return false;
  }

  absl::Status Answer(TokenizedDocument&& document, std::unique_ptr<EncodeResult> encoded,
                      v1::EncodeStats&& stats) override {
    result_.set_reused(encoded == nullptr);
    if (encoded != nullptr) {
      KeptDocument kept = KeepEncoded(model_, std::move(document.ids), std::move(document.passages),
                                      options_.document_id, std::move(*encoded));
      // What was promised to others is no longer theirs, then.
      if (kept.bytes() > reservation_->bytes()) {
        context_.metrics.Bug("kept_document_larger_than_planned");
      }
      ASSIGN_OR_RETURN(pin_, context_.documents.Add(content_key_, std::move(kept), ttl_,
                                                    std::move(reservation_)));
    }
    *result_.mutable_stats() = std::move(stats);
    FillDocument(context_.documents.Describe(pin_), result_.mutable_document());
    pin_ = {};  // from here on it may be evicted like any other
    return absl::OkStatus();
  }

  bool NextFrame(google::protobuf::Message* response) override {
    *static_cast<v1::EncodeDocumentResponse*>(response)->mutable_result() = std::move(result_);
    return true;
  }

 private:
  const ServiceContext& context_;
  std::shared_ptr<const Model> model_;
  DocumentOptions options_;
  absl::Duration ttl_ = absl::ZeroDuration();  // the store's default
  std::string content_key_;
  std::unique_ptr<DocumentStore::Reservation> reservation_;  // while the document is encoded
  DocumentStore::Pin pin_;
  v1::EncodeDocumentResult result_;
};

}  // namespace

DocumentInput TakeInput(v1::EncodeDocumentRequest&& request) {
  DocumentInput input;
  if (request.has_header()) {
    input.kind = DocumentInput::Kind::kHeader;
    v1::EncodeDocumentHeader& header = *request.mutable_header();
    input.header = std::move(*header.mutable_document());
    if (header.has_ttl_seconds()) input.ttl_seconds = header.ttl_seconds();
  } else if (request.has_chunk()) {
    input.kind = DocumentInput::Kind::kChunk;
    input.chunk = std::move(*request.mutable_chunk());
  } else if (request.has_passage_break()) {
    input.kind = DocumentInput::Kind::kBreak;
  }
  return input;
}

std::unique_ptr<DocumentCall> MakeEncodeCall(const ServiceContext& context) {
  return std::make_unique<EncodeCall>(context);
}

}  // namespace longdoc::service
