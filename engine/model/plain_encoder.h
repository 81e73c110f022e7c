// The encoder in plain loops, fp32 with no library: slow, and the same bits on every machine.
// Private to engine/model: it calibrates new models (calibration.h), and tests compare with it.
//
// Memory: a few [T, max(C, 2F)] arrays for the whole text; never [T, T]. Work: quadratic in T.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/encoder_config.h"
#include "engine/model/encoder_weights.h"

namespace longdoc {

// Largest Euclidean norms over all tokens, per head.
struct HeadNorms {
  std::vector<float> query, key;  // [H]
};

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
  void Attend(std::vector<float>& out) const;

  const EncoderConfig& config_;
  const EncoderWeights& weights_;
  int64_t tokens_;
  std::vector<float> hidden_, query_, key_, value_;  // [T, C]
};

// exp and erf from additions, multiplications and divisions alone: those of the C library differ in
// their last bits between its versions and between processors. Relative error below 1e-14.
double PlainExp(double x);
double PlainErf(double x);

}  // namespace longdoc
