// Between the options of the command line and the messages of the API.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "engine/options.h"
#include "longdoc/v1/common.pb.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/tools/embedder.h"

namespace longdoc::tools {

// INVALID_ARGUMENT for dense attention, which no server offers.
absl::Status SetAttention(const AttentionPolicy& policy, v1::AttentionPolicy* out);
v1::VectorEncoding ToProto(VectorEncoding encoding);
VectorEncoding FromProto(v1::VectorEncoding encoding);
inline ByteRange FromProto(const v1::ByteRange& range) { return {range.begin(), range.end()}; }
inline TokenSpan FromProto(const v1::TokenRange& range) { return {range.begin(), range.end()}; }
EmbedProgress FromProto(const v1::Progress& progress);

// What EmbedDocument, EncodeDocument and inline scoring have in common: model, declared size,
// overflow, attention, granularities, pace of progress.
absl::Status FillDocumentHeader(const EmbedOptions& options, const DocumentInput& document,
                                const std::string& model, v1::DocumentHeader* header);

// Gives `write` one chunk after the other until the document ends or `write` returns false (the
// stream broke: the call's own status says why). Fails when the source does.
absl::Status SendContent(DocumentInput& document,
                         const std::function<bool(v1::DocumentChunk& chunk)>& write);

}  // namespace longdoc::tools
