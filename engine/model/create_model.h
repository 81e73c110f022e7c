// Makes a model directory with random weights, in exactly Hugging Face's layout.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/encoder_config.h"

namespace longdoc {

struct CreateModelOptions {
  EncoderConfig config;  // see PresetConfig
  uint64_t seed = 1;
  // > 0: scale query and key weights per layer and head so that max‖q‖·max‖k‖/√D over the
  // calibration text is about this, as trained models have it. 0: leave the plain initialisation.
  double logit_bound = 20;
  std::string calibration_text;  // real text; required with logit_bound > 0
  std::string vocab_txt;  // contents of the vocabulary; its size rounds up to config.vocab_size
};

// "jina-small" (4 layers, 512, 8 heads), "jina-base" (12, 768, 12), "tiny" (2, 64, 4; D = 16),
// "tiny-b" (variant B, same size). NOT_FOUND naming the presets otherwise.
absl::StatusOr<EncoderConfig> PresetConfig(const std::string& preset);

// Writes config.json, model.safetensors, tokenizer.json, vocab.txt, tokenizer_config.json into
// `dir` (created; must not already hold a model: ALREADY_EXISTS). Deterministic in (options).
// Written under temporary names and renamed last, so that a directory with a config.json is whole.
absl::Status CreateModel(const std::string& dir, const CreateModelOptions& options);

}  // namespace longdoc
