#include "engine/kept_document.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/types/span.h"
#include "engine/vector_output.h"

namespace longdoc {
namespace {

template <typename T>
int64_t CapacityBytes(const std::vector<T>& v) {
  return static_cast<int64_t>(v.capacity() * sizeof(T));
}

// What a document takes that has nothing in it.
int64_t BaseBytes(int64_t document_id_capacity) {
  return static_cast<int64_t>(sizeof(KeptDocument)) + document_id_capacity + 1;
}

// To the nearest, ties to even; NaN stays NaN.
uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// `rows` vectors [rows, dimensions], each scaled to unit length.
std::vector<uint16_t> UnitBf16(const float* in, int64_t rows, int64_t dimensions) {
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(rows * dimensions));
  std::vector<float> unit(static_cast<size_t>(dimensions));
  for (int64_t r = 0; r < rows; ++r) {
    FinishVector({in + r * dimensions, unit.size()}, VectorOptions(), unit.data());
    for (const float v : unit) out.push_back(ToBf16(v));
  }
  return out;
}

}  // namespace

DocumentBytes& DocumentBytes::operator+=(const DocumentBytes& more) {
  cross_kv += more.cross_kv;
  token_vectors += more.token_vectors;
  passages += more.passages;
  ids += more.ids;
  other += more.other;
  return *this;
}

DocumentBytes& DocumentBytes::operator-=(const DocumentBytes& less) {
  return *this += {-less.cross_kv, -less.token_vectors, -less.passages, -less.ids, -less.other};
}

DocumentBytes KeptDocument::bytes_by_kind() const {
  DocumentBytes sum;
  if (cross_kv != nullptr) sum.cross_kv = cross_kv->bytes();
  if (token_vectors != nullptr) sum.token_vectors = token_vectors->bytes();
  sum.passages = CapacityBytes(passages) + CapacityBytes(passage_vectors);
  sum.ids = CapacityBytes(ids);
  sum.other = BaseBytes(static_cast<int64_t>(document_id.capacity())) + CapacityBytes(vector);
  return sum;
}

int64_t KeptBytesWithoutCrossKv(int64_t tokens, int64_t passages, int64_t dimensions,
                                bool token_vectors, int64_t document_id_bytes) {
  // A short string lies within the object, and says so by its capacity.
  const int64_t id_capacity =
      std::max(document_id_bytes, static_cast<int64_t>(std::string().capacity()));
  const int64_t vector_bytes = static_cast<int64_t>(sizeof(uint16_t)) * dimensions;
  return BaseBytes(id_capacity) + tokens * static_cast<int64_t>(sizeof(int32_t)) +
         dimensions * static_cast<int64_t>(sizeof(float)) +
         passages * (static_cast<int64_t>(sizeof(Passage)) + vector_bytes) +
         (token_vectors ? TokenVectors::Bytes(tokens, dimensions) : 0);
}

KeptDocument KeepEncoded(std::shared_ptr<const Model> model, std::vector<int32_t> ids,
                         std::vector<Passage> passages, std::string document_id,
                         EncodeResult&& encoded) {
  const int64_t dimensions = model->info().dimensions;
  KeptDocument document;
  encoded.token_vectors = nullptr;
  encoded.token_owner.reset();
  document.passage_vectors =
      UnitBf16(encoded.passages.data(), static_cast<int64_t>(passages.size()), dimensions);
  encoded.passages = {};
  document.model = std::move(model);
  document.ids = std::move(ids);
  document.passages = std::move(passages);
  document.vector = std::move(encoded.document);
  document.document_id = std::move(document_id);
  // They grew by doubling.
  document.ids.shrink_to_fit();
  document.passages.shrink_to_fit();
  document.vector.shrink_to_fit();
  document.document_id.shrink_to_fit();
  document.token_vectors = std::move(encoded.kept_token_vectors);
  document.cross_kv = std::move(encoded.cross_kv);
  return document;
}

}  // namespace longdoc
