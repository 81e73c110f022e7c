// What config.json says of an encoder, checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longdoc {

enum class EncoderFamily {
  kJinaBertA,  // gated_layers, first half activated (jina-embeddings-v2-small/base)
  kJinaBertB,  // q/k LayerNorm, extra residual, second half activated (…-base-code)
};

struct EncoderConfig {
  EncoderFamily family = EncoderFamily::kJinaBertA;
  int64_t vocab_size = 0;   // V
  int64_t hidden_size = 0;  // C
  int64_t num_layers = 0;
  int64_t num_heads = 0;          // H
  int64_t head_dim = 0;           // D = C / H
  int64_t intermediate_size = 0;  // F
  int64_t type_vocab_size = 2;
  int64_t max_position_embeddings = 0;  // what the model advertises; ALiBi has no hard limit
  int32_t pad_token_id = 0;
  float layer_norm_eps = 1e-12f;
  // Outputs of the classifier on the first token; 1 makes a reranker, 0 is none. What config.json
  // says until LoadEncoderCheckpoint has seen the tensors.
  int64_t num_labels = 0;
  std::vector<float> slopes;  // [H], models.md §1.1
};

// models.md §1.1: standard slopes of `num_heads` heads, powers of two and others.
std::vector<float> AlibiSlopes(int64_t num_heads, double bias_max = 8);

// Parses and checks config.json. The family follows from `_name_or_path` / `auto_map` when they
// say so; otherwise it stays A and LoadEncoderWeights decides by tensor names (models.md §2).
// INVALID_ARGUMENT naming field, limit and value; UNIMPLEMENTED for a model_type, activation or
// position_embedding_type we do not have.
absl::StatusOr<EncoderConfig> ParseEncoderConfig(std::string_view json);

// Parameters of the encoder and a reranker's head, and multiply-adds·2 per token outside attention.
int64_t NumParameters(const EncoderConfig& config);
double DenseFlopsPerToken(const EncoderConfig& config);

}  // namespace longdoc
