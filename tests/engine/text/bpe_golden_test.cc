// Byte-level BPE: ids and byte offsets against the Hugging Face tokenizers library; any split.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using testing::BpeGolden;
using testing::BpeGoldens;
using testing::BpeTokenizer;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::Fnv;
using testing::Ids;
using testing::Numbers;
using testing::Offsets;

const BpeGoldens& Goldens() {
  static const auto* const goldens = new BpeGoldens(testing::ReadBpeGoldens());
  return *goldens;
}

TokenSequence Encode(const std::string& variant, const std::string& text) {
  const auto tokens = BpeTokenizer(variant).Encode(text, /*add_special_tokens=*/false);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return tokens.ok() ? *tokens : TokenSequence();
}

// Checks a line's three variants as `encode` makes them.
template <typename EncodeFn>
void Check(const BpeGolden& golden, const EncodeFn& encode) {
  SCOPED_TRACE(::testing::PrintToString(golden.text));
  const TokenSequence roberta = encode("roberta");
  EXPECT_THAT(Ids(roberta), ElementsAreArray(golden.ids));
  EXPECT_THAT(Offsets(roberta), ElementsAreArray(golden.offsets));
  const TokenSequence gpt2 = encode("gpt2"), prefixed = encode("prefixed");
  EXPECT_EQ(Fnv(Numbers(gpt2)), golden.gpt2_hash) << ::testing::PrintToString(Numbers(gpt2));
  EXPECT_EQ(Fnv(Numbers(prefixed)), golden.prefixed_hash)
      << ::testing::PrintToString(Numbers(prefixed));
}

TEST(BpeGolden, IdsAndOffsetsEqual) {
  ASSERT_GE(Goldens().lines.size(), 500u);
  for (const BpeGolden& golden : Goldens().lines) {
    Check(golden, [&](const std::string& variant) { return Encode(variant, golden.text); });
    if (HasFailure()) return;
  }
}

TEST(BpeGolden, AnySplitGivesTheSame) {
  std::mt19937 rng(11);
  for (const BpeGolden& golden : Goldens().lines) {
    for (const size_t max_piece : {size_t{1}, size_t{5}}) {
      Check(golden, [&](const std::string& variant) {
        return testing::EncodeInPieces(BpeTokenizer(variant), golden.text, max_piece, &rng);
      });
    }
    if (HasFailure()) return;
  }
}

// The texts of WordPiece's goldens: every assigned character, many scripts, real lines.
TEST(BpeGolden, SharedTextsEqual) {
  const auto wordpiece = testing::ReadTokenizerGoldens();
  const std::vector<std::string>& hashes = Goldens().shared_hashes;
  ASSERT_GE(hashes.size(), 4000u);
  ASSERT_LE(hashes.size(), wordpiece.size());
  int failures = 0;
  for (size_t i = 0; i < hashes.size(); ++i) {
    std::vector<int64_t> numbers;
    for (const char* variant : {"roberta", "gpt2", "prefixed"}) {
      const std::vector<int64_t> some = Numbers(Encode(variant, wordpiece[i].text));
      numbers.insert(numbers.end(), some.begin(), some.end());
    }
    if (Fnv(numbers) != hashes[i] && ++failures <= 5) {
      ADD_FAILURE() << "differs: " << ::testing::PrintToString(wordpiece[i].text);
    }
  }
  EXPECT_EQ(failures, 0);
}

// All lines as one document, in pieces larger and smaller than the inner buffer.
TEST(BpeGolden, LongDocumentStreamsLikeOneShot) {
  std::string text;
  for (const BpeGolden& golden : Goldens().lines) text += golden.text + "\n";
  for (const auto& golden : testing::ReadTokenizerGoldens()) text += golden.text + "\n";
  const auto start = std::chrono::steady_clock::now();
  const TokenSequence whole = Encode("roberta", text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("mixed scripts: %.1f MB/s\n",
              static_cast<double>(text.size()) / 1e6 / seconds.count());
  std::mt19937 rng(8);
  for (const size_t max_piece : {size_t{13}, size_t{100'000}}) {
    const TokenSequence tokens =
        testing::EncodeInPieces(BpeTokenizer("roberta"), text, max_piece, &rng);
    EXPECT_TRUE(tokens.ids == whole.ids);
    EXPECT_TRUE(tokens.bytes == whole.bytes);
  }
}

TEST(BpeGolden, OffsetsAreCharacterBorders) {
  for (const BpeGolden& golden : Goldens().lines) {
    const auto is_border = [&](int64_t i) {
      return i == static_cast<int64_t>(golden.text.size()) ||
             (static_cast<uint8_t>(golden.text[i]) & 0xC0) != 0x80;
    };
    for (const char* variant : {"roberta", "gpt2", "prefixed"}) {
      for (const ByteRange& range : Encode(variant, golden.text).bytes) {
        ASSERT_LE(0, range.begin);
        ASSERT_LE(range.begin, range.end);
        ASSERT_LE(range.end, static_cast<int64_t>(golden.text.size()));
        ASSERT_TRUE(is_border(range.begin) && is_border(range.end)) << golden.text;
      }
    }
  }
}

TEST(BpeStream, EmitsOnlyWhatCannotChange) {
  const Tokenizer& tokenizer = BpeTokenizer("prefixed");
  const auto stream = tokenizer.NewStream();
  const auto text_after = [&](const std::string& bytes) {
    EXPECT_TRUE(stream->Append(bytes).ok());
    std::string text;
    for (const int32_t id : stream->Take().ids) text += std::string(tokenizer.TokenText(id)) + "|";
    return text;
  };
  EXPECT_EQ(text_after("the"), "");
  EXPECT_EQ(stream->pending_bytes(), 3);
  EXPECT_EQ(text_after("'"), "\u0120the|");
  EXPECT_EQ(text_after("r"), "");
  EXPECT_EQ(text_after("s"), "'|");  // no contraction: "rs" begins a piece
  EXPECT_EQ(text_after(" \n "), "r|s|");
  EXPECT_EQ(stream->pending_bytes(), 3);
  EXPECT_EQ(text_after("<l"), "");
  EXPECT_EQ(text_after(">"), "<l>|");  // took the white space
  EXPECT_EQ(text_after("<r>"), "");    // takes what follows
  EXPECT_EQ(text_after(" \t"), "");
  EXPECT_EQ(stream->pending_bytes(), 0);
  EXPECT_EQ(text_after("2x"), "<r>|\u01202|");
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_THAT(stream->Take().bytes, ElementsAre(ByteRange{18, 19}));
}

// Feeds `unit` until `total` bytes, checking that little is held.
TokenSequence FeedMany(const std::string& unit, size_t total) {
  const auto stream = BpeTokenizer("roberta").NewStream();
  std::string block;
  while (block.size() < 300'000) block += unit;
  int64_t most = 0;
  for (size_t fed = 0; fed < total; fed += block.size()) {
    EXPECT_TRUE(stream->Append(block).ok());
    most = std::max(most, stream->pending_bytes());
  }
  EXPECT_LE(most, static_cast<int64_t>(kMaxPieceBytes) + 4);
  EXPECT_TRUE(stream->Finish().ok());
  return stream->Take();
}

TEST(BpeStream, EndlessRunsAreCut) {
  for (const char* unit : {"a", "\u4e2d", " ", "\u3000", "7", "\u0301", "'", "\x01"}) {
    const TokenSequence tokens = FeedMany(unit, 900'000);
    ASSERT_FALSE(tokens.ids.empty());
    EXPECT_EQ(tokens.bytes.back().end, 900'000);
  }
}

TEST(BpeStream, CutsDoNotDependOnTheSplit) {
  std::mt19937 rng(3);
  const std::string word(kMaxPieceBytes - 3, 'e');
  std::string wide;
  while (wide.size() < 2 * kMaxPieceBytes) wide += "\u4e2d";
  const std::string spaces(3 * kMaxPieceBytes + 1, ' ');
  for (const std::string& text :
       {word + "\u00e9\u00e9 x", " " + word + "tthe end", "a" + wide + "b",
        spaces + "<mask>" + spaces, "x" + spaces + "\u3000y",
        "'" + std::string(2 * kMaxPieceBytes, '!') + "'s"}) {
    const TokenSequence whole = Encode("roberta", text);
    for (const size_t max_piece : {size_t{3}, size_t{40'000}}) {
      const TokenSequence tokens =
          testing::EncodeInPieces(BpeTokenizer("roberta"), text, max_piece, &rng);
      EXPECT_TRUE(tokens.ids == whole.ids);
      EXPECT_TRUE(tokens.bytes == whole.bytes);
    }
  }
}

TEST(BpeStream, BadUtf8NamesTheByte) {
  const auto tokens = BpeTokenizer("gpt2").Encode("ab \xc0\x80", false);
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokens.status().message()), ::testing::HasSubstr("byte 3"));
}

TEST(BpeStream, Throughput) {
  std::string text;
  const char* const words[] = {"The tokenizer ",        "splits words, ", "internationalization ",
                               "of documents (v3.14) ", "embeddings; ",   "attention\n"};
  for (size_t i = 0; text.size() < 4'000'000; i = i * 5 + 1) text += words[i % 6];
  const auto start = std::chrono::steady_clock::now();
  const TokenSequence tokens = Encode("roberta", text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_GT(tokens.ids.size(), 500'000u);
  std::printf("English: %.1f MB/s, %.2f M tokens/s\n",
              static_cast<double>(text.size()) / 1e6 / seconds.count(),
              static_cast<double>(tokens.ids.size()) / 1e6 / seconds.count());
}

}  // namespace
}  // namespace longdoc
