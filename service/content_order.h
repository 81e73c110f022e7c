// The order of a streamed document's content: offsets without gaps, one kind of content, breaks
// only where they were announced, declared sizes met. Pure; part of the stream machines.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace longdoc::service {

class ContentOrder {
 public:
  // What the header fixed, checked already.
  struct Header {
    bool has_breaks = false;
    std::optional<int64_t> declared_bytes;   // must be met exactly by text
    std::optional<int64_t> declared_tokens;  // must be met exactly by ids
  };

  void SetHeader(const Header& header) { header_ = header; }
  // A chunk of `size` bytes, or token ids. Not OK: INVALID_ARGUMENT with a reason.
  absl::Status OnChunk(int64_t offset, int64_t size, bool ids);
  absl::Status OnBreak() const;
  absl::Status OnEnd() const;

  int64_t received() const { return next_offset_; }  // bytes or ids

 private:
  const std::optional<int64_t>& declared(bool ids) const {
    return ids ? header_.declared_tokens : header_.declared_bytes;
  }

  enum class Content { kNone, kText, kIds };
  Header header_;
  Content content_ = Content::kNone;
  int64_t next_offset_ = 0;
};

}  // namespace longdoc::service
