// What the loaders accept, and the code and field that each kind of bad file gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/text/vocabulary.h"
#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

json SmallTokenizer() {
  return json::parse(R"({
    "version": "1.0", "truncation": {"max_length": 2}, "padding": null,
    "added_tokens": [
      {"id": 0, "content": "[PAD]", "special": true, "single_word": false, "lstrip": false,
       "rstrip": false, "normalized": false},
      {"id": 2, "content": "[CLS]", "special": true, "normalized": false},
      {"id": 9, "content": "<extra>", "special": false, "normalized": false},
      {"id": 10, "content": "<extra>er", "special": false, "normalized": false}],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                   "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 6,
              "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "ab": 4, "##c": 5,
                        "a": 6, "[MASK]": 7}}})");
}

std::unique_ptr<Tokenizer> ParseOk(const json& tokenizer) {
  auto parsed = ParseTokenizerJson(tokenizer.dump());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *std::move(parsed) : nullptr;
}

std::vector<int32_t> EncodeIds(const Tokenizer& tokenizer, const std::string& text,
                               bool special = false) {
  const auto tokens = tokenizer.Encode(text, special);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return tokens.ok() ? tokens->ids : std::vector<int32_t>();
}

void ExpectError(const std::string& text, absl::StatusCode code, const std::string& part) {
  const auto parsed = ParseTokenizerJson(text);
  ASSERT_FALSE(parsed.ok()) << part;
  EXPECT_EQ(parsed.status().code(), code) << parsed.status();
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part));
}

// Changes the value at `pointer` of the small tokenizer and expects this error.
void ExpectErrorWith(const std::string& pointer, const json& value, absl::StatusCode code,
                     const std::string& part) {
  json tokenizer = SmallTokenizer();
  tokenizer[json::json_pointer(pointer)] = value;
  ExpectError(tokenizer.dump(), code, part);
}

TEST(TokenizerJson, Loads) {
  const auto tokenizer = ParseOk(SmallTokenizer());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 11);
  EXPECT_EQ(tokenizer->special().pad, 0);
  EXPECT_EQ(tokenizer->special().unk, 1);
  EXPECT_EQ(tokenizer->special().cls, 2);
  EXPECT_EQ(tokenizer->special().sep, 3);
  EXPECT_EQ(tokenizer->special().mask, 7);
  EXPECT_EQ(tokenizer->TokenText(5), "##c");
  EXPECT_EQ(tokenizer->TokenText(8), "");  // a hole
  EXPECT_EQ(tokenizer->TokenText(-1), "");
  EXPECT_EQ(tokenizer->TokenText(1 << 30), "");
  EXPECT_EQ(tokenizer->TokenId("<extra>"), 9);
  EXPECT_EQ(tokenizer->TokenId("nothing"), -1);
  EXPECT_THAT(EncodeIds(*tokenizer, "Ábc x ab"), ElementsAre(4, 5, 1, 4));
  EXPECT_THAT(EncodeIds(*tokenizer, "abcccc abccccc"), ElementsAre(4, 5, 5, 5, 5, 1));
  // Truncation is not ours to do.
  EXPECT_THAT(EncodeIds(*tokenizer, "a a a a", true), ElementsAre(2, 6, 6, 6, 6, 3));
}

TEST(TokenizerJson, OldFilesHaveNoModelType) {
  json tokenizer = SmallTokenizer();
  tokenizer["model"].erase("type");
  EXPECT_THAT(EncodeIds(*ParseOk(tokenizer), "abc"), ElementsAre(4, 5));
  tokenizer["model"]["merges"] = json::array({"a b"});  // then it is BPE, whose sections differ
  ExpectError(tokenizer.dump(), kUnimplemented, "normalizer.type");
  tokenizer["model"].erase("merges");
  tokenizer["model"].erase("continuing_subword_prefix");
  ExpectError(tokenizer.dump(), kUnimplemented, "model.type");
}

TEST(TokenizerJson, RealVocabularyGivesTheGoldens) {
  json tokenizer = SmallTokenizer();
  json& vocab = tokenizer["model"]["vocab"] = json::object();
  const Tokenizer& bert = testing::BertTokenizer();
  for (int32_t id = 0; id < bert.vocab_size(); ++id) vocab[std::string(bert.TokenText(id))] = id;
  tokenizer["model"]["max_input_chars_per_word"] = 100;
  tokenizer["post_processor"] = json::parse(R"({"type": "TemplateProcessing", "single": [
      {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]})");
  json& added = tokenizer["added_tokens"] = json::array();
  for (const char* token : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    added.push_back({{"id", bert.TokenId(token)}, {"content", token}, {"normalized", false}});
  }
  const auto parsed = ParseOk(tokenizer);
  ASSERT_NE(parsed, nullptr);
  EXPECT_EQ(parsed->special().cls, 101);
  EXPECT_EQ(parsed->special().sep, 102);
  for (const testing::TokenizerGolden& golden : testing::ReadTokenizerGoldens()) {
    const auto tokens = parsed->Encode(golden.text, false);
    ASSERT_TRUE(tokens.ok()) << tokens.status();
    ASSERT_EQ(testing::Fnv(testing::Ids(*tokens)), golden.ids_hash);
    ASSERT_EQ(testing::Fnv(testing::Offsets(*tokens)), golden.offsets_hash);
  }
}

TEST(TokenizerJson, AddedTokensMatchLeftmostLongest) {
  const auto tokenizer = ParseOk(SmallTokenizer());
  ASSERT_NE(tokenizer, nullptr);
  const auto tokens = tokenizer->Encode("a[CLS]b<extra>e<extra>er<EXTRA>", false);
  ASSERT_TRUE(tokens.ok());
  // The lower-case match happens in raw text only: "<EXTRA>" is three words.
  EXPECT_THAT(tokens->ids, ElementsAre(6, 2, 1, 9, 1, 10, 1, 1, 1));
  EXPECT_EQ(tokens->bytes[1], (ByteRange{1, 6}));
  EXPECT_EQ(tokens->bytes[5], (ByteRange{15, 24}));
  // A token that is started but not finished is text.
  EXPECT_THAT(EncodeIds(*tokenizer, "ab[CL"), ElementsAre(4, 1, 1));
  EXPECT_THAT(EncodeIds(*tokenizer, "[[CLS]"), ElementsAre(1, 2));
}

TEST(TokenizerJson, NormalizerFlagsWork) {
  json tokenizer = SmallTokenizer();
  tokenizer["normalizer"]["lowercase"] = false;
  EXPECT_THAT(EncodeIds(*ParseOk(tokenizer), "AB ab áb"), ElementsAre(1, 4, 1));
  tokenizer["normalizer"]["strip_accents"] = true;
  EXPECT_THAT(EncodeIds(*ParseOk(tokenizer), "AB ab áb"), ElementsAre(1, 4, 4));
  tokenizer["normalizer"] = nullptr;
  EXPECT_THAT(EncodeIds(*ParseOk(tokenizer), "a\u200bb ab"), ElementsAre(1, 4));
}

TEST(TokenizerJson, UnsupportedNamesTheField) {
  ExpectErrorWith("/normalizer/type", "NFC", kUnimplemented, "normalizer.type");
  ExpectErrorWith("/pre_tokenizer/type", "ByteLevel", kUnimplemented, "pre_tokenizer.type");
  ExpectErrorWith("/pre_tokenizer", nullptr, kUnimplemented, "pre_tokenizer");
  ExpectErrorWith("/model/type", "Unigram", kUnimplemented, "model.type");
  ExpectErrorWith("/post_processor/type", "ByteLevel", kUnimplemented, "post_processor.type");
  ExpectErrorWith("/post_processor", json::parse(R"({"type": "TemplateProcessing", "single": []})"),
                  kUnimplemented, "post_processor.single");
  ExpectErrorWith("/added_tokens/1/normalized", true, kUnimplemented, "added_tokens[1].normalized");
  ExpectErrorWith("/added_tokens/1/lstrip", true, kUnimplemented, "added_tokens[1].lstrip");
}

TEST(TokenizerJson, BadValues) {
  ExpectErrorWith("/normalizer/lowercase", 1, kInvalid, "normalizer.lowercase");
  ExpectErrorWith("/model/vocab", json::array(), kInvalid, "model.vocab");
  ExpectErrorWith("/model/vocab/ab", -4, kInvalid, "id -4");
  ExpectErrorWith("/model/vocab/ab", 4'000'000, kInvalid, "id 4000000");
  ExpectErrorWith("/model/vocab/ab", 18446744073709551615u, kInvalid, "id 4000000");
  ExpectErrorWith("/model/vocab/ab", 5, kInvalid, "duplicate id 5");
  ExpectErrorWith("/model/vocab/ab", 4.5, kInvalid, "model.vocab");
  ExpectErrorWith("/model/vocab/ab", "4", kInvalid, "model.vocab");
  json empty_token = SmallTokenizer();
  empty_token["model"]["vocab"][""] = 8;
  ExpectError(empty_token.dump(), kInvalid, "is empty");
  json long_token = SmallTokenizer();
  long_token["model"]["vocab"][std::string(1025, 'x')] = 8;
  ExpectError(long_token.dump(), kInvalid, "1025 bytes, limit 1024");
  ExpectErrorWith("/model/unk_token", "[NONE]", kInvalid, "model.unk_token");
  ExpectErrorWith("/model/max_input_chars_per_word", 0, kInvalid, "max_input_chars_per_word");
  ExpectErrorWith("/model/max_input_chars_per_word", 1'000'000'000, kInvalid,
                  "max_input_chars_per_word 1000000000");
  ExpectErrorWith("/model/continuing_subword_prefix", std::string(2000, '#'), kInvalid,
                  "continuing_subword_prefix");
  ExpectErrorWith("/added_tokens/1/id", 77, kInvalid, "added_tokens[1].id is 77");
  ExpectErrorWith("/added_tokens/2/id", 4, kInvalid, "duplicate id 4");
  ExpectErrorWith("/added_tokens/2/id", -1, kInvalid, "id -1");
  ExpectErrorWith("/added_tokens/2/content", "", kInvalid, "added_tokens[2].content");
  ExpectErrorWith("/added_tokens/2", 3, kInvalid, "added_tokens[2]");
  ExpectErrorWith("/added_tokens", 3, kInvalid, "added_tokens");
  ExpectErrorWith("/post_processor/cls", json::parse(R"(["[CLS]", 3])"), kInvalid,
                  "post_processor");
}

TEST(TokenizerJson, Malformed) {
  ExpectError("", kInvalid, "malformed JSON");
  ExpectError("[]", kInvalid, "not an object");
  ExpectError("{\"a\": \"\xff\"}", kInvalid, "malformed JSON");
  const std::string good = SmallTokenizer().dump();
  for (size_t size = 0; size < good.size(); size += 7) {
    EXPECT_FALSE(ParseTokenizerJson(good.substr(0, size)).ok());
  }
  ExpectError(std::string(1'000'000, '['), kInvalid, "deeper than 64 levels");
  ExpectError(std::string(9'000'000, ','), kInvalid, "more than 8000000 values");
  ExpectError(std::string(static_cast<size_t>(kMaxVocabularyFileBytes) + 1, ' '), kInvalid,
              "limit 67108864");
}

void ExpectVocabError(const std::string& text, const std::string& part) {
  const auto parsed = ParseVocabTxt(text);
  ASSERT_FALSE(parsed.ok()) << part;
  EXPECT_EQ(parsed.status().code(), kInvalid) << parsed.status();
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part));
}

TEST(VocabTxt, LineEndsDoNotMatter) {
  for (const std::string text : {"[UNK]\nab\n##c", "[UNK]\nab\n##c\n", "[UNK]\r\nab\r\n##c\r\n"}) {
    const auto tokenizer = ParseVocabTxt(text);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->vocab_size(), 3);
    EXPECT_EQ((*tokenizer)->special().cls, -1);
    EXPECT_THAT(EncodeIds(**tokenizer, "abc [UNK]", true), ElementsAre(1, 2, 0));
  }
}

TEST(VocabTxt, BadFiles) {
  ExpectVocabError("", "\"[UNK]\" is missing");
  ExpectVocabError("a\nb\n", "\"[UNK]\" is missing");
  ExpectVocabError("[UNK]\n\nb\n", "line 2");
  ExpectVocabError("[UNK]\nb\nb\n", "ids 1 and 2 have the same token");
  ExpectVocabError("[UNK]\n\xc3\n", "byte 6");
  ExpectVocabError("[UNK]\n" + std::string(1025, 'x'), "limit 1024");
  ExpectVocabError(std::string(static_cast<size_t>(kMaxVocabularyFileBytes) + 1, '\n'),
                   "limit 67108864");
  WordPieceOptions options;
  options.max_input_chars_per_word = 0;
  EXPECT_EQ(ParseVocabTxt("[UNK]\n", options).status().code(), kInvalid);
}

TEST(VocabTxt, TooManyEntries) {
  std::string text = "[UNK]\n";
  for (int i = 0; i < 4'000'000; ++i) text.append(std::to_string(i)).append(1, '\n');
  ExpectVocabError(text, "id 4000000");
}

TEST(VocabTxt, OurVocabularyHasBertsLayout) {
  const auto tokenizer = ParseVocabTxt(testing::ReadFileOrDie(
      std::string(LONGDOC_SOURCE_DIR) + "/engine/text/data/wordpiece_vocab.txt"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 30522);
  EXPECT_EQ((*tokenizer)->special().pad, 0);
  EXPECT_EQ((*tokenizer)->special().unk, 100);
  EXPECT_EQ((*tokenizer)->special().cls, 101);
  EXPECT_EQ((*tokenizer)->special().sep, 102);
  EXPECT_EQ((*tokenizer)->special().mask, 103);
  EXPECT_EQ((*tokenizer)->TokenText(99), "[unused99]");
  const auto tokens = (*tokenizer)->Encode("The quick brown fox, naïve café №1", true);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->ids.front(), 101);
  EXPECT_EQ(tokens->ids.back(), 102);
  EXPECT_LE(tokens->ids.size(), 16u);
}

class LoadTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = (std::filesystem::temp_directory_path() / "longdoc_text_XXXXXX").string();
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    dir_ = path;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }
  std::filesystem::path dir_;
};

TEST_F(LoadTokenizerTest, PrefersTokenizerJson) {
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), absl::StatusCode::kNotFound);
  Write("vocab.txt", "[UNK]\nzz\nAb\n");
  auto tokenizer = LoadTokenizer(dir_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 3);
  EXPECT_THAT(EncodeIds(**tokenizer, "Ab"), ElementsAre(0));

  Write("tokenizer_config.json", R"({"do_lower_case": false, "unk_token": {"content": "zz"}})");
  tokenizer = LoadTokenizer(dir_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(EncodeIds(**tokenizer, "Ab x"), ElementsAre(2, 1));
  Write("tokenizer_config.json", R"({"do_lower_case": "no"})");
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), kInvalid);

  Write("tokenizer.json", SmallTokenizer().dump());
  tokenizer = LoadTokenizer(dir_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 11);
  Write("tokenizer.json", "{");
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), kInvalid);
}

TEST_F(LoadTokenizerTest, VocabAndMerges) {
  Write("vocab.json", testing::BpeTokenizerJson("roberta")["model"]["vocab"].dump());
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), kInvalid);  // no merges.txt
  Write("merges.txt", testing::ReadFileOrDie(std::string(LONGDOC_SOURCE_DIR) +
                                             "/engine/text/data/bpe_merges.txt"));
  auto tokenizer = LoadTokenizer(dir_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "the attention don't <mask>";
  EXPECT_EQ(EncodeIds(**tokenizer, text), EncodeIds(testing::BpeTokenizer("roberta"), text));
  Write("tokenizer_config.json", R"({"add_prefix_space": true})");
  tokenizer = LoadTokenizer(dir_.string());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(EncodeIds(**tokenizer, text), EncodeIds(testing::BpeTokenizer("prefixed"), text));
  Write("tokenizer_config.json", R"({"add_prefix_space": "yes"})");
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), kInvalid);
}

TEST_F(LoadTokenizerTest, DirectoryInPlaceOfFile) {
  std::filesystem::create_directory(dir_ / "tokenizer.json");
  EXPECT_EQ(LoadTokenizer(dir_.string()).status().code(), kInvalid);
}

}  // namespace
}  // namespace longdoc
