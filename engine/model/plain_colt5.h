// longdoc-CoLT5 in plain loops (plain_math.h): slow, and the same bits on every machine. Private to
// engine/model: it calibrates new models (calibration.h), and tests compare with it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/colt5_config.h"
#include "engine/model/colt5_weights.h"
#include "engine/model/plain_math.h"

namespace longdoc {

struct PlainRouting {
  std::vector<int32_t> indices;  // [k], ascending
  std::vector<float> weights;    // [k], soft top-k of the chosen
};

// The k highest scores, ties to the lower index, and min(1, e^(score + t)) with t such that the sum
// over all scores is k. 0 <= k <= scores.size().
PlainRouting PlainRoute(const std::vector<double>& scores, int64_t k);

// One document through the encoder, layer by layer; the steps of a layer go in the order below, so
// that a caller may look at what a step made and change the weights of the next. `weights` are F32,
// and outlive this object like `config`; `ids` are below vocab_size, special tokens included.
class PlainColt5Encoder {
 public:
  PlainColt5Encoder(const Colt5Config& config, const Colt5Weights& weights,
                    const std::vector<int32_t>& ids);

  void BeginAttention(int64_t layer);
  HeadNorms ProjectLight(int64_t layer);
  void RouteAttention(int64_t layer);
  HeadNorms ProjectHeavy(int64_t layer);  // zeros when nothing is routed
  void FinishAttention(int64_t layer);
  void BeginFeedForward(int64_t layer);
  void FinishFeedForward(int64_t layer);  // routes too
  void RunLayer(int64_t layer);           // all of them

  // Between Begin and Finish: the standard deviation of a router's scores over the tokens.
  double ScoreSpread(const TensorView& router) const;
  // Of the layer that ran last.
  const PlainRouting& query_routing() const { return query_routing_; }
  const PlainRouting& kv_routing() const { return kv_routing_; }
  const PlainRouting& ff_routing() const { return ff_routing_; }

  const std::vector<float>& hidden() const { return x_; }  // [n, C]
  std::vector<float> States() const;                       // [n, C], after the final norm

 private:
  struct Projected {
    std::vector<float> query, key, value;
  };
  std::vector<double> Scores(const TensorView& router) const;
  std::vector<float> Attended(const Projected& p, const Colt5AttentionWeights& w,
                              PlainAttention attention, int64_t queries, int64_t keys) const;

  const Colt5Config& config_;
  const Colt5Weights& weights_;
  int64_t tokens_;
  std::vector<float> x_, h_;  // [n, C]
  Projected light_, heavy_;
  PlainRouting query_routing_, kv_routing_, ff_routing_;
};

// The decoder over inputs that begin with [CLS], given a document's states [n, C].
class PlainColt5Decoder {
 public:
  PlainColt5Decoder(const Colt5Config& config, const Colt5Weights& weights,
                    const std::vector<float>& states, const std::vector<int32_t>& inputs);

  HeadNorms ProjectSelf(int64_t layer);
  void FinishSelf(int64_t layer);
  HeadNorms ProjectCross(int64_t layer);
  void FinishCross(int64_t layer);
  void RunFeedForward(int64_t layer);
  void RunLayer(int64_t layer);  // all of them

  // Keys and values [n, D] of the layer that was last projected.
  const std::vector<float>& keys() const { return key_; }
  const std::vector<float>& values() const { return value_; }

  // log p of `target` after input `position`, once every layer has run.
  double LogProb(int64_t position, int32_t target) const;

 private:
  HeadNorms Project(const Colt5AttentionWeights& w, const TensorView& norm,
                    const std::vector<float>* keys_from);
  void Finish(const Colt5AttentionWeights& w, bool causal);

  const Colt5Config& config_;
  const Colt5Weights& weights_;
  const std::vector<float>& states_;
  int64_t tokens_;        // of the inputs
  std::vector<float> y_;  // [inputs, C]
  std::vector<float> query_, key_, value_;
};

}  // namespace longdoc
