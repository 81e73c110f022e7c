// BERT's pre-tokenizer and WordPiece: normalized characters in, tokens out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace longdoc {

// What WordPiece needs to know about the model.
struct WordPieceModel {
  Vocabulary vocabulary;
  std::string continuing_prefix = "##";
  uint64_t continuing_hash = 0;  // PrefixHash of continuing_prefix
  int32_t unk_id = 0;
  int32_t max_input_chars_per_word = 100;
};

// Collects characters into words and writes each word's tokens to `out` as soon as it is complete.
// A word with more than max_input_chars_per_word characters is only counted. Not thread-safe.
class WordSplitter {
 public:
  // Both outlive the splitter.
  WordSplitter(const WordPieceModel& model, TokenSequence* out);

  // A character of a word, with the bytes of the original text it stands for.
  void AppendAscii(char c, int64_t begin) {
    if (num_chars_ < max_chars_) {
      chars_[num_chars_] = {begin, begin + 1, static_cast<uint32_t>(bytes_.size())};
      bytes_.push_back(c);
    }
    end_ = begin + 1;
    if (num_chars_++ == 0) begin_ = begin;
  }
  void Append(char32_t cp, ByteRange range);
  // White space.
  void EndWord() {
    if (num_chars_ > 0) FlushWord();
  }
  // Punctuation is a word of its own.
  void AppendPunctuation(char32_t cp, ByteRange range) {
    EndWord();
    Append(cp, range);
    FlushWord();
  }
  // A token found by other means; ends the word before it.
  void EmitToken(int32_t id, ByteRange range) {
    EndWord();
    out_->ids.push_back(id);
    out_->bytes.push_back(range);
  }

  int64_t pending_bytes() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  struct Char {
    int64_t begin, end;  // in the original text
    uint32_t offset;     // in bytes_
  };

  void FlushWord();
  bool WordPieces();
  // The longest token among the prefixes of the characters from `first` on: its id (or -1) and
  // in `*last` the character after it.
  int32_t LongestMatch(int64_t first, int64_t* last);

  const WordPieceModel& model_;
  TokenSequence* const out_;
  const int64_t max_chars_;
  std::string bytes_;             // normalized UTF-8 of the word, at most max_chars_ characters
  std::vector<Char> chars_;       // max_chars_ + 1 entries, num_chars_ in use
  std::vector<uint64_t> hashes_;  // scratch: hash of the prefix that ends with each character
  int64_t num_chars_ = 0;         // counted beyond max_chars_ as well
  int64_t begin_ = 0, end_ = 0;   // first character's begin, last character's end
};

}  // namespace longdoc
