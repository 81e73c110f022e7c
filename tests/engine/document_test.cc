#include "engine/document.h"

#include <random>

#include "engine/base/error_reason.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longdoc {
namespace {

using ::testing::ElementsAre;
using Kind = PassageSpec::Kind;

// Words of one letter: token i of "a b c …" lies at bytes [2i, 2i+1).
std::unique_ptr<Tokenizer> Letters() {
  std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\n";
  for (char c = 'a'; c <= 'z'; ++c) vocab += std::string(1, c) + "\n";
  for (char c = 'a'; c <= 'z'; ++c) vocab += "##" + std::string(1, c) + "\n";
  auto tokenizer = ParseVocabTxt(vocab);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

PassageSpec Spec(Kind kind, int64_t size = 1, std::vector<ByteRange> ranges = {}) {
  PassageSpec spec;
  spec.kind = kind;
  spec.size = size;
  spec.ranges = std::move(ranges);
  return spec;
}

class DocumentTest : public ::testing::Test {
 protected:
  std::unique_ptr<DocumentBuilder> Builder(std::vector<PassageSpec> specs,
                                           Overflow overflow = Overflow::kError,
                                           DocumentLimits limits = {}) {
    auto builder = DocumentBuilder::Create(*tokenizer_, std::move(specs), overflow, limits);
    EXPECT_TRUE(builder.ok()) << builder.status();
    return *std::move(builder);
  }
  TokenizedDocument Build(std::string_view text, std::vector<PassageSpec> specs,
                          Overflow overflow = Overflow::kError, DocumentLimits limits = {}) {
    auto builder = Builder(std::move(specs), overflow, limits);
    EXPECT_TRUE(builder->AppendText(text).ok());
    auto doc = builder->Finish();
    EXPECT_TRUE(doc.ok()) << doc.status();
    return *std::move(doc);
  }
  static std::vector<TokenSpan> Spans(const TokenizedDocument& doc, int32_t granularity) {
    std::vector<TokenSpan> spans;
    for (const Passage& p : doc.passages) {
      if (p.granularity == granularity) spans.push_back(p.tokens);
    }
    return spans;
  }

  std::unique_ptr<Tokenizer> tokenizer_ = Letters();
};

TEST_F(DocumentTest, SpecialTokensBelongToTheFirstAndLastPassage) {
  const TokenizedDocument doc = Build("a b c d e", {Spec(Kind::kTokens, 2)});
  ASSERT_EQ(doc.ids.size(), 7u);
  EXPECT_EQ(doc.ids.front(), 2);
  EXPECT_EQ(doc.ids.back(), 3);
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 3}, TokenSpan{3, 5}, TokenSpan{5, 7}));
  EXPECT_EQ(doc.passages[1].bytes, (ByteRange{4, 7}));
  EXPECT_EQ(doc.passages[2].index, 2);
}

TEST_F(DocumentTest, OnePassageHoldsEverything) {
  const TokenizedDocument doc = Build("a b", {Spec(Kind::kTokens, 256)});
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 4}));
}

TEST_F(DocumentTest, SeveralGranularitiesInOneRequest) {
  const TokenizedDocument doc =
      Build("a b. c d. e", {Spec(Kind::kSentences, 1), Spec(Kind::kSentences, 2),
                            Spec(Kind::kByteRanges, 0, {{0, 1}, {2, 6}, {10, 11}})});
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 4}, TokenSpan{4, 7}, TokenSpan{7, 9}));
  EXPECT_THAT(Spans(doc, 1), ElementsAre(TokenSpan{0, 7}, TokenSpan{7, 9}));
  EXPECT_THAT(Spans(doc, 2), ElementsAre(TokenSpan{0, 2}, TokenSpan{2, 5}, TokenSpan{7, 9}));
}

TEST_F(DocumentTest, BreaksCutWhereTheyStand) {
  auto builder = Builder({Spec(Kind::kBreaks)});
  ASSERT_TRUE(builder->AppendText("a b ").ok());
  ASSERT_TRUE(builder->AppendBreak().ok());
  ASSERT_TRUE(builder->AppendText("c").ok());
  ASSERT_TRUE(builder->AppendBreak().ok());
  ASSERT_TRUE(builder->AppendBreak().ok());  // an empty passage is left out
  ASSERT_TRUE(builder->AppendText(" d e").ok());
  const TokenizedDocument doc = *builder->Finish();
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 3}, TokenSpan{3, 4}, TokenSpan{4, 7}));
  EXPECT_EQ(doc.passages.back().index, 3);
}

TEST_F(DocumentTest, RangesWithoutATokenAreLeftOut) {
  const TokenizedDocument doc = Build("a   b", {Spec(Kind::kByteRanges, 0, {{1, 3}, {0, 5}})});
  ASSERT_EQ(doc.passages.size(), 1u);
  EXPECT_EQ(doc.passages[0].index, 1);
}

TEST_F(DocumentTest, TooLongIsAnErrorAsEarlyAsItCanBe) {
  DocumentLimits limits;
  limits.max_tokens = 6;
  auto builder = Builder({}, Overflow::kError, limits);
  ASSERT_TRUE(builder->AppendText("a b c d ").ok());
  const absl::Status status = builder->AppendText("e f g ");
  EXPECT_EQ(ReasonOf(status), "TOO_MANY_TOKENS");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("6"));

  limits = {};
  limits.max_bytes = 5;
  builder = Builder({}, Overflow::kTruncateEnd, limits);
  EXPECT_EQ(ReasonOf(builder->AppendText("a b c d")), "DOCUMENT_TOO_LARGE");
}

TEST_F(DocumentTest, ExactlyTheLimitIsFine) {
  DocumentLimits limits;
  limits.max_tokens = 6;
  const TokenizedDocument doc = Build("a b c d", {}, Overflow::kError, limits);
  EXPECT_EQ(doc.ids.size(), 6u);
  EXPECT_FALSE(doc.truncated);
}

TEST_F(DocumentTest, TruncationKeepsTheRightEndAndSaysSo) {
  DocumentLimits limits;
  limits.max_tokens = 4;
  TokenizedDocument doc =
      Build("a b c d e f g h", {Spec(Kind::kTokens, 1)}, Overflow::kTruncateEnd, limits);
  EXPECT_EQ(doc.ids, (std::vector<int32_t>{2, 6, 7, 3}));
  EXPECT_TRUE(doc.truncated);
  EXPECT_EQ(doc.input_tokens, 10);
  EXPECT_EQ(doc.kept, (ByteRange{0, 3}));
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 2}, TokenSpan{2, 4}));

  doc = Build("a b c d e f g h", {Spec(Kind::kByteRanges, 0, {{0, 1}, {14, 15}})},
              Overflow::kTruncateStart, limits);
  EXPECT_EQ(doc.ids, (std::vector<int32_t>{2, 12, 13, 3}));
  EXPECT_EQ(doc.input_tokens, 10);
  EXPECT_EQ(doc.kept, (ByteRange{12, 15}));
  ASSERT_EQ(doc.passages.size(), 1u);  // the first range was cut off
  EXPECT_EQ(doc.passages[0].index, 1);
  EXPECT_EQ(doc.passages[0].tokens, (TokenSpan{2, 4}));
}

TEST_F(DocumentTest, TruncationNeverHoldsTheWholeDocument) {
  DocumentLimits limits;
  limits.max_tokens = 10;
  for (Overflow overflow : {Overflow::kTruncateEnd, Overflow::kTruncateStart}) {
    auto builder = Builder({}, overflow, limits);
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(builder->AppendText("a b c d e ").ok());
    const TokenizedDocument doc = *builder->Finish();
    EXPECT_EQ(doc.ids.size(), 10u);
    EXPECT_EQ(doc.input_tokens, 5002);
  }
}

TEST_F(DocumentTest, IdsPassThroughUntouched) {
  auto builder = Builder({Spec(Kind::kTokens, 2)});
  ASSERT_TRUE(builder->AppendIds({7, 8}).ok());
  ASSERT_TRUE(builder->AppendIds({9}).ok());
  const TokenizedDocument doc = *builder->Finish();
  EXPECT_EQ(doc.ids, (std::vector<int32_t>{7, 8, 9}));
  EXPECT_TRUE(doc.bytes.empty());
  EXPECT_THAT(Spans(doc, 0), ElementsAre(TokenSpan{0, 2}, TokenSpan{2, 3}));
}

TEST_F(DocumentTest, BadInputHasAReason) {
  auto builder = Builder({});
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "EMPTY_DOCUMENT");
  builder = Builder({});
  ASSERT_TRUE(builder->AppendText(" \n ").ok());
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "EMPTY_DOCUMENT");
  builder = Builder({});
  ASSERT_TRUE(builder->AppendText("a").ok());
  EXPECT_EQ(ReasonOf(builder->AppendIds({5})), "MIXED_CONTENT");
  builder = Builder({});
  ASSERT_TRUE(builder->AppendIds({5}).ok());
  EXPECT_EQ(ReasonOf(builder->AppendText("a")), "MIXED_CONTENT");
  EXPECT_EQ(ReasonOf(builder->AppendBreak()), "MIXED_CONTENT");
  builder = Builder({});
  const absl::Status utf8 = builder->AppendText("ab\xff");
  EXPECT_EQ(ReasonOf(utf8), "INVALID_UTF8");
  EXPECT_THAT(std::string(utf8.message()), ::testing::HasSubstr("2"));
  builder = Builder({});
  ASSERT_TRUE(builder->AppendText("ab\xe2\x82").ok());
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "INVALID_UTF8");
  builder = Builder({Spec(Kind::kByteRanges, 0, {{0, 9}})});
  ASSERT_TRUE(builder->AppendText("a b").ok());
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "INVALID_PASSAGE");
  builder = Builder({Spec(Kind::kSentences, 1)});
  ASSERT_TRUE(builder->AppendIds({5}).ok());
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "INVALID_PASSAGE");
  for (const PassageSpec& spec :
       {Spec(Kind::kTokens, 0), Spec(Kind::kSentences, -1), Spec(Kind::kByteRanges, 0, {{3, 3}}),
        Spec(Kind::kByteRanges, 0, {{-1, 3}})}) {
    EXPECT_EQ(ReasonOf(DocumentBuilder::Create(*tokenizer_, {spec}, Overflow::kError, {}).status()),
              "INVALID_PASSAGE");
  }
  DocumentLimits few;
  few.max_passages = 3;
  builder = Builder({Spec(Kind::kTokens, 1)}, Overflow::kError, few);
  ASSERT_TRUE(builder->AppendText("a b c d").ok());
  EXPECT_EQ(ReasonOf(builder->Finish().status()), "TOO_MANY_PASSAGES");
}

TEST_F(DocumentTest, AnySplitOfTheBytesGivesTheSameDocument) {
  const std::string text = "ab c. D\u00e9f \u4e2d\u6587! x\n\ny z? \U0001f600 end.";
  const std::vector<PassageSpec> specs = {Spec(Kind::kTokens, 3), Spec(Kind::kSentences, 1),
                                          Spec(Kind::kByteRanges, 0, {{2, 11}})};
  const TokenizedDocument whole = Build(text, specs);
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    auto builder = Builder(specs);
    for (size_t at = 0; at < text.size();) {
      const size_t n = round == 0 ? 1 : random() % 7;
      ASSERT_TRUE(builder->AppendText(std::string_view(text).substr(at, n)).ok());
      at += n;
    }
    const TokenizedDocument doc = *builder->Finish();
    EXPECT_EQ(doc.ids, whole.ids);
    EXPECT_EQ(doc.bytes, whole.bytes);
    for (int g = 0; g < 3; ++g) EXPECT_EQ(Spans(doc, g), Spans(whole, g));
  }
}

}  // namespace
}  // namespace longdoc
