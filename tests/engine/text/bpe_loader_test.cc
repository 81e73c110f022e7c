// What the BPE loaders accept, and the code and field that each kind of bad file gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/engine/text/golden_util.h"

namespace longdoc {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// The 256 bytes (ids 5 to 260), a few merges and RoBERTa's special tokens.
json Small() {
  json tokenizer = testing::BpeTokenizerJson("roberta");
  json& model = tokenizer["model"];
  json vocab = json::object();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (id < 261) vocab[token] = id;
  }
  const char* const merged[] = {"ab", "abc", "bc", "\u0120ab", "aa"};
  for (int i = 0; i < 5; ++i) vocab[merged[i]] = 261 + i;
  model["vocab"] = vocab;
  model["merges"] = json::parse(R"(["b c", ["a", "b"], "ab c", ["\u0120", "ab"], "a a"])");
  return tokenizer;
}

std::unique_ptr<Tokenizer> ParseOk(const json& tokenizer) {
  auto parsed = ParseTokenizerJson(tokenizer.dump());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *std::move(parsed) : nullptr;
}

std::string Spell(const Tokenizer& tokenizer, const std::string& text) {
  const auto tokens = tokenizer.Encode(text, false);
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  std::string spelled;
  for (const int32_t id : tokens->ids) spelled += std::string(tokenizer.TokenText(id)) + "|";
  return spelled;
}

void ExpectErrorWith(const std::string& pointer, const json& value, absl::StatusCode code,
                     const std::string& part) {
  json tokenizer = Small();
  tokenizer[json::json_pointer(pointer)] = value;
  const auto parsed = ParseTokenizerJson(tokenizer.dump());
  ASSERT_FALSE(parsed.ok()) << part;
  EXPECT_EQ(parsed.status().code(), code) << parsed.status();
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(part));
}

TEST(BpeJson, MergesTheLowestRankFirst) {
  const auto tokenizer = ParseOk(Small());
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 266);
  EXPECT_EQ(Spell(*tokenizer, "abc"), "a|bc|");  // "b c" comes before "a b"
  EXPECT_EQ(Spell(*tokenizer, "ab ab"), "ab|\u0120ab|");
  EXPECT_EQ(Spell(*tokenizer, "aaa aaaab"), "aa|a|\u0120|aa|a|ab|");  // the leftmost first
  EXPECT_EQ(Spell(*tokenizer, "x</s>\u00e9"), "x|</s>|\u00c3|\u00a9|");
}

TEST(BpeJson, RepeatedMergeCountsAsTheLast) {
  json tokenizer = Small();
  tokenizer["model"]["merges"].push_back("b c");
  EXPECT_EQ(Spell(*ParseOk(tokenizer), "abc"), "abc|");
}

TEST(BpeJson, IgnoreMergesTakesWholePieces) {
  json tokenizer = Small();
  tokenizer["model"]["ignore_merges"] = true;
  EXPECT_EQ(Spell(*ParseOk(tokenizer), "abc abc ab"), "abc|\u0120|a|bc|\u0120ab|");
}

TEST(BpeJson, RolesAndPairs) {
  json tokenizer = Small();
  auto parsed = ParseOk(tokenizer);
  ASSERT_NE(parsed, nullptr);
  EXPECT_EQ(parsed->special().cls, 0);
  EXPECT_EQ(parsed->special().pad, 1);
  EXPECT_EQ(parsed->special().sep, 2);
  EXPECT_EQ(parsed->special().unk, 3);
  EXPECT_EQ(parsed->special().mask, 4);
  EXPECT_THAT(parsed->pair().first, ElementsAre(0));
  EXPECT_THAT(parsed->pair().middle, ElementsAre(2, 2));
  EXPECT_THAT(parsed->pair().last, ElementsAre(2));
  EXPECT_FALSE(parsed->pair().typed);
  EXPECT_THAT(parsed->Encode("ab", true)->ids, ElementsAre(0, 261, 2));

  tokenizer["post_processor"] = {{"type", "ByteLevel"}};
  parsed = ParseOk(tokenizer);
  EXPECT_EQ(parsed->special().cls, -1);
  EXPECT_THAT(parsed->pair().last, IsEmpty());
  EXPECT_THAT(parsed->Encode("ab", true)->ids, ElementsAre(261));
  EXPECT_THAT(parsed->Encode("ab ab", true)->bytes[1], (ByteRange{3, 5}));  // trimmed by default
  tokenizer.erase("post_processor");
  EXPECT_THAT(ParseOk(tokenizer)->Encode("ab ab", true)->bytes[1], (ByteRange{2, 5}));
}

TEST(BpeJson, TemplatesAndSequencesOfProcessors) {
  json tokenizer = Small();
  tokenizer["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel", "trim_offsets": false},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}},
                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}},
                {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "</s>"}}]}]})");
  const auto parsed = ParseOk(tokenizer);
  ASSERT_NE(parsed, nullptr);
  EXPECT_THAT(parsed->Encode("ab ab", true)->bytes,
              ElementsAre(ByteRange{0, 0}, ByteRange{0, 2}, ByteRange{2, 5}, ByteRange{5, 5}));
  EXPECT_THAT(parsed->pair().first, ElementsAre(0));
  EXPECT_THAT(parsed->pair().middle, IsEmpty());
  EXPECT_THAT(parsed->pair().last, ElementsAre(2));
  EXPECT_TRUE(parsed->pair().typed);
}

TEST(BpeJson, UnsupportedNamesTheField) {
  ExpectErrorWith("/normalizer", {{"type", "NFC"}}, kUnimplemented, "normalizer.type \"NFC\"");
  ExpectErrorWith("/pre_tokenizer", nullptr, kUnimplemented, "pre_tokenizer");
  ExpectErrorWith("/pre_tokenizer/type", "Split", kUnimplemented, "pre_tokenizer.type");
  ExpectErrorWith("/pre_tokenizer/use_regex", false, kUnimplemented, "use_regex");
  ExpectErrorWith("/model/dropout", 0.1, kUnimplemented, "model.dropout");
  ExpectErrorWith("/model/end_of_word_suffix", "</w>", kUnimplemented, "end_of_word_suffix");
  ExpectErrorWith("/post_processor/type", "Unknown", kUnimplemented, "post_processor.type");
  ExpectErrorWith("/added_tokens/1/single_word", true, kUnimplemented,
                  "added_tokens[1].single_word");
  ExpectErrorWith("/added_tokens/5", {{"id", 300}, {"content", "<s><mask"}, {"normalized", false}},
                  kUnimplemented, "overlapping");
}

TEST(BpeJson, BadValues) {
  ExpectErrorWith("/model/vocab/a", 4'000'000, kInvalid, "id 4000000");
  ExpectErrorWith("/model/vocab/a", 7, kInvalid, "duplicate id 7");
  ExpectErrorWith("/model/vocab", json::array(), kInvalid, "model.vocab");
  ExpectErrorWith("/model/merges", json::object(), kInvalid, "model.merges");
  ExpectErrorWith("/model/merges/1", "a", kInvalid, "model.merges[1]");
  ExpectErrorWith("/model/merges/1", "a b c", kInvalid, "model.merges[1]");
  ExpectErrorWith("/model/merges/1", json::array({"a"}), kInvalid, "model.merges[1]");
  ExpectErrorWith("/model/merges/1", json::array({"a", 1}), kInvalid, "model.merges[1]");
  ExpectErrorWith("/model/merges/1", "a c", kInvalid, "its result");
  ExpectErrorWith("/model/merges/1", "a abx", kInvalid, "second part");
  ExpectErrorWith("/model/ignore_merges", 1, kInvalid, "ignore_merges");
  ExpectErrorWith("/post_processor/cls", json::array({"<s>", 1}), kInvalid, "post_processor");
  ExpectErrorWith("/post_processor/trim_offsets", "yes", kInvalid, "trim_offsets");
  ExpectErrorWith("/post_processor",
                  {{"type", "Sequence"}, {"processors", json(std::vector<int>(9))}}, kInvalid,
                  "at most 8");
  json tokenizer = Small();
  tokenizer["model"]["vocab"].erase("x");
  const auto parsed = ParseTokenizerJson(tokenizer.dump());
  EXPECT_EQ(parsed.status().code(), kInvalid);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("byte 0x78"));
  // Bytes that UTF-8 never has need none.
  tokenizer = Small();
  for (const char* token : {"\u00c0", "\u00c1", "\u00f5", "\u00ff"}) {
    tokenizer["model"]["vocab"].erase(token);
  }
  EXPECT_NE(ParseOk(tokenizer), nullptr);
  const std::string good = Small().dump();
  for (size_t size = 0; size < good.size(); size += 97) {
    EXPECT_FALSE(ParseTokenizerJson(good.substr(0, size)).ok());
  }
}

TEST(VocabMerges, EqualsTokenizerJson) {
  const json tokenizer = testing::BpeTokenizerJson("roberta");
  std::string merges = "#version: 0.2\r\n";
  for (const json& merge : tokenizer["model"]["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  const std::string vocab = tokenizer["model"]["vocab"].dump();
  const auto parsed = ParseVocabMerges(vocab, merges);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->special().cls, 0);
  EXPECT_THAT((*parsed)->pair().middle, ElementsAre(2, 2));
  for (const testing::BpeGolden& golden : testing::ReadBpeGoldens().lines) {
    const auto tokens = (*parsed)->Encode(golden.text, false);
    ASSERT_TRUE(tokens.ok());
    ASSERT_EQ(testing::Ids(*tokens), golden.ids) << golden.text;
    ASSERT_EQ(testing::Offsets(*tokens), golden.offsets) << golden.text;
  }
  EXPECT_THAT(std::string(ParseVocabMerges(vocab, merges + "a\n").status().message()),
              HasSubstr("merges.txt, line 4098"));
  EXPECT_EQ(ParseVocabMerges("[]", merges).status().code(), kInvalid);
  EXPECT_EQ(ParseVocabMerges("{}", "").status().code(), kInvalid);
}

}  // namespace
}  // namespace longdoc
