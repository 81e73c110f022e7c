// Random weights that can be changed before they are written. Private to engine/model.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/model/colt5_config.h"
#include "engine/model/colt5_weights.h"
#include "engine/model/encoder_config.h"
#include "engine/model/encoder_weights.h"

namespace longdoc {

struct OwnedTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

// Tensors by their names in the file; node-based, so that views stay valid while it is not erased.
using OwnedTensors = std::map<std::string, OwnedTensor>;

// Multiplies part `part` of `parts` equal ones of a tensor: the rows of a matrix, or elements of a
// vector, that make one head's components.
void ScalePart(OwnedTensor& tensor, int64_t part, int64_t parts, double factor);

// All tensors of an encoder of this shape, depending on (config, seed) alone and to the last bit on
// nothing else. Scaled so that every sublayer answers with values of order one: matrices have
// standard deviation 1/sqrt(fan-in), embeddings and biases 0.02, gains lie around 1.
// A reranker's head is among them.
OwnedTensors MakeRandomWeights(const EncoderConfig& config, uint64_t seed);
// Likewise; embeddings and the scores of routers have standard deviation 1, and what the sublayers
// of the encoder add up to is as large as the embeddings, at any depth.
OwnedTensors MakeRandomWeights(const Colt5Config& config, uint64_t seed);

// Views by role (without a reranker's head), as LoadEncoderCheckpoint and LoadColt5Checkpoint give
// them.
EncoderWeights ViewWeights(const EncoderConfig& config, const OwnedTensors& tensors);
Colt5Weights ViewWeights(const Colt5Config& config, const OwnedTensors& tensors);

// Where a layer's tensors are found, with the variant's names.
std::string SelfAttentionName(int64_t layer, const std::string& part);

}  // namespace longdoc
