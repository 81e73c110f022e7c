// The answers of EmbedDocument, built one at a time from an encoded document.
#pragma once

#include <cstdint>

#include "engine/document.h"
#include "engine/engine.h"
#include "longdoc/v1/common.pb.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/request_options.h"

namespace longdoc::service {

// Truncates, normalises and encodes one pooled vector [model_dim] into `out`.
void FillVector(absl::Span<const float> in, const VectorOptions& options, v1::Vector* out);

// The engine's part of the statistics.
void FillEncodeStats(const EncodeStats& stats, v1::EncodeStats* out);

// Passage vectors in frames of at most `max_frame_bytes` serialised, then token vectors likewise,
// then the result. A frame holds at least one vector, however small the limit. Holds the vectors
// until it is destroyed; not thread-safe.
class ResponseFrames {
 public:
  // `result_message` is the last answer, complete but for the vector and passage_count. The ids of
  // `document` are not needed.
  ResponseFrames(EncodeResult&& encoded, TokenizedDocument&& document,
                 const DocumentOptions& options, int64_t model_dim, int64_t max_frame_bytes,
                 v1::EmbedDocumentResult&& result_message);

  // Builds the next response into `out` (cleared first). True: it is the result, the last one.
  bool Next(v1::EmbedDocumentResponse* out);

 private:
  void NextPassages(v1::PassageVectors* out);
  void NextTokens(v1::TokenVectors* out);

  const EncodeResult encoded_;
  const TokenizedDocument document_;
  const VectorOptions vector_;
  const bool document_vector_;
  const bool token_vectors_;
  const int64_t model_dim_;
  const int64_t max_frame_bytes_;
  const size_t num_tokens_;
  v1::EmbedDocumentResult result_;
  size_t next_passage_ = 0;
  size_t next_token_ = 0;
};

}  // namespace longdoc::service
