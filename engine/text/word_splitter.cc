#include "engine/text/word_splitter.h"

#include <algorithm>

#include "engine/text/utf8.h"

namespace longdoc {

WordSplitter::WordSplitter(const WordPieceModel& model, TokenSequence* out)
    : model_(model),
      out_(out),
      max_chars_(model.max_input_chars_per_word),
      chars_(static_cast<size_t>(max_chars_) + 1),
      hashes_(static_cast<size_t>(max_chars_)) {}

void WordSplitter::Append(char32_t cp, ByteRange range) {
  if (num_chars_ < max_chars_) {
    chars_[num_chars_] = {range.begin, range.end, static_cast<uint32_t>(bytes_.size())};
    AppendUtf8(cp, &bytes_);
  }
  end_ = range.end;
  if (num_chars_++ == 0) begin_ = range.begin;
}

void WordSplitter::FlushWord() {
  const size_t num_tokens = out_->ids.size();
  if (num_chars_ > max_chars_ || !WordPieces()) {
    // One unmatched part makes the whole word unknown.
    out_->ids.resize(num_tokens);
    out_->bytes.resize(num_tokens);
    out_->ids.push_back(model_.unk_id);
    out_->bytes.push_back({begin_, end_});
  }
  num_chars_ = 0;
  bytes_.clear();
}

bool WordSplitter::WordPieces() {
  chars_[num_chars_].offset = static_cast<uint32_t>(bytes_.size());  // sentinel
  for (int64_t first = 0; first < num_chars_;) {
    int64_t last = first;
    const int32_t id = LongestMatch(first, &last);
    if (id < 0) return false;
    out_->ids.push_back(id);
    out_->bytes.push_back({chars_[first].begin, chars_[last - 1].end});
    first = last;
  }
  return true;
}

int32_t WordSplitter::LongestMatch(int64_t first, int64_t* last) {
  const std::string_view prefix =
      first == 0 ? std::string_view() : std::string_view(model_.continuing_prefix);
  const std::string_view word(bytes_);
  const uint32_t start = chars_[first].offset;
  const size_t longest = model_.vocabulary.longest_token_bytes();
  uint64_t hash = first == 0 ? 0 : model_.continuing_hash;
  int64_t i = first;
  for (; i < num_chars_; ++i) {
    const uint32_t end = chars_[i + 1].offset;
    if (prefix.size() + end - start > longest) break;
    hash = PrefixHash::Extend(hash, word.substr(chars_[i].offset, end - chars_[i].offset));
    hashes_[i] = hash;
  }
  for (; i > first; --i) {
    const int32_t id = model_.vocabulary.Find(hashes_[i - 1], prefix,
                                              word.substr(start, chars_[i].offset - start));
    if (id >= 0) {
      *last = i;
      return id;
    }
  }
  return -1;
}

}  // namespace longdoc
