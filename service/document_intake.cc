#include "service/document_intake.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/kept_document.h"

namespace longdoc::service {

ContentPiece ContentPiece::Take(v1::DocumentChunk&& chunk) {
  ContentPiece piece;
  if (chunk.has_token_ids()) {
    piece.kind = Kind::kIds;
    piece.ids.assign(chunk.token_ids().ids().begin(), chunk.token_ids().ids().end());
  } else {
    piece.kind = Kind::kText;
    piece.text = std::move(*chunk.mutable_text());
  }
  return piece;
}

absl::StatusOr<std::unique_ptr<DocumentIntake>> DocumentIntake::Create(
    const ServiceContext& context, std::shared_ptr<const Model> model,
    const DocumentOptions& options) {
  std::unique_ptr<DocumentIntake> intake(new DocumentIntake(context, std::move(model), options));
  ASSIGN_OR_RETURN(intake->builder_,
                   DocumentBuilder::Create(intake->model_->tokenizer(), options.passages,
                                           options.overflow, context.limits.document));
  intake->builder_->SendIdsTo(context.engine.ReceiveIds());
  if (options.declared_tokens) {
    RETURN_IF_ERROR(CheckMemory(context, *intake->model_, options, *options.declared_tokens));
  }
  return intake;
}

absl::Status DocumentIntake::Consume(ContentPiece& piece, int64_t* consumed) {
  *consumed = 0;
  switch (piece.kind) {
    case ContentPiece::Kind::kText: {
      const std::string_view slice =
          std::string_view(piece.text).substr(piece.consumed, kSliceBytes);
      piece.consumed += slice.size();
      *consumed = static_cast<int64_t>(slice.size());
      if (options_.keep) hash_.AddText(slice);
      RETURN_IF_ERROR(builder_->AppendText(slice));
      break;
    }
    case ContentPiece::Kind::kIds:
      *consumed = piece.bytes();
      RETURN_IF_ERROR(AppendIds(piece.ids));
      break;
    case ContentPiece::Kind::kBreak:
      if (options_.keep) hash_.AddBreak();
      RETURN_IF_ERROR(builder_->AppendBreak());
      break;
  }
  num_tokens_ = builder_->num_tokens();
  return CheckGrowth();
}

absl::Status DocumentIntake::AppendIds(const std::vector<int32_t>& ids) {
  RETURN_IF_ERROR(CheckTokenIds(*model_, ids, num_ids_));
  num_ids_ += static_cast<int64_t>(ids.size());
  const int64_t max_bytes = context_.limits.document.max_bytes;
  if (4 * num_ids_ > max_bytes) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "the document has at least %d token ids of 4 bytes, the limit is %d bytes", num_ids_,
            max_bytes)),
        "DOCUMENT_TOO_LARGE");
  }
  if (options_.keep) hash_.AddIds(ids);
  return builder_->AppendIds(ids);
}

// Looks at the memory again each time the number of tokens has doubled.
absl::Status DocumentIntake::CheckGrowth() {
  if (num_tokens_ < next_check_) return absl::OkStatus();
  next_check_ = 2 * num_tokens_;
  return CheckMemory(context_, *model_, options_, num_tokens_);
}

absl::StatusOr<TokenizedDocument> DocumentIntake::Finish() {
  ASSIGN_OR_RETURN(TokenizedDocument document, builder_->Finish());
  builder_.reset();
  num_tokens_ = static_cast<int64_t>(document.ids.size());
  context_.metrics.InputTokens(document.input_tokens);
  if (document.truncated) context_.metrics.Truncated(document.input_tokens - num_tokens_);
  if (options_.keep) {
    content_key_ = hash_.Finish(*model_, options_);
    if (content_key_.empty()) return absl::InternalError("the content could not be hashed");
  }
  return document;
}

absl::Status CheckMemory(const ServiceContext& context, const Model& model,
                         const DocumentOptions& options, int64_t tokens) {
  tokens = std::min(tokens, context.limits.document.max_tokens);  // the rest is cut or refused
  const int64_t passages = options.ExpectedPassages(tokens);
  ASSIGN_OR_RETURN(const EncodePlan plan,
                   context.engine.Plan(model, options.Shape(model, tokens, passages)));
  RETURN_IF_ERROR(context.engine.CheckFits(plan));
  if (!options.keep) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t bytes, BytesToKeep(context, model, options, tokens, passages));
  return context.documents.CheckRoom(bytes);
}

absl::StatusOr<int64_t> BytesToKeep(const ServiceContext& context, const Model& model,
                                    const DocumentOptions& options, int64_t tokens,
                                    int64_t passages) {
  EncodeShape shape = options.Shape(model, tokens, passages);
  const int64_t bytes =
      KeptBytesWithoutCrossKv(tokens, passages, model.info().dimensions, options.token_vectors,
                              static_cast<int64_t>(options.document_id.size()));
  if (!shape.cross_kv) return bytes;
  // The planner knows how large keys and values are.
  ASSIGN_OR_RETURN(const EncodePlan with, context.engine.Plan(model, shape));
  shape.cross_kv = false;
  ASSIGN_OR_RETURN(const EncodePlan without, context.engine.Plan(model, shape));
  return bytes + with.output_bytes - without.output_bytes;
}

EncodeTask MakeEncodeTask(std::shared_ptr<const Model> model, const DocumentOptions& options,
                          TokenizedDocument& document,
                          std::shared_ptr<CancellationToken> cancellation) {
  EncodeTask task;
  if (options.for_scoring) {
    task.ids = document.ids;
  } else {
    task.ids = std::move(document.ids);
  }
  task.arrived = std::move(document.arrived);
  task.spans.reserve(document.passages.size());
  for (const Passage& passage : document.passages) task.spans.push_back(passage.tokens);
  const EncodeShape shape = options.Shape(*model, static_cast<int64_t>(task.ids.size()),
                                          static_cast<int64_t>(task.spans.size()));
  task.want_token_vectors = shape.token_vectors;
  task.keep_token_vectors = shape.keep_token_vectors;
  task.want_cross_kv = shape.cross_kv;
  task.cross_kv_type = shape.cross_kv_type;
  task.caller_counts_kept = options.keep;  // the store does
  task.attention = shape.attention;
  task.cancellation = std::move(cancellation);
  task.model = std::move(model);
  return task;
}

}  // namespace longdoc::service
