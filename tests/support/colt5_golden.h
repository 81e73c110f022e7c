// Small longdoc-CoLT5 models with pseudo-random weights, and what their definition in PyTorch makes
// of them in float64 (tests/golden/make_colt5_goldens.py tells what the numbers are). The weights
// are not stored: both sides compute them, bit for bit alike, from integer hashes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/colt5_config.h"

namespace longdoc::testing {

struct GoldenRouting {
  std::vector<int32_t> indices;  // [k], ascending; empty when nothing is routed
  std::vector<float> weights;    // [k], soft top-k
};

struct GoldenColt5Layer {
  GoldenRouting query, kv, ff;
};

// Cross-attention keys and values of one decoder layer at GoldenColt5Case::rows.
struct GoldenCrossKv {
  std::vector<std::vector<float>> keys, values;  // [rows][D]
};

struct GoldenCandidate {
  std::vector<int32_t> ids;      // without [CLS] and [SEP]
  std::vector<float> log_probs;  // [ids + 1], the last is that of [SEP]
};

struct GoldenColt5Case {
  std::vector<int32_t> ids;  // the document, [CLS] and [SEP] included
  // Spans [begin, end) and their vectors, not normalised; the first is the whole document.
  std::vector<std::pair<int64_t, int64_t>> ranges;
  std::vector<std::vector<float>> vectors;  // [ranges][vector_size]
  std::vector<int64_t> rows;                // tokens whose states are stored
  std::vector<std::vector<float>> states;   // [rows][C], after the final norm
  std::vector<GoldenColt5Layer> layers;     // the whole routing of every encoder layer
  // Empty without a decoder.
  std::vector<GoldenCrossKv> cross;  // [decoder_layers]
  std::vector<GoldenCandidate> candidates;
  std::vector<int32_t> prompt, continuation;  // greedy, after [CLS] and the prompt
};

struct GoldenColt5 {
  std::string name;
  Colt5Config config;
  int32_t cls = 0, sep = 0;
  std::vector<GoldenColt5Case> cases;  // by length
};

// "routed": 1, 2, 5, 17, 24 and 300 tokens at the usual rates, a projection; "all": every rate 1;
// "none": every rate 0; "no_keys": queries and feed-forward but no keys are routed, no decoder;
// "long": 5,000 tokens. Aborts when the committed files are missing or broken.
std::vector<std::string> GoldenColt5Names();
GoldenColt5 LoadGoldenColt5(const std::string& name);

// Writes config.json, model.safetensors and vocab.txt of the model `name` into `dir`, which must
// exist.
void WriteGoldenColt5(const std::string& name, const std::string& dir);

}  // namespace longdoc::testing
