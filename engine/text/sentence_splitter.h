// Finds sentence ends while the bytes of a document arrive.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace longdoc {

// A sentence ends after one of . ! ? (and the CJK full-width forms U+3002 U+FF01 U+FF1F) and any
// closing quotes or brackets behind it, when white space or the end of the text follows (CJK forms
// need no white space), and at a blank line. The white space belongs to the sentence before it, so
// that sentences tile the text. Several terminators in a row ("?!", "...") count as one.
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
  // What the characters so far allow: inside a sentence, behind its terminator (a CJK one), or in
  // the white space that ends it.
  enum class State { kInside, kTerminated, kTerminatedCjk, kEnded };

  // A character whose first byte is at `offset`.
  void Char(char32_t cp, int64_t offset);

  std::vector<int64_t> ends_;
  State state_ = State::kInside;
  bool has_content_ = false;  // anything but white space since the last end
  int line_feeds_ = 0;        // in the current run of white space
  int64_t num_bytes_ = 0;
  // The character being decoded: bits so far, continuation bytes to come, offset of its lead.
  char32_t partial_ = 0;
  int needed_ = 0;
  int64_t begin_ = 0;
};

}  // namespace longdoc
