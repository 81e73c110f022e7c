// Pieces in, tokens with byte ranges out: the last step of byte-level BPE.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/types/span.h"
#include "engine/text/bpe_model.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// What the post-processor does to ranges: white space at a token's ends is taken off. Except: one
// space at the start of the text stays if `prefix_space` says that it may be the prefix's.
struct TrimOptions {
  bool trim = false;
  bool prefix_space = false;
};

// Writes the tokens of each piece to `out`. Remembers what short pieces become: a table of fixed
// size, where a new piece takes the place of an old one. Not thread-safe; one per stream.
class BpeEncoder {
 public:
  // Both outlive the encoder.
  BpeEncoder(const BpeModel& model, const TrimOptions& trim, TokenSequence* out)
      : model_(model), trim_(trim), out_(out) {}

  // `piece` begins at `begin` in the document. With `prefix_bytes` > 0 its first byte is a space
  // that is not in the document: as in the library, it stands for the document's next character,
  // which has that many bytes.
  void Encode(std::string_view piece, int64_t begin, int64_t prefix_bytes);

  // An added token: `content` at [begin, end), with white space that it took on its left and right.
  // White space of the content counts as such, too.
  struct Added {
    int32_t id = -1;
    std::string_view content;
    int64_t begin = 0, end = 0;
    int64_t left_chars = 0, left_bytes = 0, right_bytes = 0;
  };
  void EncodeAdded(const Added& added);

 private:
  static constexpr size_t kMaxCachedBytes = 30;
  static constexpr size_t kMaxCachedTokens = 8;
  static constexpr size_t kCacheSlots = 512;
  struct Slot {
    uint8_t num_bytes = 0, num_tokens = 0;
    std::array<char, kMaxCachedBytes> bytes{};
    std::array<BpeToken, kMaxCachedTokens> tokens{};
  };

  absl::Span<const BpeToken> Tokens(std::string_view piece);
  void Push(int32_t id, ByteRange range) {
    out_->ids.push_back(id);
    out_->bytes.push_back(range);
    is_first_ = false;
  }
  // May a token that begins at `begin` have the prefix's space?
  bool KeepsSpace(int64_t begin) const { return trim_.prefix_space && (is_first_ || begin == 0); }

  const BpeModel& model_;
  const TrimOptions trim_;
  TokenSequence* const out_;
  bool is_first_ = true;  // no token of the document yet
  BpeScratch scratch_;
  BpeToken whole_;                 // the result when it is one token
  std::unique_ptr<Slot[]> cache_;  // made for the first piece that needs it
};

}  // namespace longdoc
