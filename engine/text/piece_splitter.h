// GPT-2's pre-tokenizer as a stream: characters in, pieces out to a BpeEncoder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/bpe_encoder.h"
#include "engine/text/unicode.h"

namespace longdoc {

// Cuts as the leftmost match of
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// does, in one pass: a contraction only where a piece begins; a single U+0020 joins the run behind
// it; of a longer run of white space all but the last character are a piece, and the last one, if
// it is U+0020, joins what follows. A piece is held back until its last character is certain.
//
// A run of more than kMaxPieceBytes is cut there, and the rest goes on as a run of the same kind.
// Not thread-safe.
class PieceSplitter {
 public:
  // `add_prefix_space`: a text that does not begin with U+0020 gets one, which stands for no bytes
  // of its own. `sink` outlives the splitter.
  PieceSplitter(bool add_prefix_space, BpeEncoder* sink)
      : kinds_(PieceKinds::Get()), add_prefix_space_(add_prefix_space), sink_(sink) {}

  // Complete characters; `base` is the offset of text[0] in the document.
  void Append(std::string_view text, int64_t base);

  // Ends the text: the next Append begins a new one. With `strip`, white space at the end is no
  // piece but left to the caller: returns the characters dropped.
  struct Stripped {
    int64_t chars = 0, bytes = 0;
  };
  Stripped EndText(bool strip = false);

  int64_t pending_bytes() const {
    return static_cast<int64_t>(piece_.size()) - (prefix_bytes_ > 0 ? 1 : 0);
  }

 private:
  enum class State {
    kTextStart,    // nothing of this text seen
    kBetween,      // no piece begun
    kSpaces,       // white space
    kQuote,        // "'", which may begin a contraction
    kQuoteLetter,  // "'r", "'v" or "'l"
    kRun,          // characters of run_kind_, perhaps behind a space
  };

  void Step(PieceKind kind, std::string_view character, int64_t at);
  void Begin(PieceKind kind, std::string_view character, int64_t at);
  void AfterSpaces(PieceKind kind, std::string_view character, int64_t at);
  void AfterQuote(PieceKind kind, std::string_view character, int64_t at);
  void AfterQuoteLetter(PieceKind kind, std::string_view character, int64_t at);
  void Extend(std::string_view run);
  // Emits the first `size` bytes of the piece, and keeps the rest as the piece.
  void Emit(size_t size);

  const PieceKinds& kinds_;
  const bool add_prefix_space_;
  BpeEncoder* const sink_;
  State state_ = State::kTextStart;
  PieceKind run_kind_ = PieceKind::kOther;
  std::string piece_;         // bytes since the last piece
  int64_t begin_ = 0;         // offset of its first byte in the document (behind the prefix)
  int64_t prefix_bytes_ = 0;  // > 0: piece_[0] is the prefix space, for a character of these bytes
  size_t last_bytes_ = 0;     // kSpaces: length of its last character
};

}  // namespace longdoc
