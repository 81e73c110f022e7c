// The stream's own contract: errors, what is emitted when, bounded memory, throughput.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using testing::BertTokenizer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kUnk = 100;

TEST(StreamingTokenizer, EmitsOnlyWhatCannotChange) {
  const auto stream = BertTokenizer().NewStream();
  const auto ids_after = [&](const std::string& bytes) {
    EXPECT_TRUE(stream->Append(bytes).ok());
    return stream->Take().ids;
  };
  EXPECT_THAT(ids_after("doc"), ElementsAre());
  EXPECT_EQ(stream->pending_bytes(), 3);
  EXPECT_THAT(ids_after("ument"), ElementsAre());  // "document", but "documents" may come
  EXPECT_THAT(ids_after("s "), ElementsAre(5491));
  EXPECT_EQ(stream->pending_bytes(), 0);
  EXPECT_THAT(ids_after("[SE"), ElementsAre());    // may become an added token
  EXPECT_THAT(ids_after("X"), ElementsAre(1031));  // it did not: punctuation, word follows
  EXPECT_THAT(ids_after("]"), ElementsAre(3348, 1033));
  EXPECT_THAT(ids_after("[SEP"), ElementsAre());
  EXPECT_THAT(ids_after("]"), ElementsAre(102));
  EXPECT_THAT(ids_after("\xe4\xb8"), ElementsAre());  // part of U+4E2D
  EXPECT_THAT(ids_after("\xad"), ElementsAre(1746));
  EXPECT_THAT(ids_after("a"), ElementsAre());
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_THAT(stream->Take().ids, ElementsAre(1037));
  EXPECT_EQ(stream->num_tokens(), 7);
}

TEST(StreamingTokenizer, BadUtf8NamesTheByteAndSticks) {
  for (const size_t cut : {0, 3, 5, 6, 7}) {
    const std::string text = "word \xe4\xb8 word";
    const auto stream = BertTokenizer().NewStream();
    absl::Status status = stream->Append(text.substr(0, cut));
    if (status.ok()) status = stream->Append(text.substr(cut));
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("byte 5"));
    EXPECT_EQ(stream->Append("x"), status);
    EXPECT_EQ(stream->Finish(), status);
  }
}

TEST(StreamingTokenizer, EndsInsideACharacter) {
  const auto stream = BertTokenizer().NewStream();
  ASSERT_TRUE(stream->Append("abc\xf0\x9f").ok());
  const absl::Status status = stream->Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 3"));
}

TEST(StreamingTokenizer, NothingAfterFinish) {
  const auto stream = BertTokenizer().NewStream();
  ASSERT_TRUE(stream->Finish().ok());
  EXPECT_EQ(stream->Append("a").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(stream->Finish().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Encode, SpecialTokensHaveEmptyRanges) {
  const auto tokens = BertTokenizer().Encode("caf\u00e9!", true);
  ASSERT_TRUE(tokens.ok());
  EXPECT_THAT(tokens->ids, ElementsAre(101, 7668, 999, 102));
  EXPECT_THAT(tokens->bytes,
              ElementsAre(ByteRange{0, 0}, ByteRange{0, 5}, ByteRange{5, 6}, ByteRange{6, 6}));
  const auto empty = BertTokenizer().Encode("", true);
  ASSERT_TRUE(empty.ok());
  EXPECT_THAT(empty->ids, ElementsAre(101, 102));
}

// Feeds `unit` until `total` bytes, checking that almost nothing is held.
TokenSequence FeedMany(const std::string& unit, size_t total) {
  const auto stream = BertTokenizer().NewStream();
  std::string block;
  while (block.size() < 1'000'000) block += unit;
  int64_t most = 0;
  for (size_t fed = 0; fed < total; fed += block.size()) {
    EXPECT_TRUE(stream->Append(block).ok());
    most = std::max(most, stream->pending_bytes());
  }
  EXPECT_LE(most, 64 << 10);
  EXPECT_TRUE(stream->Finish().ok());
  return stream->Take();
}

TEST(StreamingTokenizer, EndlessWordIsOneUnknownToken) {
  const TokenSequence ascii = FeedMany("a", 100'000'000);
  EXPECT_THAT(ascii.ids, ElementsAre(kUnk));
  EXPECT_THAT(ascii.bytes, ElementsAre(ByteRange{0, 100'000'000}));
  EXPECT_THAT(FeedMany("\u0e01", 3'000'000).ids, ElementsAre(kUnk));
}

TEST(StreamingTokenizer, EndlessMarksAndControlsAreDropped) {
  EXPECT_THAT(FeedMany("\u0301\u0323", 3'000'000).ids, ElementsAre());
  EXPECT_THAT(FeedMany("\x01", 3'000'000).ids, ElementsAre());
  // Combining, but not nonspacing: kept, sorted in runs of bounded length.
  EXPECT_THAT(FeedMany("\U0001D165\u302e", 3'000'000).ids, ElementsAre(kUnk));
}

TEST(StreamingTokenizer, WordLimitCountsNormalizedCharacters) {
  std::string marked;
  for (int i = 0; i < 100; ++i) marked += "e\u0301\u0323";
  const auto tokens = BertTokenizer().Encode(marked, false);
  ASSERT_TRUE(tokens.ok());
  EXPECT_GT(tokens->ids.size(), 1u);  // 100 letters
  EXPECT_THAT(BertTokenizer().Encode(marked + "e", false)->ids, ElementsAre(kUnk));
}

TEST(StreamingTokenizer, Throughput) {
  std::string text;
  const char* const words[] = {"The tokenizer ",        "splits words, ", "internationalization ",
                               "of documents (v3.14) ", "embeddings; ",   "attention\n"};
  for (size_t i = 0; text.size() < 8'000'000; i = i * 5 + 1) text += words[i % 6];
  const auto start = std::chrono::steady_clock::now();
  const auto tokens = BertTokenizer().Encode(text, false);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(tokens.ok());
  EXPECT_GT(tokens->ids.size(), 1'000'000u);
  std::printf("English: %.1f MB/s, %.2f M tokens/s\n", text.size() / 1e6 / seconds.count(),
              tokens->ids.size() / 1e6 / seconds.count());
}

}  // namespace
}  // namespace longdoc
