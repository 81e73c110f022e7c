// Kept documents as clients see them: the answers of DocumentService's unary calls, without gRPC.
#pragma once

#include "absl/status/status.h"
#include "engine/document_store.h"
#include "longdoc/v1/document_service.pb.h"

namespace longdoc::service {

inline constexpr int kDefaultPageSize = 100;
inline constexpr int kMaxPageSize = 1000;

void FillDocument(const DocumentRecord& record, v1::Document* out);

// NOT_FOUND and INVALID_ARGUMENT as DocumentStore::Find and List have them; INVALID_OPTION for a
// page size out of range.
absl::Status GetDocument(DocumentStore& store, const v1::GetDocumentRequest& request,
                         v1::Document* response);
absl::Status ListDocuments(DocumentStore& store, const v1::ListDocumentsRequest& request,
                           v1::ListDocumentsResponse* response);
absl::Status DeleteDocument(DocumentStore& store, const v1::DeleteDocumentRequest& request,
                            v1::DeleteDocumentResponse* response);

}  // namespace longdoc::service
