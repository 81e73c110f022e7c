#include "engine/text/added_tokens.h"

#include <algorithm>
#include <cstring>

namespace longdoc {

void AddedTokens::Add(std::string_view content, int32_t id, bool strip_left, bool strip_right) {
  tokens_.push_back({std::string(content), id, strip_left, strip_right});
}

void AddedTokens::Finish() {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const Token& a, const Token& b) { return a.content < b.content; });
  for (const Token& token : tokens_) starts_[static_cast<uint8_t>(token.content[0])] = true;
}

size_t AddedTokens::NextCandidate(std::string_view text, size_t from) const {
  if (tokens_.empty()) return text.size();
  while (from < text.size() && !starts_[static_cast<uint8_t>(text[from])]) ++from;
  return from;
}

AddedTokens::Match AddedTokens::MatchAt(std::string_view text, bool at_end) const {
  Match match;
  auto low = tokens_.begin();
  auto high = tokens_.end();
  // [low, high): the tokens that begin with text[0..depth). Unsigned order, as std::string's.
  for (size_t depth = 0; low != high; ++depth) {
    if (low->content.size() == depth) {  // the shortest sorts first
      match = {Match::kFound, depth, low->id, low->content, low->strip_left, low->strip_right};
      if (++low == high) break;
    }
    if (depth == text.size()) {
      if (!at_end) match = {Match::kNeedMore, 0, -1, {}, false, false};
      break;
    }
    const uint8_t byte = static_cast<uint8_t>(text[depth]);
    const auto at_depth = [depth](const Token& t) {
      return static_cast<uint8_t>(t.content[depth]);
    };
    low = std::partition_point(low, high, [&](const Token& t) { return at_depth(t) < byte; });
    high = std::partition_point(low, high, [&](const Token& t) { return at_depth(t) == byte; });
  }
  return match;
}

}  // namespace longdoc
