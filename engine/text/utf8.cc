#include "engine/text/utf8.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace longdoc {
namespace {

// First position >= i whose byte is not ASCII.
size_t SkipAscii(std::string_view bytes, size_t i) {
  while (i + sizeof(uint64_t) <= bytes.size()) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    if ((word & 0x8080808080808080u) != 0) break;
    i += sizeof(word);
  }
  while (i < bytes.size() && static_cast<uint8_t>(bytes[i]) < 0x80) ++i;
  return i;
}

}  // namespace

absl::Status Utf8Validator::Fail(int64_t offset) {
  status_ = absl::InvalidArgumentError(
      absl::StrFormat("text is not valid UTF-8: ill-formed character at byte %d", offset));
  return status_;
}

absl::Status Utf8Validator::Append(std::string_view bytes) {
  if (!status_.ok()) return status_;
  const int64_t base = num_bytes_;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (needed_ == 0) {
      i = SkipAscii(bytes, i);
      if (i == bytes.size()) break;
    }
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const int64_t position = base + static_cast<int64_t>(i);
    if (needed_ > 0) {
      if (byte < low_ || byte > high_) return Fail(position - length_);
      low_ = 0x80;
      high_ = 0xBF;
      length_ = --needed_ == 0 ? 0 : length_ + 1;
      continue;
    }
    // C0, C1 would be overlong; F5 and above lie beyond U+10FFFF.
    if (byte < 0xC2 || byte > 0xF4) return Fail(position);
    needed_ = Utf8Length(byte) - 1;
    length_ = 1;
    low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;   // overlong
    high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;  // surrogates, > U+10FFFF
  }
  num_bytes_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status Utf8Validator::Finish() {
  if (!status_.ok()) return status_;
  if (needed_ == 0) return absl::OkStatus();
  return Fail(num_bytes_ - length_);
}

void AppendUtf8(char32_t cp, std::string* out) {
  if (cp < 0x80) {
    out->push_back(static_cast<char>(cp));
  } else if (cp < 0x800) {
    out->push_back(static_cast<char>(0xC0 | cp >> 6));
    out->push_back(static_cast<char>(0x80 | (cp & 0x3F)));
  } else if (cp < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | cp >> 12));
    out->push_back(static_cast<char>(0x80 | (cp >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (cp & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | cp >> 18));
    out->push_back(static_cast<char>(0x80 | (cp >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (cp >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (cp & 0x3F)));
  }
}

}  // namespace longdoc
