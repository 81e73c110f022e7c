#include "engine/kept_document.h"

namespace longdoc {
namespace {

template <typename T>
int64_t CapacityBytes(const std::vector<T>& v) {
  return static_cast<int64_t>(v.capacity() * sizeof(T));
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
  sum.token_vectors = CapacityBytes(token_vectors);
  sum.passages = CapacityBytes(passages) + CapacityBytes(passage_vectors);
  sum.ids = CapacityBytes(ids);
  sum.other = static_cast<int64_t>(sizeof(KeptDocument) + document_id.capacity() + 1) +
              CapacityBytes(vector);
  return sum;
}

}  // namespace longdoc
