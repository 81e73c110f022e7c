#include "service/document_info.h"

#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/scoring.h"

namespace longdoc::service {
namespace {

void FillTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t nanoseconds = absl::ToUnixNanos(time);  // of our times: after 1970, before 2262
  out->set_seconds(nanoseconds / 1'000'000'000);
  out->set_nanos(static_cast<int32_t>(nanoseconds % 1'000'000'000));
}

}  // namespace

void FillDocument(const DocumentRecord& record, v1::Document* out) {
  const KeptDocument& document = *record.document;
  out->set_name(record.name);
  out->set_document_id(document.document_id);
  out->set_model(document.model->name());
  out->set_model_revision(document.model->revision());
  out->set_token_count(document.tokens());
  out->set_passage_count(static_cast<int64_t>(document.passages.size()));
  out->set_has_token_vectors(document.token_vectors != nullptr);
  for (const v1::ScoringMethod method : MethodsOf(document)) out->add_methods(method);
  out->set_bytes_held(document.bytes());
  FillTime(record.created, out->mutable_create_time());
  FillTime(record.last_used, out->mutable_last_use_time());
  FillTime(record.expires, out->mutable_expire_time());
}

absl::Status GetDocument(DocumentStore& store, const v1::GetDocumentRequest& request,
                         v1::Document* response) {
  ASSIGN_OR_RETURN(const DocumentRecord record, store.Describe(request.name()));
  FillDocument(record, response);
  return absl::OkStatus();
}

absl::Status ListDocuments(DocumentStore& store, const v1::ListDocumentsRequest& request,
                           v1::ListDocumentsResponse* response) {
  const int page_size = request.page_size() == 0 ? kDefaultPageSize : request.page_size();
  if (page_size < 1 || page_size > kMaxPageSize) {
    return WithReason(absl::InvalidArgumentError(
                          absl::StrFormat("page_size is %d, it must be in [1, %d], or 0 for %d",
                                          page_size, kMaxPageSize, kDefaultPageSize)),
                      "INVALID_OPTION");
  }
  ASSIGN_OR_RETURN(
      const std::vector<DocumentRecord> records,
      store.List(page_size, request.page_token(), response->mutable_next_page_token()));
  for (const DocumentRecord& record : records) FillDocument(record, response->add_documents());
  const DocumentStoreStats stats = store.stats();
  response->set_bytes_held(stats.held.total());
  response->set_budget_bytes(stats.budget_bytes);
  return absl::OkStatus();
}

absl::Status DeleteDocument(DocumentStore& store, const v1::DeleteDocumentRequest& request,
                            v1::DeleteDocumentResponse* response) {
  ASSIGN_OR_RETURN(const int64_t bytes, store.Delete(request.name()));
  response->set_bytes_freed(bytes);
  return absl::OkStatus();
}

}  // namespace longdoc::service
