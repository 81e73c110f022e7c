#include "tests/engine/text/golden_util.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_format.h"
#include "engine/text/utf8.h"

namespace longdoc::testing {

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
    const nlohmann::json record = nlohmann::json::parse(line);
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

}  // namespace longdoc::testing
