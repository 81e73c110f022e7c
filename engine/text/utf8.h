// UTF-8: incremental validation, and decoding of bytes known to be valid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace longdoc {

// Checks UTF-8 that arrives in pieces, cut anywhere. Rejects what Unicode rejects: overlong forms,
// surrogates, code points above U+10FFFF, stray or missing continuation bytes. Not thread-safe.
class Utf8Validator {
 public:
  // INVALID_ARGUMENT naming the offset (in the whole text) of the first byte of the ill-formed
  // character, the same for any split. Sticky.
  absl::Status Append(std::string_view bytes);
  // INVALID_ARGUMENT if the text ends inside a character.
  absl::Status Finish();

  int64_t num_bytes() const { return num_bytes_; }
  // Bytes of the last, still incomplete character: 0 to 3.
  int pending_bytes() const { return length_; }

 private:
  absl::Status Fail(int64_t offset);

  int64_t num_bytes_ = 0;
  int length_ = 0;                    // bytes seen of the current character, 0 between characters
  int needed_ = 0;                    // continuation bytes still to come
  uint8_t low_ = 0x80, high_ = 0xBF;  // range of the next continuation byte
  absl::Status status_;
};

// Length of the character that starts with `lead`, of valid UTF-8.
inline int Utf8Length(uint8_t lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Code point at `p`, of valid UTF-8 with the whole character readable.
inline char32_t DecodeUtf8(const char* p) {
  const auto byte = [p](int i) { return static_cast<char32_t>(static_cast<uint8_t>(p[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (lead < 0xF0) return (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

// Appends `cp` (a Unicode scalar value) to `out`.
void AppendUtf8(char32_t cp, std::string* out);

}  // namespace longdoc
