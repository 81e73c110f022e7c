#include "engine/text/byte_level.h"

#include <array>

#include "engine/text/utf8.h"

namespace longdoc {
namespace {

constexpr bool IsPrintable(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Alphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, 0x144> bytes{};  // of each character, -1: none; the last one is U+0143
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = IsPrintable(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.chars[static_cast<size_t>(byte)] = c;
    alphabet.bytes[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

char32_t ByteLevelChar(uint8_t byte) { return kAlphabet.chars[byte]; }

void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char c : bytes) AppendUtf8(ByteLevelChar(static_cast<uint8_t>(c)), out);
}

bool ByteLevelBytes(std::string_view token, std::string* bytes) {
  bytes->clear();
  for (size_t i = 0; i < token.size(); i += Utf8Length(static_cast<uint8_t>(token[i]))) {
    const char32_t c = DecodeUtf8(token.data() + i);
    if (c >= kAlphabet.bytes.size() || kAlphabet.bytes[c] < 0) return false;
    bytes->push_back(static_cast<char>(kAlphabet.bytes[c]));
  }
  return true;
}

}  // namespace longdoc
