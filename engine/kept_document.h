// An encoded document as it is kept: what scoring needs of it, in as few bytes as will do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/cross_kv.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "engine/token_vectors.h"

namespace longdoc {

// What a kept document's memory is used for.
struct DocumentBytes {
  int64_t cross_kv = 0;
  int64_t token_vectors = 0;
  int64_t passages = 0;  // their vectors, positions and byte ranges
  int64_t ids = 0;
  int64_t other = 0;  // the document's vector, names, bookkeeping

  int64_t total() const { return cross_kv + token_vectors + passages + ids + other; }
  DocumentBytes& operator+=(const DocumentBytes& more);
  DocumentBytes& operator-=(const DocumentBytes& less);
};

// An encoded document, immutable. What scoring needs, and no text.
struct KeptDocument {
  std::shared_ptr<const Model> model;
  std::vector<int32_t> ids;               // special tokens included; for CROSS_ENCODER
  std::vector<float> vector;              // [dimensions], mean over all tokens, not normalised
  std::vector<Passage> passages;          // of all granularities
  std::vector<uint16_t> passage_vectors;  // bf16 [passages, dimensions], of unit length
  std::shared_ptr<const TokenVectors> token_vectors;  // or null
  std::shared_ptr<const CrossKv> cross_kv;            // null for a model without a decoder
  std::string document_id;                            // the client's

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  // Everything above, as allocated.
  DocumentBytes bytes_by_kind() const;
  int64_t bytes() const { return bytes_by_kind().total(); }
};

// At least what bytes() of such a document will say, but for its cross keys and values.
int64_t KeptBytesWithoutCrossKv(int64_t tokens, int64_t passages, int64_t dimensions,
                                bool token_vectors, int64_t document_id_bytes);

// What is kept of an encode of `ids` with these passages as its spans. Vectors of passages become
// bf16 of unit length (a zero vector stays zero); the fp32 ones are freed, those of tokens as well.
KeptDocument KeepEncoded(std::shared_ptr<const Model> model, std::vector<int32_t> ids,
                         std::vector<Passage> passages, std::string document_id,
                         EncodeResult&& encoded);

}  // namespace longdoc
