// Finds added tokens ("[SEP]" written in a text) before anything else looks at the text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace longdoc {

// A set of literal byte strings, matched leftmost-longest in raw text, as Hugging Face does for
// added tokens with `normalized: false`. Build with Add, then Finish; then immutable.
class AddedTokens {
 public:
  struct Match {
    enum Kind { kNone, kNeedMore, kFound } kind = kNone;
    size_t length = 0;  // of kFound
    int32_t id = -1;
    std::string_view content;                      // the text matched, lives as long as the set
    bool strip_left = false, strip_right = false;  // white space around it belongs to the token
  };

  // `content`: non-empty valid UTF-8. The matcher only reports the strip flags: to take the white
  // space is the tokenizer's part.
  void Add(std::string_view content, int32_t id, bool strip_left = false, bool strip_right = false);
  void Finish();

  bool empty() const { return tokens_.empty(); }
  size_t size() const { return tokens_.size(); }
  // First position >= `from` at which a token may start, or text.size().
  size_t NextCandidate(std::string_view text, size_t from) const;
  // The longest token at the start of `text`. kNeedMore if bytes behind `text` may decide, unless
  // `at_end` says that there are none.
  Match MatchAt(std::string_view text, bool at_end) const;

 private:
  struct Token {
    std::string content;
    int32_t id;
    bool strip_left, strip_right;
  };

  std::vector<Token> tokens_;  // sorted by content
  std::array<bool, 256> starts_{};
};

}  // namespace longdoc
