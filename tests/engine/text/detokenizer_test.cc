#include "engine/text/detokenizer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/text/byte_level.h"

namespace longdoc {
namespace {

std::string Text(const Tokenizer& tokenizer, const std::vector<std::string>& tokens,
                 bool after_text = false) {
  Detokenizer detokenizer(tokenizer, after_text);
  std::string text;
  for (const std::string& token : tokens) {
    const int32_t id = tokenizer.TokenId(token);
    EXPECT_GE(id, 0) << token;
    text += detokenizer.Next(id);
  }
  return text;
}

TEST(Detokenizer, JoinsWordPieces) {
  auto tokenizer =
      ParseVocabTxt("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nlong\n##er\ndocument\n##s\n.\n,\n-\n##\n");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Text(**tokenizer, {"long", "##er", "document", "##s", ".", "long"}),
            "longer documents. long");
  EXPECT_EQ(Text(**tokenizer, {"document", ",", "long", "-", "long"}), "document, long - long");
  EXPECT_EQ(Text(**tokenizer, {"long"}, /*after_text=*/true), " long");
  EXPECT_EQ(Text(**tokenizer, {"##er", "."}, /*after_text=*/true), "er.");
  EXPECT_EQ(Text(**tokenizer, {"[CLS]", "long", "[PAD]", "[MASK]", "##er", "[SEP]"}), "longer");
  EXPECT_EQ(Text(**tokenizer, {"long", "[UNK]"}), "long [UNK]");
  EXPECT_EQ(Text(**tokenizer, {"long", "##"}), "long ##") << "a token of its own";
}

TEST(Detokenizer, GivesTheBytesOfByteLevelTokens) {
  // Every byte, a word of two tokens, and half a character.
  std::string vocab = "{";
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendByteLevel(std::string(1, static_cast<char>(byte)), &token);
    if (token == "\"" || token == "\\") token = "\\" + token;
    vocab += (byte > 0 ? ",\"" : "\"") + token + "\":" + std::to_string(byte);
  }
  std::string word;
  AppendByteLevel(" a", &word);
  vocab += ",\"" + word + "\":256}";
  auto tokenizer = ParseVocabMerges(vocab, word.substr(0, 2) + " a\n");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Detokenizer detokenizer(**tokenizer, true);
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(detokenizer.Next(byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(detokenizer.Next(256), " a");
  const std::string text = "na\xc3\xafve a\n\xe6\x97\xa5";
  const auto tokens = (*tokenizer)->Encode(text, false);
  ASSERT_TRUE(tokens.ok());
  std::string back;
  for (int32_t id : tokens->ids) back += detokenizer.Next(id);
  EXPECT_EQ(back, text);
}

TEST(Detokenizer, IgnoresIdsWithoutAnEntry) {
  auto tokenizer = ParseVocabTxt("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
  ASSERT_TRUE(tokenizer.ok());
  Detokenizer detokenizer(**tokenizer, false);
  EXPECT_EQ(detokenizer.Next(77), "");
  EXPECT_EQ(detokenizer.Next(5), "a");
}

}  // namespace
}  // namespace longdoc
