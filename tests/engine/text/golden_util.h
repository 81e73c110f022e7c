// Reads tests/golden/tokenizer_goldens.jsonl, and hashes as its script does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace longdoc::testing {

struct TokenizerGolden {
  std::string text;
  bool full = false;  // ids and offsets are listed, else only their hashes are known
  std::vector<int64_t> ids, offsets;
  std::string ids_hash, offsets_hash;
  std::string character_hash;  // of ids, then offsets, with CharacterTokenizer
};

std::string ReadFileOrDie(const std::string& path);
std::vector<TokenizerGolden> ReadTokenizerGoldens();

// The tokenizer of bert-base-uncased, from tests/golden.
const Tokenizer& BertTokenizer();

// One token per character below U+30000: shows what normalization lets through (see the script).
const Tokenizer& CharacterTokenizer();

std::vector<int64_t> Ids(const TokenSequence& tokens);
std::vector<int64_t> Offsets(const TokenSequence& tokens);  // begin, end, begin, ...
std::string Fnv(const std::vector<int64_t>& numbers);

}  // namespace longdoc::testing
