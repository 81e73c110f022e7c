#include "engine/text/bpe_encoder.h"

#include <algorithm>
#include <cstring>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace longdoc {
namespace {

// A long piece leaves scratch behind that short ones never need.
constexpr size_t kKeptSymbols = 4096;

bool IsContinuation(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

// White space, or the letter that spells a space, which the library takes for one here.
bool IsSpace(char32_t cp) { return cp == 0x120 || PieceKinds::Get()[cp] == PieceKind::kSpace; }

// White space at the ends of an added token's text.
struct Spaces {
  int64_t leading_chars = 0, leading_bytes = 0, trailing_bytes = 0;
};

Spaces SpacesOf(std::string_view text) {
  Spaces spaces;
  bool leading = true;
  for (size_t i = 0; i < text.size();) {
    const int64_t length = Utf8Length(static_cast<uint8_t>(text[i]));
    const bool is_space = IsSpace(DecodeUtf8(text.data() + i));
    leading = leading && is_space;
    spaces.leading_chars += leading ? 1 : 0;
    spaces.leading_bytes += leading ? length : 0;
    spaces.trailing_bytes = is_space ? spaces.trailing_bytes + length : 0;
    i += static_cast<size_t>(length);
  }
  return spaces;
}

}  // namespace

absl::Span<const BpeToken> BpeEncoder::Tokens(std::string_view piece) {
  const size_t longest = std::max(model_.longest_piece_bytes(), kMaxCachedBytes);
  if (piece.size() > longest) {
    model_.Merge(piece, &scratch_);
    return scratch_.tokens;
  }
  const uint64_t hash = PrefixHash::Extend(0, piece);
  whole_ = {model_.WholePiece(hash, piece), static_cast<int32_t>(piece.size())};
  if (whole_.id >= 0) return {&whole_, 1};
  if (piece.size() > kMaxCachedBytes) {
    model_.Merge(piece, &scratch_);
    return scratch_.tokens;
  }
  if (cache_ == nullptr) cache_ = std::make_unique<Slot[]>(kCacheSlots);
  Slot& slot = cache_[hash % kCacheSlots];
  if (piece != std::string_view(slot.bytes.data(), slot.num_bytes)) {
    model_.Merge(piece, &scratch_);
    if (scratch_.tokens.size() > kMaxCachedTokens) return scratch_.tokens;
    std::memcpy(slot.bytes.data(), piece.data(), piece.size());
    std::copy(scratch_.tokens.begin(), scratch_.tokens.end(), slot.tokens.begin());
    slot.num_bytes = static_cast<uint8_t>(piece.size());
    slot.num_tokens = static_cast<uint8_t>(scratch_.tokens.size());
  }
  return {slot.tokens.data(), slot.num_tokens};
}

void BpeEncoder::Encode(std::string_view piece, int64_t begin, int64_t prefix_bytes) {
  const int64_t size = static_cast<int64_t>(piece.size());
  const int64_t shift = begin - (prefix_bytes > 0 ? 1 : 0);  // from piece to document
  int64_t first = 0;
  for (const BpeToken& token : Tokens(piece)) {
    const int64_t last = first + token.length;
    // Whole characters, though the token may hold parts of them.
    int64_t char_begin = first, char_end = last;
    while (char_begin > 0 && IsContinuation(piece[char_begin])) --char_begin;
    while (char_end < size && IsContinuation(piece[char_end])) ++char_end;
    ByteRange range{shift + char_begin, shift + char_end};
    const bool at_prefix = prefix_bytes > 0 && first == 0;
    if (at_prefix) range = {begin, std::max(range.end, begin + prefix_bytes)};
    if (trim_.trim) {
      int64_t leading = 0, trailing = 0;
      while (leading < token.length && piece[first + leading] == ' ') ++leading;
      while (trailing < token.length && piece[last - 1 - trailing] == ' ') ++trailing;
      // The prefix is never followed by a space: it is the only one before or after its token.
      if (leading > 0 && !(leading == 1 && KeepsSpace(range.begin))) {
        range.begin = std::min(range.begin + (at_prefix ? prefix_bytes : leading), range.end);
      }
      const int64_t taken = at_prefix && last == 1 ? prefix_bytes : trailing;
      if (trailing > 0) range.end = std::max(range.end - taken, range.begin);
    }
    Push(token.id, range);
    first = last;
  }
  if (scratch_.symbols.capacity() > kKeptSymbols) scratch_ = BpeScratch();
}

void BpeEncoder::EncodeAdded(const Added& added) {
  ByteRange range{added.begin - added.left_bytes, added.end + added.right_bytes};
  if (trim_.trim) {
    const Spaces spaces = SpacesOf(added.content);
    const bool all = spaces.trailing_bytes == static_cast<int64_t>(added.content.size());
    const int64_t leading_chars = added.left_chars + spaces.leading_chars;
    const int64_t all_right = all ? added.right_bytes : 0;
    const bool keep = leading_chars == 1 && all_right == 0 && KeepsSpace(range.begin);
    const int64_t leading = added.left_bytes + spaces.leading_bytes + all_right;
    const int64_t trailing =
        added.right_bytes + spaces.trailing_bytes + (all ? added.left_bytes : 0);
    if (!keep) range.begin += leading;
    range.end = std::max(range.end - trailing, range.begin);
  }
  Push(added.id, range);
}

}  // namespace longdoc
