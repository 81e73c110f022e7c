// From the options of a request to the engine's, every field checked.
//
// Errors are INVALID_ARGUMENT with a stable reason (docs/api.md) and name field, range and value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "longdoc/v1/common.pb.h"
#include "longdoc/v1/embedding_service.pb.h"

namespace longdoc::service {

// Granularities of one document.
inline constexpr int kMaxGranularities = 16;
inline constexpr int64_t kMaxDocumentIdBytes = 256;
inline constexpr int64_t kMaxGlobalTokens = 4096;

absl::StatusOr<AttentionPolicy> ParseAttention(const v1::AttentionPolicy& proto);
absl::StatusOr<Overflow> ParseOverflow(v1::Overflow overflow);
// `model_dim`: components of the model's vectors.
absl::StatusOr<VectorOptions> ParseVectorOptions(const v1::VectorOptions& proto, int64_t model_dim);

// Components and bytes of one vector.
int64_t VectorDimensions(const VectorOptions& options, int64_t model_dim);
int64_t VectorBytes(const VectorOptions& options, int64_t model_dim);

// What the header of EmbedDocument asks for.
struct DocumentOptions {
  std::string document_id;
  std::optional<int64_t> declared_bytes;
  std::optional<int64_t> declared_tokens;
  Overflow overflow = Overflow::kError;
  AttentionPolicy attention;
  std::vector<PassageSpec> passages;
  VectorOptions vector;
  bool token_vectors = false;
  bool document_vector = true;
  double progress_interval_seconds = 0.5;
  // Not in the header, but in the nature of the RPC.
  bool for_scoring = false;  // what scoring needs as well: the decoder's keys and values, the ids
  bool keep = false;         // and it goes into the store
  // token_vectors are those of late interaction, not an answer.
  bool token_vectors_for_scoring = false;

  bool has_breaks() const;
  // Passages of a document of `tokens` tokens, as far as the specifications tell (sentences and
  // breaks depend on the text and count 0).
  int64_t ExpectedPassages(int64_t tokens) const;
  // Of the encode that this takes.
  EncodeShape Shape(const Model& model, int64_t tokens, int64_t passages) const;
};

// Also refuses what the declared sizes show to be over the limits.
absl::StatusOr<DocumentOptions> ParseDocumentHeader(const v1::DocumentHeader& header,
                                                    int64_t model_dim,
                                                    const DocumentLimits& limits);

}  // namespace longdoc::service
