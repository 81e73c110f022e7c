// UTF-8 validation and the character tables.
#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/text/unicode.h"

namespace longdoc {
namespace {

// Offset that the error names, -1 if there is none; fed in pieces of `piece` bytes.
int64_t ErrorOffset(const std::string& text, size_t piece) {
  Utf8Validator validator;
  absl::Status status;
  for (size_t i = 0; i < text.size() && status.ok(); i += piece) {
    status = validator.Append(std::string_view(text).substr(i, piece));
  }
  if (status.ok()) status = validator.Finish();
  if (status.ok()) return -1;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(validator.Append("a"), status);  // sticky
  const std::string message(status.message());
  return std::stoll(message.substr(message.rfind(' ') + 1));
}

TEST(Utf8Validator, NamesTheFirstByteOfTheBadCharacter) {
  const struct {
    std::string bytes;
    int64_t offset;  // within bytes
  } cases[] = {
      {"abc", -1},
      {"\u00e9\u4e2d\U0001F600\U0010FFFF", -1},
      {std::string("\0", 1), -1},
      {"\x80", 0},
      {"a\xc0\x80", 1},
      {"\xc1\xbf", 0},
      {"\xe0\x9f\xbf", 0},      // overlong
      {"\xed\xa0\x80", 0},      // surrogate
      {"\xf0\x8f\xbf\xbf", 0},  // overlong
      {"\xf4\x90\x80\x80", 0},  // above U+10FFFF
      {"\xf5\x80\x80\x80", 0},
      {"\xff", 0},
      {"\xe4\xb8", 0},  // ends inside
      {"\xe4\xb8"
       "a",
       0},
      {"\u00e9\xf0\x9f\x98", 2},
      {"\u00e9\xc3\xc3\xa9", 2},
  };
  for (const auto& c : cases) {
    for (const int prefix : {0, 1, 7, 8, 9, 31}) {
      const std::string text = std::string(prefix, 'x') + c.bytes;
      const int64_t want = c.offset < 0 ? -1 : c.offset + prefix;
      for (const size_t piece : {size_t{1}, size_t{2}, size_t{3}, size_t{100}}) {
        EXPECT_EQ(ErrorOffset(text, piece), want) << ::testing::PrintToString(text) << piece;
      }
    }
  }
}

TEST(Utf8Validator, AcceptsExactlyTheScalarValues) {
  for (char32_t cp = 0; cp < 0x110000; cp += cp < 0x3000 ? 1 : 61) {
    std::string text;
    AppendUtf8(cp, &text);
    const bool surrogate = cp >= 0xD800 && cp < 0xE000;
    ASSERT_EQ(ErrorOffset(text, 1), surrogate ? 0 : -1) << static_cast<uint32_t>(cp);
    if (!surrogate) {
      ASSERT_EQ(DecodeUtf8(text.data()), cp);
      ASSERT_EQ(Utf8Length(static_cast<uint8_t>(text[0])), static_cast<int>(text.size()));
    }
  }
}

TEST(Unicode, ClassesOfKnownCharacters) {
  const CharClasses& classes = CharClasses::Get();
  EXPECT_EQ(classes['a'], 0);
  EXPECT_EQ(classes['A'], kCharLower);
  EXPECT_EQ(classes['$'], kCharPunctuation);
  EXPECT_EQ(classes['\t'], kCharSpace);
  EXPECT_EQ(classes[0x0B], kCharSpace | kCharRemoved);
  EXPECT_EQ(classes[0x200B], kCharRemoved);
  EXPECT_EQ(classes[0x0301], kCharMark | kCharNfd);
  EXPECT_EQ(classes[0x2B81F], kCharChinese);
  EXPECT_EQ(classes[0x2B820], 0);  // the gap in the library's ranges
  EXPECT_EQ(classes[0x2B91F], 0);
  EXPECT_EQ(classes[0x2B920], kCharChinese);
  EXPECT_EQ(classes[0x378], 0);  // unassigned: kept
  EXPECT_EQ(classes[0x10FFFF], 0);
}

TEST(Unicode, Mappings) {
  const CodePoints hangul = Decompose(0xD55C);
  ASSERT_EQ(hangul.size, 3);
  EXPECT_EQ(hangul.at[0], 0x1112u);
  EXPECT_EQ(hangul.at[1], 0x1161u);
  EXPECT_EQ(hangul.at[2], 0x11ABu);
  EXPECT_EQ(Decompose(0x1F82).size, 4);  // the longest: alpha with three marks
  EXPECT_EQ(Decompose(0x11938).size, 1);
  EXPECT_EQ(CombiningClass(0x0301), 230);
  EXPECT_EQ(CombiningClass(0x0C3C), 0);  // newer than the library's table
  const CodePoints dotted = ToLower(0x130);
  ASSERT_EQ(dotted.size, 2);
  EXPECT_EQ(dotted.at[1], 0x307u);
  EXPECT_EQ(ToLower(0x3A3).at[0], 0x3C3u);
  // Nothing decomposes to more than CodePoints holds.
  for (char32_t cp = 0; cp < 0x30000; ++cp) ASSERT_GE(Decompose(cp).size, 1);
}

}  // namespace
}  // namespace longdoc
