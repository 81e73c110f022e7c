#include "engine/text/sentence_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> Ends(const std::string& text, size_t max_piece, std::mt19937* rng) {
  SentenceSplitter splitter;
  for (size_t i = 0; i < text.size();) {
    const size_t n = std::min(text.size() - i, 1 + (*rng)() % max_piece);
    splitter.Append(std::string_view(text).substr(i, n));
    i += n;
  }
  splitter.Finish();
  return splitter.ends();
}

std::vector<std::string> Sentences(const std::string& text) {
  std::mt19937 rng(1);
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (const int64_t end : Ends(text, text.size() + 1, &rng)) {
    sentences.push_back(text.substr(begin, static_cast<size_t>(end) - begin));
    begin = static_cast<size_t>(end);
  }
  EXPECT_EQ(begin, text.size());
  return sentences;
}

TEST(SentenceSplitter, Terminators) {
  EXPECT_THAT(Sentences(""), ElementsAre());
  EXPECT_THAT(Sentences("no end"), ElementsAre("no end"));
  EXPECT_THAT(Sentences("One. Two!  Three? Four"),
              ElementsAre("One. ", "Two!  ", "Three? ", "Four"));
  EXPECT_THAT(Sentences("One.\nTwo."), ElementsAre("One.\n", "Two."));
  EXPECT_THAT(Sentences("Version 3.14 of a.b.c is out..."),
              ElementsAre("Version 3.14 of a.b.c is out..."));
  EXPECT_THAT(Sentences("What?! Yes... no."), ElementsAre("What?! ", "Yes... ", "no."));
  EXPECT_THAT(Sentences("End. "), ElementsAre("End. "));
}

TEST(SentenceSplitter, ClosersBelongToTheSentence) {
  EXPECT_THAT(Sentences("(He said \"go.\") She went."),
              ElementsAre("(He said \"go.\") ", "She went."));
  EXPECT_THAT(Sentences("“Go.” ‘No.’ x"), ElementsAre("“Go.” ", "‘No.’ ", "x"));
  EXPECT_THAT(Sentences("a.)b c"), ElementsAre("a.)b c"));
}

TEST(SentenceSplitter, CjkNeedsNoSpace) {
  EXPECT_THAT(Sentences("你好。再见！好？"), ElementsAre("你好。", "再见！", "好？"));
  EXPECT_THAT(Sentences("「はい。」彼は"), ElementsAre("「はい。」", "彼は"));
  EXPECT_THAT(Sentences("好。 \u3000好"), ElementsAre("好。 \u3000", "好"));
  EXPECT_THAT(Sentences("何？！え"), ElementsAre("何？！", "え"));
}

TEST(SentenceSplitter, BlankLines) {
  EXPECT_THAT(Sentences("Title\n\nText goes\non\n \t\nNext"),
              ElementsAre("Title\n\n", "Text goes\non\n \t\n", "Next"));
  EXPECT_THAT(Sentences("a\r\n\r\nb"), ElementsAre("a\r\n\r\n", "b"));
  EXPECT_THAT(Sentences("\n\n\nText."), ElementsAre("\n\n\nText."));
  EXPECT_THAT(Sentences(" \n\n "), ElementsAre(" \n\n "));
}

// Tiles the text, is the same for any split, and survives what is not UTF-8.
TEST(SentenceSplitter, AnySplitAnyBytes) {
  std::mt19937 rng(5);
  std::string text;
  for (const testing::TokenizerGolden& golden : testing::ReadTokenizerGoldens()) {
    if (text.size() < 300'000) text += golden.text;
  }
  for (int round = 0; round < 4; ++round) {
    if (round >= 2) {  // damage it
      for (int i = 0; i < 20'000; ++i) text[rng() % text.size()] = static_cast<char>(rng());
    }
    const std::vector<int64_t> whole = Ends(text, text.size() + 1, &rng);
    ASSERT_FALSE(whole.empty());
    EXPECT_EQ(whole.back(), static_cast<int64_t>(text.size()));
    EXPECT_GT(whole.front(), 0);
    EXPECT_TRUE(std::adjacent_find(whole.begin(), whole.end(), std::greater_equal<>()) ==
                whole.end());
    EXPECT_EQ(Ends(text, 1, &rng), whole);
    EXPECT_EQ(Ends(text, 9, &rng), whole);
  }
}

}  // namespace
}  // namespace longdoc
