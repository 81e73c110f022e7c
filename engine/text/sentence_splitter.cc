#include "engine/text/sentence_splitter.h"

#include "engine/text/unicode.h"

namespace longdoc {
namespace {

bool IsCjkTerminator(char32_t cp) { return cp == 0x3002 || cp == 0xFF01 || cp == 0xFF1F; }

bool IsTerminator(char32_t cp) { return cp == '.' || cp == '!' || cp == '?'; }

bool IsCloser(char32_t cp) {
  switch (cp) {
    case '"':
    case '\'':
    case ')':
    case ']':
    case '}':
    case 0xBB:    // »
    case 0x2019:  // ’
    case 0x201D:  // ”
    case 0x203A:  // ›
    case 0x3009:  // 〉
    case 0x300B:  // 》
    case 0x300D:  // 」
    case 0x300F:  // 』
    case 0x3011:  // 】
    case 0x3015:  // 〕
    case 0xFF09:  // ）
    case 0xFF3D:  // ］
    case 0xFF5D:  // ｝
      return true;
    default:
      return false;
  }
}

}  // namespace

void SentenceSplitter::Append(std::string_view bytes) {
  for (const char c : bytes) {
    const uint8_t byte = static_cast<uint8_t>(c);
    const int64_t offset = num_bytes_++;
    if (needed_ > 0 && (byte & 0xC0) == 0x80) {
      partial_ = partial_ << 6 | (byte & 0x3F);
      if (--needed_ == 0) Char(partial_, begin_);
      continue;
    }
    needed_ = 0;  // an incomplete character is dropped; its bytes stay in the sentence
    begin_ = offset;
    if (byte < 0x80) {
      Char(byte, offset);
    } else if (byte >= 0xC2 && byte <= 0xF4) {
      needed_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
      partial_ = byte & (0x3F >> needed_);
    } else {
      Char(0xFFFD, offset);
    }
  }
}

void SentenceSplitter::Char(char32_t cp, int64_t offset) {
  const bool space = cp <= 0x10FFFF && (CharClasses::Get()[cp] & kCharSpace) != 0;
  if (space) {
    if (cp == '\n') ++line_feeds_;
    const bool terminated = state_ == State::kTerminated || state_ == State::kTerminatedCjk;
    if (terminated || (line_feeds_ >= 2 && has_content_)) state_ = State::kEnded;
    return;
  }
  line_feeds_ = 0;
  const bool closer = IsCloser(cp);
  const bool terminator = IsTerminator(cp);
  const bool cjk = IsCjkTerminator(cp);
  if (state_ == State::kEnded ||
      (state_ == State::kTerminatedCjk && !closer && !terminator && !cjk)) {
    ends_.push_back(offset);
    state_ = State::kInside;
  }
  has_content_ = true;
  if (cjk) {
    state_ = State::kTerminatedCjk;
  } else if (terminator) {
    if (state_ != State::kTerminatedCjk) state_ = State::kTerminated;
  } else if (!closer) {
    state_ = State::kInside;
  }
}

void SentenceSplitter::Finish() {
  if (num_bytes_ > 0 && (ends_.empty() || ends_.back() != num_bytes_)) ends_.push_back(num_bytes_);
}

}  // namespace longdoc
