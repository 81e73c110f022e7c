// Calibration of longdoc-CoLT5 models. Compiled with -ffp-contract=off, like plain_math.cc.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/calibration.h"
#include "engine/model/plain_colt5.h"

namespace longdoc {
namespace {

// What the decoder reads: enough positions to see its largest norms.
constexpr size_t kDecoderTokens = 128;

// Measuring and scaling are one walk through the model, so that they cannot disagree about what is
// measured. With tensors, each step scales them before the next one uses them.
class Walk {
 public:
  Walk(const Colt5Config& config, const Colt5Weights& weights, double bound, OwnedTensors* tensors)
      : config_(config), weights_(weights), bound_(bound), tensors_(tensors) {}

  Colt5Spread Run(const std::vector<int32_t>& ids) {
    PlainColt5Encoder encoder(config_, weights_, ids);
    for (int64_t l = 0; l < config_.num_layers; ++l) WalkEncoderLayer(l, encoder);
    const std::vector<float> states = encoder.States();
    const std::vector<int32_t> inputs(ids.begin(),
                                      ids.begin() + std::min(ids.size(), kDecoderTokens));
    PlainColt5Decoder decoder(config_, weights_, states, inputs);
    for (int64_t l = 0; l < config_.decoder_layers; ++l) WalkDecoderLayer(l, decoder);
    return std::move(spread_);
  }

 private:
  void WalkEncoderLayer(int64_t l, PlainColt5Encoder& encoder) {
    const Colt5EncoderLayerWeights& w = weights_.encoder_layers[static_cast<size_t>(l)];
    const std::string layer = absl::StrCat("encoder.layers.", l, ".");
    spread_.routers.emplace_back();
    encoder.BeginAttention(l);
    See(encoder.ScoreSpread(w.query_router), layer + "attention_router.query");
    See(encoder.ScoreSpread(w.kv_router), layer + "attention_router.kv");
    encoder.RouteAttention(l);
    if (See(encoder.ProjectLight(l), layer + "light_attention", spread_.light)) {
      encoder.ProjectLight(l);
    }
    if (See(encoder.ProjectHeavy(l), layer + "heavy_attention", spread_.heavy)) {
      encoder.ProjectHeavy(l);
    }
    encoder.FinishAttention(l);
    encoder.BeginFeedForward(l);
    See(encoder.ScoreSpread(w.ff_router), layer + "ff_router");
    encoder.FinishFeedForward(l);
  }

  void WalkDecoderLayer(int64_t l, PlainColt5Decoder& decoder) {
    const std::string layer = absl::StrCat("decoder.layers.", l, ".");
    if (See(decoder.ProjectSelf(l), layer + "self_attention", spread_.self_attention)) {
      decoder.ProjectSelf(l);
    }
    decoder.FinishSelf(l);
    if (See(decoder.ProjectCross(l), layer + "cross_attention", spread_.cross_attention)) {
      decoder.ProjectCross(l);
    }
    decoder.FinishCross(l);
    decoder.RunFeedForward(l);
  }

  // A router's scores.
  void See(double deviation, const std::string& name) {
    spread_.routers.back().push_back(deviation);
    if (tensors_ != nullptr && deviation > 0) {
      ScalePart(tensors_->at(name + ".weight"), 0, 1, 1 / deviation);
    }
  }

  // An attention's queries and keys; true when they were scaled and have to be projected again.
  bool See(const HeadNorms& norms, const std::string& name,
           std::vector<std::vector<double>>& layers) {
    layers.push_back(LogitBounds(norms, config_.head_dim));
    std::vector<double> factors;  // of each head's logits
    for (double measured : layers.back()) factors.push_back(measured > 0 ? bound_ / measured : 1);
    if (tensors_ == nullptr) return false;
    const int64_t heads = static_cast<int64_t>(factors.size());
    const int64_t kv_heads = static_cast<int64_t>(norms.key.size());
    // Keys take the root of their head's factor, so that queries and keys stay of like size; the
    // only head of a multi-query attention takes one between the smallest and the largest root.
    const auto [low, high] = std::minmax_element(factors.begin(), factors.end());
    const double shared = std::sqrt(std::sqrt(*low) * std::sqrt(*high));
    for (int64_t h = 0; h < heads; ++h) {
      const double factor = factors[static_cast<size_t>(h)];
      const double key_factor = kv_heads == 1 ? shared : std::sqrt(factor);
      ScalePart(tensors_->at(name + ".query.weight"), h, heads, factor / key_factor);
      if (h < kv_heads) ScalePart(tensors_->at(name + ".key.weight"), h, kv_heads, key_factor);
    }
    return true;
  }

  const Colt5Config& config_;
  const Colt5Weights& weights_;
  double bound_;
  OwnedTensors* tensors_;  // null: measure only
  Colt5Spread spread_;
};

}  // namespace

Colt5Spread MeasureSpread(const Colt5Config& config, const Colt5Weights& weights,
                          const std::vector<int32_t>& ids) {
  return Walk(config, weights, /*bound=*/0, nullptr).Run(ids);
}

void CalibrateLogits(const Colt5Config& config, double bound, const std::vector<int32_t>& ids,
                     OwnedTensors& tensors) {
  const Colt5Weights weights = ViewWeights(config, tensors);
  Walk(config, weights, bound, &tensors).Run(ids);
}

}  // namespace longdoc
