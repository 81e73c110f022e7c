// The front half of every streaming tokenizer: bytes in, valid characters without added tokens out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/added_tokens.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace longdoc {

// Raw bytes -> validation -> added tokens; what follows is a subclass's. Holds between calls only
// an incomplete character or the possible start of an added token. Not thread-safe.
class TextStream : public StreamingTokenizer {
 public:
  absl::Status Append(std::string_view bytes) final;
  absl::Status Finish() final;
  TokenSequence Take() final;
  int64_t num_tokens() const final { return num_taken_ + static_cast<int64_t>(out_.ids.size()); }
  int64_t num_bytes() const final { return validator_.num_bytes(); }
  int64_t pending_bytes() const final { return static_cast<int64_t>(raw_.size()) + held_bytes(); }

 protected:
  // `added` outlives the stream.
  explicit TextStream(const AddedTokens& added) : added_(added) {}

  // Complete characters; `base` is the offset of text[0]. Joins what came before, unless an added
  // token lies between.
  virtual void OnText(std::string_view text, int64_t base) = 0;
  virtual void OnAddedToken(const AddedTokens::Match& match, ByteRange range) = 0;
  virtual void OnEnd() = 0;
  // Bytes the subclass holds back.
  virtual int64_t held_bytes() const = 0;

  TokenSequence out_;  // tokens emitted and not yet taken

 private:
  // Consumes what it can of raw_.
  void Process(bool at_end);

  const AddedTokens& added_;
  Utf8Validator validator_;
  std::string raw_;        // bytes accepted and not yet processed
  int64_t raw_begin_ = 0;  // offset of raw_[0] in the text
  int64_t num_taken_ = 0;
  absl::Status status_;
};

}  // namespace longdoc
