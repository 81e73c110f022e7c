#include "engine/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace longdoc {
namespace {

struct CodePointRange {
  char32_t first, last;  // inclusive
};

struct LowerException {
  char32_t from, to, second;  // second: 0 when the lower case is one code point
};

#include "engine/text/unicode_tables.inc"

// Above this no character decomposes or has case in utf8proc's Unicode 15.
constexpr char32_t kMappedEnd = 0x30000;

template <size_t N>
bool Contains(const CodePointRange (&ranges)[N], char32_t cp) {
  const auto* it = std::partition_point(std::begin(ranges), std::end(ranges),
                                        [cp](const CodePointRange& r) { return r.last < cp; });
  return it != std::end(ranges) && it->first <= cp;
}

template <size_t N>
void SetBits(const CodePointRange (&ranges)[N], uint8_t bit, std::vector<uint8_t>* bits) {
  for (const CodePointRange& range : ranges) {
    for (char32_t cp = range.first; cp <= range.last; ++cp) (*bits)[cp] |= bit;
  }
}

CodePoints Single(char32_t cp) {
  CodePoints out;
  out.at[0] = cp;
  out.size = 1;
  return out;
}

}  // namespace

CharClasses::CharClasses() : bits_(0x110000) {
  SetBits(kRemovedRanges, kCharRemoved, &bits_);
  SetBits(kSpaceRanges, kCharSpace, &bits_);
  SetBits(kPunctuationRanges, kCharPunctuation, &bits_);
  SetBits(kNonspacingMarkRanges, kCharMark, &bits_);
  SetBits(kChineseRanges, kCharChinese, &bits_);
  for (char32_t cp = 0; cp < kMappedEnd; ++cp) {
    if (CombiningClass(cp) != 0 || Decompose(cp).at[0] != cp) bits_[cp] |= kCharNfd;
    if (ToLower(cp).at[0] != cp) bits_[cp] |= kCharLower;
  }
}

const CharClasses& CharClasses::Get() {
  static const CharClasses* const classes = new CharClasses;  // never destroyed: used by threads
  return *classes;
}

PieceKinds::PieceKinds() : kinds_(0x110000, PieceKind::kOther) {
  for (char32_t cp = 0; cp < kinds_.size(); ++cp) {
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(cp))) {
      case UTF8PROC_CATEGORY_LU:
      case UTF8PROC_CATEGORY_LL:
      case UTF8PROC_CATEGORY_LT:
      case UTF8PROC_CATEGORY_LM:
      case UTF8PROC_CATEGORY_LO:
        kinds_[cp] = PieceKind::kLetter;
        break;
      case UTF8PROC_CATEGORY_ND:
      case UTF8PROC_CATEGORY_NL:
      case UTF8PROC_CATEGORY_NO:
        kinds_[cp] = PieceKind::kNumber;
        break;
      default:
        break;
    }
  }
  const auto set = [this](const auto& ranges, PieceKind kind) {
    for (const CodePointRange& r : ranges) {
      std::fill(kinds_.begin() + r.first, kinds_.begin() + r.last + 1, kind);
    }
  };
  set(kNewLetterRanges, PieceKind::kLetter);
  set(kNewNumberRanges, PieceKind::kNumber);
  set(kSpaceRanges, PieceKind::kSpace);
}

const PieceKinds& PieceKinds::Get() {
  static const PieceKinds* const kinds = new PieceKinds;  // never destroyed: used by threads
  return *kinds;
}

CodePoints Decompose(char32_t cp) {
  if (cp < 0xC0 || Contains(kNotDecomposedRanges, cp)) return Single(cp);
  std::array<utf8proc_int32_t, 8> buffer;
  int boundary = 0;
  const utf8proc_ssize_t n = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(cp), buffer.data(), buffer.size(),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
  CodePoints out;
  if (n < 1 || n > static_cast<utf8proc_ssize_t>(out.at.size())) return Single(cp);
  for (utf8proc_ssize_t i = 0; i < n; ++i) out.at[i] = static_cast<char32_t>(buffer[i]);
  out.size = static_cast<int>(n);
  return out;
}

uint8_t CombiningClass(char32_t cp) {
  const utf8proc_propval_t combining_class =
      utf8proc_get_property(static_cast<utf8proc_int32_t>(cp))->combining_class;
  if (combining_class == 0 || Contains(kClassZeroRanges, cp)) return 0;
  return static_cast<uint8_t>(combining_class);
}

CodePoints ToLower(char32_t cp) {
  const auto* it = std::partition_point(std::begin(kLowerExceptions), std::end(kLowerExceptions),
                                        [cp](const LowerException& e) { return e.from < cp; });
  if (it == std::end(kLowerExceptions) || it->from != cp) {
    return Single(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(cp))));
  }
  CodePoints out = Single(it->to);
  if (it->second != 0) {
    out.at[1] = it->second;
    out.size = 2;
  }
  return out;
}

}  // namespace longdoc
