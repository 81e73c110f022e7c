// Reads the goldens of the tokenizers (tests/golden/*.jsonl), and hashes as their scripts do.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
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

// A line of tests/golden/bpe_goldens.jsonl.
struct BpeGolden {
  std::string text;
  std::vector<int64_t> ids, offsets;     // of "roberta"
  std::string gpt2_hash, prefixed_hash;  // of ids, then offsets
};
struct BpeGoldens {
  std::vector<BpeGolden> lines;
  // Of the first texts of tokenizer_goldens.jsonl, over the variants one after the other.
  std::vector<std::string> shared_hashes;
};
BpeGoldens ReadBpeGoldens();

// tokenizer.json of byte-level BPE on engine/text/data/bpe_merges.txt, in the variant "roberta",
// "gpt2" or "prefixed" of tests/golden/make_bpe_goldens.py.
nlohmann::json BpeTokenizerJson(const std::string& variant);
const Tokenizer& BpeTokenizer(const std::string& variant);

std::vector<int64_t> Ids(const TokenSequence& tokens);
std::vector<int64_t> Offsets(const TokenSequence& tokens);  // begin, end, begin, ...
std::string Fnv(const std::vector<int64_t>& numbers);
// Ids, then offsets.
std::vector<int64_t> Numbers(const TokenSequence& tokens);

// Feeds `text` in pieces of 1 to `max_piece` bytes, taking tokens now and then.
TokenSequence EncodeInPieces(const Tokenizer& tokenizer, const std::string& text, size_t max_piece,
                             std::mt19937* rng);

}  // namespace longdoc::testing
