#include "tests/engine/text/golden_util.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/str_format.h"
#include "engine/text/utf8.h"

namespace longdoc::testing {

using nlohmann::json;

std::string ReadFileOrDie(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::abort();
  }
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

std::vector<TokenizerGolden> ReadTokenizerGoldens() {
  std::istringstream file(
      ReadFileOrDie(std::string(LONGDOC_SOURCE_DIR) + "/tests/golden/tokenizer_goldens.jsonl"));
  std::vector<TokenizerGolden> goldens;
  std::string line;
  while (std::getline(file, line)) {
    const json record = json::parse(line);
    TokenizerGolden& golden = goldens.emplace_back();
    golden.text = record.at(0).get<std::string>();
    golden.full = record.at(1).is_array();
    if (golden.full) {
      golden.ids = record.at(1).get<std::vector<int64_t>>();
      golden.offsets = record.at(2).get<std::vector<int64_t>>();
      golden.ids_hash = Fnv(golden.ids);
      golden.offsets_hash = Fnv(golden.offsets);
    } else {
      golden.ids_hash = record.at(1).get<std::string>();
      golden.offsets_hash = record.at(2).get<std::string>();
    }
    golden.character_hash = record.at(3).get<std::string>();
  }
  return goldens;
}

namespace {

const Tokenizer* ParseOrDie(const std::string& vocab) {
  auto loaded = ParseVocabTxt(vocab);
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
    std::abort();
  }
  return loaded->release();
}

}  // namespace

const Tokenizer& BertTokenizer() {
  static const Tokenizer* const tokenizer = ParseOrDie(
      ReadFileOrDie(std::string(LONGDOC_SOURCE_DIR) + "/tests/golden/bert_uncased_vocab.txt"));
  return *tokenizer;
}

const Tokenizer& CharacterTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    std::string vocab = "[UNK]\n";
    for (char32_t cp = 0x21; cp < 0x30000; ++cp) {
      if (cp >= 0xD800 && cp < 0xE000) continue;
      AppendUtf8(cp, &vocab);
      vocab += "\n##";
      AppendUtf8(cp, &vocab);
      vocab += '\n';
    }
    return ParseOrDie(vocab);
  }();
  return *tokenizer;
}

BpeGoldens ReadBpeGoldens() {
  std::istringstream file(
      ReadFileOrDie(std::string(LONGDOC_SOURCE_DIR) + "/tests/golden/bpe_goldens.jsonl"));
  BpeGoldens goldens;
  std::string line;
  while (std::getline(file, line)) {
    const json record = json::parse(line);
    if (record.at(1).is_string()) {
      goldens.shared_hashes = record.get<std::vector<std::string>>();
      continue;
    }
    goldens.lines.push_back({record.at(0).get<std::string>(),
                             record.at(1).get<std::vector<int64_t>>(),
                             record.at(2).get<std::vector<int64_t>>(),
                             record.at(3).get<std::string>(), record.at(4).get<std::string>()});
  }
  return goldens;
}

namespace {

constexpr const char* kBpeSpecial[] = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};

// The characters of GPT-2's alphabet, ascending. Written again on purpose: a test must not share it
// with the code under test.
std::vector<std::string> BpeAlphabet() {
  std::vector<std::string> alphabet;
  for (char32_t cp = 0x21; cp <= 0x143; ++cp) {
    const bool itself = cp <= 0x7E || (cp >= 0xA1 && cp <= 0xFF && cp != 0xAD);
    if (!itself && cp < 0x100) continue;
    AppendUtf8(cp, &alphabet.emplace_back());
  }
  return alphabet;
}

json BpeAddedToken(int id, const std::string& content, bool normalized, bool lstrip, bool rstrip) {
  return {{"id", id},         {"content", content}, {"single_word", false},
          {"lstrip", lstrip}, {"rstrip", rstrip},   {"normalized", normalized},
          {"special", true}};
}

json BpePostProcessor(const std::string& variant) {
  if (variant == "gpt2") {
    return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  }
  return {{"type", "RobertaProcessing"},
          {"sep", {"</s>", 2}},
          {"cls", {"<s>", 0}},
          {"trim_offsets", true},
          {"add_prefix_space", variant == "prefixed"}};
}

}  // namespace

json BpeTokenizerJson(const std::string& variant) {
  json vocab = json::object(), merges = json::array(), added = json::array();
  const auto add = [&vocab](const std::string& token) {
    vocab.emplace(token, vocab.size());  // unless it is there
  };
  for (const char* token : kBpeSpecial) add(token);
  for (const std::string& token : BpeAlphabet()) add(token);
  std::istringstream file(
      ReadFileOrDie(std::string(LONGDOC_SOURCE_DIR) + "/engine/text/data/bpe_merges.txt"));
  std::string left, right;
  while (file >> left >> right) {
    add(left + right);
    merges.push_back({left, right});
  }
  if (variant == "gpt2") {
    for (const char* word :
         {"\u0120embedding", "embeddings", "\u0120\u00c3\u00a9t\u00c3\u00a9", "xyzzyxyzzy", "12345",
          "\u0120\u0120\u0120\u0120\u0120", "!?!?!?", "\u010a\u010a\u010a\u010a\u010a\u010a"}) {
      add(word);
    }
    added.push_back(
        BpeAddedToken(static_cast<int>(vocab.size()), "<|endoftext|>", true, false, false));
  } else {
    for (int id = 0; id < 5; ++id) {
      added.push_back(BpeAddedToken(id, kBpeSpecial[id], id != 4, id == 4, false));
    }
  }
  if (variant == "prefixed") {
    const int id = static_cast<int>(vocab.size());
    added.push_back(BpeAddedToken(id, "<l>", true, true, false));
    added.push_back(BpeAddedToken(id + 1, "<r>", true, false, true));
    added.push_back(BpeAddedToken(id + 2, " <b> ", false, true, true));
  }
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"},
            {"add_prefix_space", variant == "prefixed"},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"post_processor", BpePostProcessor(variant)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"ignore_merges", variant == "gpt2"},
            {"vocab", vocab},
            {"merges", merges}}}};
}

const Tokenizer& BpeTokenizer(const std::string& variant) {
  static auto* const tokenizers = new std::map<std::string, std::unique_ptr<Tokenizer>>;
  std::unique_ptr<Tokenizer>& tokenizer = (*tokenizers)[variant];
  if (tokenizer == nullptr) {
    auto parsed = ParseTokenizerJson(BpeTokenizerJson(variant).dump());
    if (!parsed.ok()) {
      std::fprintf(stderr, "%s\n", parsed.status().ToString().c_str());
      std::abort();
    }
    tokenizer = *std::move(parsed);
  }
  return *tokenizer;
}

std::vector<int64_t> Ids(const TokenSequence& tokens) {
  return std::vector<int64_t>(tokens.ids.begin(), tokens.ids.end());
}

std::vector<int64_t> Offsets(const TokenSequence& tokens) {
  std::vector<int64_t> offsets;
  for (const ByteRange& range : tokens.bytes) {
    offsets.push_back(range.begin);
    offsets.push_back(range.end);
  }
  return offsets;
}

std::string Fnv(const std::vector<int64_t>& numbers) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int64_t number : numbers) {
    for (int shift = 0; shift < 64; shift += 8) {
      hash = (hash ^ (static_cast<uint64_t>(number) >> shift & 0xFF)) * 0x100000001b3u;
    }
  }
  return absl::StrFormat("%016x", hash);
}

std::vector<int64_t> Numbers(const TokenSequence& tokens) {
  std::vector<int64_t> numbers = Ids(tokens);
  const std::vector<int64_t> offsets = Offsets(tokens);
  numbers.insert(numbers.end(), offsets.begin(), offsets.end());
  return numbers;
}

TokenSequence EncodeInPieces(const Tokenizer& tokenizer, const std::string& text, size_t max_piece,
                             std::mt19937* rng) {
  const auto stream = tokenizer.NewStream();
  TokenSequence all;
  const auto take = [&] {
    const TokenSequence some = stream->Take();
    all.ids.insert(all.ids.end(), some.ids.begin(), some.ids.end());
    all.bytes.insert(all.bytes.end(), some.bytes.begin(), some.bytes.end());
  };
  for (size_t i = 0; i < text.size();) {
    const size_t n = std::min(text.size() - i, 1 + (*rng)() % max_piece);
    EXPECT_TRUE(stream->Append(std::string_view(text).substr(i, n)).ok());
    i += n;
    if ((*rng)() % 3 == 0) take();
  }
  EXPECT_TRUE(stream->Finish().ok());
  take();
  EXPECT_EQ(stream->num_tokens(), static_cast<int64_t>(all.ids.size()));
  EXPECT_EQ(stream->num_bytes(), static_cast<int64_t>(text.size()));
  return all;
}

}  // namespace longdoc::testing
