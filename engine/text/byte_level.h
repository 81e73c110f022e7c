// GPT-2's alphabet: every byte has a printable character, and vocabularies are spelled in those.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace longdoc {

// The character of `byte`: itself for 33-126, 161-172 and 174-255; U+0100 and on for the others, in
// order (so that a space is U+0120).
char32_t ByteLevelChar(uint8_t byte);

// Appends the characters of `bytes` to `out`, in UTF-8.
void AppendByteLevel(std::string_view bytes, std::string* out);

// The bytes that `token` (valid UTF-8) spells into `*bytes`; false if it has another character.
bool ByteLevelBytes(std::string_view token, std::string* bytes);

}  // namespace longdoc
