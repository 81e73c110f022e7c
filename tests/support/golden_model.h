// Small encoders with pseudo-random weights, and what an independent PyTorch implementation makes
// of them (tests/golden/make_encoder_goldens.py). The weights are not stored: both sides compute
// them, bit for bit alike, from integer hashes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/encoder_config.h"

namespace longdoc::testing {

struct GoldenCase {
  std::vector<int32_t> ids;  // special tokens included
  // Token ranges [begin, end) and the float64 mean of the last hidden states over each, rounded to
  // float32, un-normalised. The first range is the whole document; then the passages, as late
  // chunking cuts them ([CLS] in the first, [SEP] in the last), and some odd ones.
  std::vector<std::pair<int64_t, int64_t>> ranges;
  std::vector<std::vector<float>> vectors;  // [ranges][hidden_size]
  double logit = 0;                         // of a reranker's head
};

struct GoldenModel {
  std::string name;
  EncoderConfig config;           // num_labels 1: a reranker
  std::vector<GoldenCase> cases;  // 1, 2, 17, 300 and 3,000 tokens
};

// Aborts when the committed files are missing or broken: a test cannot go on without them.
std::vector<std::string> GoldenModelNames();
GoldenModel LoadGoldenModel(const std::string& name);

// Writes config.json, model.safetensors and vocab.txt of the golden model `name` into `dir`, which
// must exist. `prefix` goes before every tensor name but the classifier's ("bert." as classifiers
// have it).
void WriteGoldenModel(const std::string& name, const std::string& dir,
                      const std::string& prefix = "");

// Writes vocab.txt with the special tokens where the goldens have them ([PAD] 0, [UNK] 100, [CLS],
// [SEP], [MASK]) and "word<id>" elsewhere.
void WriteGoldenVocabulary(const std::string& dir, int64_t size);

// A fresh empty directory under the test's temporary directory.
std::string MakeTempDir(const std::string& stem);

}  // namespace longdoc::testing
