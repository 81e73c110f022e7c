// The tensors of an encoder, by role, as views into a checkpoint. Names: models.md §2.2, §2.3.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/encoder_config.h"
#include "engine/model/safetensors.h"
#include "engine/tensor.h"

namespace longdoc {

struct NormWeights {
  TensorView gamma, beta;  // [C], [C]
};

struct EncoderLayerWeights {
  TensorView query, query_bias;    // [C, C], [C]
  TensorView key, key_bias;        // [C, C], [C]
  TensorView value, value_bias;    // [C, C], [C]
  TensorView output, output_bias;  // [C, C], [C]
  NormWeights attention_norm;      // attention.output.LayerNorm
  TensorView gated;                // [2F, C], no bias (A: gated_layers, B: up_gated_layer)
  TensorView down, down_bias;      // [C, F], [C]     (A: wo, B: down_layer)
  NormWeights mlp_norm;            // A: mlp.layernorm, B: layer_norm_2
  // B only (data == nullptr in A)
  NormWeights query_norm, key_norm;  // over the whole hidden vector
  NormWeights norm_1;                // layer_norm_1
};

// A reranker's: logit = classifier·tanh(pooler·h + pooler_bias) + classifier_bias of the first
// token's last state h. data == nullptr in models without.
struct HeadWeights {
  TensorView pooler, pooler_bias;          // [C, C], [C]
  TensorView classifier, classifier_bias;  // [1, C], [1]
};

struct EncoderWeights {
  TensorView word;        // [V, C]
  TensorView token_type;  // [C], row 0 of the table
  NormWeights embedding_norm;
  std::vector<EncoderLayerWeights> layers;
  HeadWeights head;
};

// A model directory, opened: configuration, tensors, and the checkpoint that owns the memory.
struct EncoderCheckpoint {
  EncoderConfig config;
  EncoderWeights weights;
  std::unique_ptr<Checkpoint> checkpoint;
  std::string revision;  // hex hash of config.json and the checkpoint's header and size
};

// Opens `model_dir`. Decides the family by tensor names, accepts the prefix "bert."; a classifier
// of one label makes a reranker, which must have a pooler, too; other classifiers, poolers without
// one, and cls.* are ignored. Every tensor is checked for its shape, and (`check_finite`) for NaN
// and infinity: INVALID_ARGUMENT naming the tensor.
absl::StatusOr<EncoderCheckpoint> LoadEncoderCheckpoint(const std::string& model_dir,
                                                        bool check_finite = true);

}  // namespace longdoc
