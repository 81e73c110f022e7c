// The encoder in plain loops, fp32 with no library: slow, and the same bits on every machine.
// Private to engine/model: it calibrates new models (calibration.h), and tests compare with it.
//
// Memory: a few [T, max(C, 2F)] arrays for the whole text; never [T, T]. Work: quadratic in T.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/encoder_config.h"
#include "engine/model/encoder_weights.h"
#include "engine/model/plain_math.h"

namespace longdoc {

class PlainEncoder {
 public:
  // `weights` are F32 and outlive this object; `ids` are below vocab_size, special tokens included.
  // The values of layer l's weights are read only in ProjectLayer(l) and FinishLayer(l).
  PlainEncoder(const EncoderConfig& config, const EncoderWeights& weights,
               const std::vector<int32_t>& ids);

  // Queries, keys and values of `layer` from the current hidden states.
  HeadNorms ProjectLayer(int64_t layer);
  // Attention and feed-forward of `layer`, after ProjectLayer(layer): the next hidden states.
  void FinishLayer(int64_t layer);

  const std::vector<float>& hidden() const { return hidden_; }  // [T, C]

 private:
  const EncoderConfig& config_;
  const EncoderWeights& weights_;
  int64_t tokens_;
  std::vector<float> hidden_, query_, key_, value_;  // [T, C]
};

}  // namespace longdoc
