// The tensors of a longdoc-CoLT5 model, by role, as views into a checkpoint. Names: docs/models.md.
// Matrices are [out, in], row-major; nothing has a bias.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/colt5_config.h"
#include "engine/model/safetensors.h"
#include "engine/tensor.h"

namespace longdoc {

// H query heads of D. The encoder has as many key/value heads; the decoder has one (multi-query).
struct Colt5AttentionWeights {
  TensorView query;       // [H * D, C]
  TensorView key, value;  // [H * D, C] in the encoder, [D, C] in the decoder
  TensorView output;      // [C, H * D]
};

struct Colt5FeedForwardWeights {
  TensorView gate_up;  // [2F, C], the first half is activated
  TensorView down;     // [C, F]
};

struct Colt5EncoderLayerWeights {
  TensorView attention_norm;           // [C]
  TensorView query_router, kv_router;  // [C], [C]
  Colt5AttentionWeights light_attention, heavy_attention;
  TensorView ff_norm;    // [C]
  TensorView ff_router;  // [C]
  Colt5FeedForwardWeights light_ff, heavy_ff;
};

struct Colt5DecoderLayerWeights {
  TensorView self_attention_norm;  // [C]
  Colt5AttentionWeights self_attention;
  TensorView cross_attention_norm;        // [C]
  Colt5AttentionWeights cross_attention;  // key and value apply to the encoder's states
  TensorView ff_norm;                     // [C]
  Colt5FeedForwardWeights ff;
};

struct Colt5Weights {
  TensorView embeddings;  // [V, C]: of encoder and decoder, and the output logits
  std::vector<Colt5EncoderLayerWeights> encoder_layers;
  TensorView encoder_final_norm;  // [C]
  TensorView output;              // [output_size, C]; data == nullptr when output_size is 0
  std::vector<Colt5DecoderLayerWeights> decoder_layers;
  TensorView decoder_final_norm;  // [C]; data == nullptr without decoder layers
};

// Calls `take` with name and shape of every tensor that a model of this shape has, and puts what it
// returns in its place: the one table of names.
using TakeTensor = std::function<TensorView(const std::string&, const std::vector<int64_t>&)>;
Colt5Weights CollectColt5Weights(const Colt5Config& config, const TakeTensor& take);

// A model directory, opened: configuration, tensors, and the checkpoint that owns the memory.
struct Colt5Checkpoint {
  Colt5Config config;
  Colt5Weights weights;
  std::unique_ptr<Checkpoint> checkpoint;
  std::string revision;  // hex hash of config.json and the checkpoint's header and size
};

// Opens `model_dir`. Every tensor is checked for its shape, and (`check_finite`) for NaN and
// infinity: INVALID_ARGUMENT naming the tensor. More layers in the file than config.json counts are
// refused too: they would silently make another model.
absl::StatusOr<Colt5Checkpoint> LoadColt5Checkpoint(const std::string& model_dir,
                                                    bool check_finite = true);

}  // namespace longdoc
