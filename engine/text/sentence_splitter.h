// Finds sentence ends while the bytes of a document arrive.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace longdoc {

// A sentence ends after one of . ! ? (and the CJK full-width forms U+3002 U+FF01 U+FF1F) and any
// closing quotes or brackets behind it, when white space or the end of the text follows (CJK forms need no white space), and at a
// blank line. The white space belongs to the sentence before it, so that sentences tile the text.
// Deterministic under any split of the bytes. Not thread-safe. Input must be valid UTF-8 (the
// tokenizer rejects the rest); invalid bytes never crash it.
class SentenceSplitter {
 public:
  void Append(std::string_view bytes);
  void Finish();
  // Byte offsets at which a sentence ends, ascending; the last one is the text's size (after
  // Finish, unless the text is empty).
  const std::vector<int64_t>& ends() const { return ends_; }

 private:
  std::vector<int64_t> ends_;
};

}  // namespace longdoc
