// Ids and byte offsets against the Hugging Face tokenizers library, one-shot and streamed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using testing::BertTokenizer;
using testing::CharacterTokenizer;
using ::testing::ElementsAreArray;
using testing::Fnv;
using testing::Ids;
using testing::Offsets;
using testing::TokenizerGolden;

const std::vector<TokenizerGolden>& Goldens() {
  static const auto* const goldens =
      new std::vector<TokenizerGolden>(testing::ReadTokenizerGoldens());
  return *goldens;
}

TokenSequence Stream(const std::string& text, size_t max_piece, std::mt19937* rng) {
  return testing::EncodeInPieces(BertTokenizer(), text, max_piece, rng);
}

TEST(TokenizerGolden, HasEnoughLines) {
  EXPECT_GE(Goldens().size(), 10'000u);
  EXPECT_GE(std::count_if(Goldens().begin(), Goldens().end(),
                          [](const TokenizerGolden& g) { return g.full; }),
            500);
}

TEST(TokenizerGolden, IdsAndOffsetsEqual) {
  int failures = 0;
  for (const TokenizerGolden& golden : Goldens()) {
    const auto tokens = BertTokenizer().Encode(golden.text, /*add_special_tokens=*/false);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    if (Fnv(Ids(*tokens)) == golden.ids_hash && Fnv(Offsets(*tokens)) == golden.offsets_hash) {
      continue;
    }
    if (++failures > 10) continue;
    ADD_FAILURE() << "differs: " << ::testing::PrintToString(golden.text);
    if (golden.full) {
      EXPECT_THAT(Ids(*tokens), ElementsAreArray(golden.ids));
      EXPECT_THAT(Offsets(*tokens), ElementsAreArray(golden.offsets));
    }
  }
  EXPECT_EQ(failures, 0) << "of " << Goldens().size() << " lines";
}

TEST(TokenizerGolden, CharactersEqual) {
  int failures = 0;
  for (const TokenizerGolden& golden : Goldens()) {
    const auto tokens = CharacterTokenizer().Encode(golden.text, /*add_special_tokens=*/false);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    if (Fnv(testing::Numbers(*tokens)) != golden.character_hash && ++failures <= 10) {
      ADD_FAILURE() << "differs: " << ::testing::PrintToString(golden.text) << " "
                    << ::testing::PrintToString(Offsets(*tokens));
    }
  }
  EXPECT_EQ(failures, 0) << "of " << Goldens().size() << " lines";
}

TEST(TokenizerGolden, AnySplitGivesTheSame) {
  std::mt19937 rng(7);
  for (const TokenizerGolden& golden : Goldens()) {
    for (const size_t max_piece : {size_t{1}, size_t{7}}) {
      const TokenSequence tokens = Stream(golden.text, max_piece, &rng);
      ASSERT_EQ(Fnv(Ids(tokens)), golden.ids_hash) << ::testing::PrintToString(golden.text);
      ASSERT_EQ(Fnv(Offsets(tokens)), golden.offsets_hash);
    }
  }
}

// All lines as one document: state carried over line borders, blocks larger than the inner buffer.
TEST(TokenizerGolden, LongDocumentStreamsLikeOneShot) {
  std::string text;
  for (const TokenizerGolden& golden : Goldens()) text += golden.text + "\n";
  const auto start = std::chrono::steady_clock::now();
  const auto whole = BertTokenizer().Encode(text, /*add_special_tokens=*/false);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(whole.ok()) << whole.status();
  std::printf("mixed scripts: %.1f MB/s\n", text.size() / 1e6 / seconds.count());
  std::mt19937 rng(8);
  for (const size_t max_piece : {size_t{13}, size_t{100'000}}) {
    const TokenSequence tokens = Stream(text, max_piece, &rng);
    EXPECT_TRUE(tokens.ids == whole->ids);
    EXPECT_TRUE(tokens.bytes == whole->bytes);
  }
}

// Byte ranges name the text: in order, inside it, on character borders.
TEST(TokenizerGolden, OffsetsAreCharacterBorders) {
  for (const TokenizerGolden& golden : Goldens()) {
    const auto tokens = BertTokenizer().Encode(golden.text, /*add_special_tokens=*/false);
    ASSERT_TRUE(tokens.ok());
    const auto is_border = [&](int64_t i) {
      return i == static_cast<int64_t>(golden.text.size()) ||
             (static_cast<uint8_t>(golden.text[i]) & 0xC0) != 0x80;
    };
    for (const ByteRange& range : tokens->bytes) {
      ASSERT_LE(0, range.begin);
      ASSERT_LT(range.begin, range.end);
      ASSERT_LE(range.end, static_cast<int64_t>(golden.text.size()));
      ASSERT_TRUE(is_border(range.begin) && is_border(range.end));
    }
  }
}

}  // namespace
}  // namespace longdoc
