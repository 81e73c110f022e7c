#include "engine/text/piece_splitter.h"

#include <algorithm>

#include "engine/text/utf8.h"

namespace longdoc {

void PieceSplitter::Append(std::string_view text, int64_t base) {
  const auto length_at = [&](size_t i) -> size_t {
    return static_cast<size_t>(Utf8Length(static_cast<uint8_t>(text[i])));
  };
  const auto kind_at = [&](size_t i) { return kinds_[DecodeUtf8(text.data() + i)]; };
  for (size_t i = 0; i < text.size();) {
    const PieceKind kind = kind_at(i);
    size_t end = i + length_at(i);
    if (state_ == State::kRun && kind == run_kind_) {
      while (end < text.size() && kind_at(end) == kind) end += length_at(end);
      Extend(text.substr(i, end - i));
    } else {
      Step(kind, text.substr(i, end - i), base + static_cast<int64_t>(i));
    }
    i = end;
  }
}

void PieceSplitter::Step(PieceKind kind, std::string_view character, int64_t at) {
  switch (state_) {
    case State::kTextStart:
      if (!add_prefix_space_ || character == " ") return Begin(kind, character, at);
      piece_.assign(1, ' ');
      prefix_bytes_ = static_cast<int64_t>(character.size());
      last_bytes_ = 1;
      begin_ = at;
      state_ = State::kSpaces;
      return AfterSpaces(kind, character, at);
    case State::kBetween:
      return Begin(kind, character, at);
    case State::kSpaces:
      return AfterSpaces(kind, character, at);
    case State::kQuote:
      return AfterQuote(kind, character, at);
    case State::kQuoteLetter:
      return AfterQuoteLetter(kind, character, at);
    case State::kRun:
      if (kind == run_kind_) return Extend(character);
      Emit(piece_.size());
      return Begin(kind, character, at);
  }
}

void PieceSplitter::Begin(PieceKind kind, std::string_view character, int64_t at) {
  begin_ = at;
  piece_ = character;
  last_bytes_ = character.size();
  run_kind_ = kind;
  state_ = kind == PieceKind::kSpace ? State::kSpaces
           : character == "'"        ? State::kQuote
                                     : State::kRun;
}

void PieceSplitter::AfterSpaces(PieceKind kind, std::string_view character, int64_t at) {
  if (kind == PieceKind::kSpace) {
    if (piece_.size() + character.size() > kMaxPieceBytes) Emit(piece_.size());
    piece_.append(character);
    last_bytes_ = character.size();
    return;
  }
  if (piece_.size() > last_bytes_) Emit(piece_.size() - last_bytes_);
  if (piece_ == " ") {
    state_ = State::kRun;
    run_kind_ = kind;
    return Extend(character);
  }
  Emit(piece_.size());
  Begin(kind, character, at);
}

void PieceSplitter::AfterQuote(PieceKind kind, std::string_view character, int64_t at) {
  const char c = character[0];
  if (c == 's' || c == 't' || c == 'm' || c == 'd') {
    piece_.push_back(c);
    Emit(2);
    state_ = State::kBetween;
  } else if (c == 'r' || c == 'v' || c == 'l') {
    piece_.push_back(c);
    state_ = State::kQuoteLetter;
  } else {
    state_ = State::kRun;  // of other characters
    Step(kind, character, at);
  }
}

void PieceSplitter::AfterQuoteLetter(PieceKind kind, std::string_view character, int64_t at) {
  if (character == (piece_[1] == 'l' ? "l" : "e")) {
    piece_.append(character);
    Emit(3);
    state_ = State::kBetween;
    return;
  }
  Emit(1);  // the quote is no contraction's; the letter begins a piece
  state_ = State::kRun;
  run_kind_ = PieceKind::kLetter;
  Step(kind, character, at);
}

void PieceSplitter::Extend(std::string_view run) {
  while (piece_.size() + run.size() > kMaxPieceBytes) {
    size_t fits = kMaxPieceBytes - piece_.size();
    while (fits > 0 && (static_cast<uint8_t>(run[fits]) & 0xC0) == 0x80) --fits;
    piece_.append(run.substr(0, fits));
    run.remove_prefix(fits);
    Emit(piece_.size());
  }
  piece_.append(run);
}

void PieceSplitter::Emit(size_t size) {
  sink_->Encode(std::string_view(piece_).substr(0, size), begin_, prefix_bytes_);
  begin_ += static_cast<int64_t>(size) - (prefix_bytes_ > 0 ? 1 : 0);
  piece_.erase(0, size);
  prefix_bytes_ = 0;
}

PieceSplitter::Stripped PieceSplitter::EndText(bool strip) {
  Stripped stripped;
  if (state_ == State::kSpaces && strip) {
    for (size_t i = prefix_bytes_ > 0 ? 1 : 0; i < piece_.size(); ++stripped.chars) {
      i += static_cast<size_t>(Utf8Length(static_cast<uint8_t>(piece_[i])));
    }
    stripped.bytes = pending_bytes();
    piece_.clear();
    prefix_bytes_ = 0;
  }
  if (state_ == State::kQuoteLetter) Emit(1);  // "'" and the letter
  if (!piece_.empty()) Emit(piece_.size());
  state_ = State::kTextStart;
  return stripped;
}

}  // namespace longdoc
