// Character classes and mappings of BERT's and GPT-2's tokenization.
//
// The classes equal those of the Hugging Face tokenizers library for every code point (see
// scripts/make_unicode_tables.py); decomposition and most lower-casing come from utf8proc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace longdoc {

// Bits of CharClasses::Get. Several may be set.
enum CharClass : uint8_t {
  kCharRemoved = 1 << 0,      // dropped by clean_text
  kCharSpace = 1 << 1,        // separates words
  kCharPunctuation = 1 << 2,  // a word of its own
  kCharMark = 1 << 3,         // nonspacing mark, dropped by strip_accents
  kCharChinese = 1 << 4,      // gets spaces around it
  kCharNfd = 1 << 5,          // decomposes canonically, or has a combining class != 0
  kCharLower = 1 << 6,        // its lower case is different
};

// Class bits of every code point, one byte each. Immutable after construction; thread-safe.
class CharClasses {
 public:
  // The process-wide table: 1.1 MB, built at the first call (a few milliseconds).
  static const CharClasses& Get();

  // Class bits; `cp` <= 0x10FFFF.
  uint8_t operator[](char32_t cp) const { return bits_[cp]; }

 private:
  CharClasses();
  std::vector<uint8_t> bits_;
};

// What GPT-2's pre-tokenizer tells apart: \s, \p{L}, \p{N} and the rest.
enum class PieceKind : uint8_t { kOther, kSpace, kLetter, kNumber };

// The kind of every code point, one byte each. Immutable after construction; thread-safe.
class PieceKinds {
 public:
  // The process-wide table: 1.1 MB, built at the first call (a few milliseconds).
  static const PieceKinds& Get();

  // `cp` <= 0x10FFFF.
  PieceKind operator[](char32_t cp) const { return kinds_[cp]; }

 private:
  PieceKinds();
  std::vector<PieceKind> kinds_;
};

// A few code points by value; no canonical decomposition of one character is longer than 4.
struct CodePoints {
  std::array<char32_t, 4> at{};
  int size = 0;
};

// Full canonical decomposition (NFD) of one code point, Hangul included; itself if it has none.
CodePoints Decompose(char32_t cp);

// Canonical combining class, 0 for starters.
uint8_t CombiningClass(char32_t cp);

// Lower case without context (so that capital sigma is always U+03C3); U+0130 gives two.
CodePoints ToLower(char32_t cp);

}  // namespace longdoc
