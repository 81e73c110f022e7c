#include "service/content_order.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

const char* UnitOf(bool ids) { return ids ? "token ids" : "bytes"; }

}  // namespace

absl::Status ContentOrder::OnChunk(int64_t offset, int64_t size, bool ids) {
  if (content_ != Content::kNone && (content_ == Content::kIds) != ids) {
    return Invalid("text and token ids in one document", "MIXED_CONTENT");
  }
  if (offset > next_offset_) {
    return Invalid(absl::StrFormat("chunk at offset %d leaves a gap: %d %s were received", offset,
                                   next_offset_, UnitOf(ids)),
                   "OFFSET_GAP");
  }
  if (offset < next_offset_) {
    return Invalid(absl::StrFormat("chunk at offset %d overlaps the %d %s received before", offset,
                                   next_offset_, UnitOf(ids)),
                   "OFFSET_OVERLAP");
  }
  if (declared(ids) && next_offset_ + size > *declared(ids)) {
    return Invalid(absl::StrFormat("document is longer than the %d %s that the header declared",
                                   *declared(ids), UnitOf(ids)),
                   "DECLARED_SIZE_MISMATCH");
  }
  content_ = ids ? Content::kIds : Content::kText;
  next_offset_ += size;
  return absl::OkStatus();
}

absl::Status ContentOrder::OnBreak() const {
  if (header_.has_breaks) return absl::OkStatus();
  return Invalid("passage_break without a passage specification of kind breaks",
                 "UNEXPECTED_BREAK");
}

absl::Status ContentOrder::OnEnd() const {
  const bool ids = content_ == Content::kIds;
  if (content_ == Content::kNone || !declared(ids) || *declared(ids) == next_offset_) {
    return absl::OkStatus();
  }
  return Invalid(absl::StrFormat("document has %d %s, its header declared %d", next_offset_,
                                 UnitOf(ids), *declared(ids)),
                 "DECLARED_SIZE_MISMATCH");
}

}  // namespace longdoc::service
