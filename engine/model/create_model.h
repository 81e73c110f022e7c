// Makes a model directory with random weights, in exactly Hugging Face's layout.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/colt5_config.h"
#include "engine/model/encoder_config.h"

namespace longdoc {

using ModelConfig = std::variant<EncoderConfig, Colt5Config>;

struct CreateModelOptions {
  // See PresetConfig. vocab_size 0: as large as the vocabulary, rounded up to a multiple of 16.
  ModelConfig config;
  uint64_t seed = 1;
  // > 0: scale query and key weights per layer and head so that max‖q‖·max‖k‖/√D over the
  // calibration text is about this, as trained models have it, and routers until their scores have
  // standard deviation 1. 0: leave the plain initialisation.
  double logit_bound = 20;
  std::string calibration_text;  // real text; required with logit_bound > 0
  std::string vocab_txt;         // contents of the vocabulary; at most config.vocab_size entries
  std::string merges_txt;        // of a reranker instead: the merges of its byte-level BPE
};

// Shapes with names, as docs/models.md lists them: "jina-small", "jina-base", "tiny", "tiny-b",
// "reranker-tiny", "colt5-small", "colt5-base", "colt5-tiny".
std::vector<std::string> PresetNames();
// NOT_FOUND naming the presets.
absl::StatusOr<ModelConfig> PresetConfig(const std::string& preset);

// Writes config.json, model.safetensors, tokenizer.json, vocab.txt (of a reranker vocab.json and
// merges.txt), tokenizer_config.json into `dir` (created; must not already hold a model:
// ALREADY_EXISTS). Deterministic in (options). Written under temporary names and renamed last, so
// that a directory with a config.json is whole.
absl::Status CreateModel(const std::string& dir, const CreateModelOptions& options);

}  // namespace longdoc
