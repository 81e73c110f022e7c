// Compiled with -ffp-contract=off, like plain_math.cc.
#include "engine/model/plain_colt5.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/base/check.h"

namespace longdoc {
namespace {

std::vector<float> Embed(const Colt5Config& config, const Colt5Weights& weights,
                         const std::vector<int32_t>& ids) {
  const int64_t c = config.hidden_size;
  const float* table = F32(weights.embeddings);
  std::vector<float> x;
  x.reserve(ids.size() * static_cast<size_t>(c));
  for (int64_t id : ids) {
    LD_CHECK(id >= 0 && id < config.vocab_size);
    x.insert(x.end(), table + id * c, table + (id + 1) * c);
  }
  return x;
}

std::vector<float> RmsNorm(const std::vector<float>& x, const TensorView& gain, double eps) {
  const float* gamma = F32(gain);
  const int64_t c = gain.shape[0];
  std::vector<float> out(x.size());
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(c)) {
    const float* v = x.data() + row;
    double squares = 0;
    for (int64_t i = 0; i < c; ++i) squares += static_cast<double>(v[i]) * v[i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c) + eps);
    for (int64_t i = 0; i < c; ++i) {
      out[row + static_cast<size_t>(i)] = static_cast<float>(v[i] * scale * gamma[i]);
    }
  }
  return out;
}

std::vector<float> FeedForward(const std::vector<float>& h, int64_t tokens,
                               const Colt5FeedForwardWeights& w) {
  const int64_t f = w.down.shape[1];
  const std::vector<float> gated = Linear(h, tokens, w.gate_up);
  std::vector<float> inner(static_cast<size_t>(tokens * f));
  ParallelRows(tokens, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* first = gated.data() + t * 2 * f;
      for (int64_t i = 0; i < f; ++i) {
        inner[static_cast<size_t>(t * f + i)] =
            static_cast<float>(PlainTanhGelu(first[i]) * first[f + i]);
      }
    }
  });
  return Linear(inner, tokens, w.down);
}

// Rows of x [n, C] at the routed tokens; `scaled` by their weights.
std::vector<float> Gather(const std::vector<float>& x, int64_t c, const PlainRouting& routing,
                          bool scaled) {
  std::vector<float> rows;
  rows.reserve(routing.indices.size() * static_cast<size_t>(c));
  for (size_t r = 0; r < routing.indices.size(); ++r) {
    const float* row = x.data() + routing.indices[r] * c;
    const float weight = scaled ? routing.weights[r] : 1;
    for (int64_t i = 0; i < c; ++i) rows.push_back(row[i] * weight);
  }
  return rows;
}

// x at the routed tokens += weight · rows.
void ScatterAdd(const std::vector<float>& rows, int64_t c, const PlainRouting& routing,
                std::vector<float>& x) {
  for (size_t r = 0; r < routing.indices.size(); ++r) {
    for (int64_t i = 0; i < c; ++i) {
      x[static_cast<size_t>(routing.indices[r] * c + i)] +=
          routing.weights[r] * rows[r * static_cast<size_t>(c) + static_cast<size_t>(i)];
    }
  }
}

}  // namespace

PlainRouting PlainRoute(const std::vector<double>& scores, int64_t k) {
  PlainRouting routing;
  if (k == 0) return routing;
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  routing.indices.assign(order.begin(), order.begin() + k);
  std::sort(routing.indices.begin(), routing.indices.end());
  routing.weights.assign(static_cast<size_t>(k), 1.0f);
  if (k == static_cast<int64_t>(scores.size())) return routing;

  // With the j highest clipped at 1, e^(score + t) = e^score · (k − j) / Σ of the rest. The right
  // j is the first for which the highest of the rest stays at or below 1. Scores relative to that
  // one keep its sum within range; what underflows beside it weighs nothing.
  double top = 0, scale = 0;
  for (int64_t j = 0; j < k; ++j) {
    top = scores[static_cast<size_t>(order[static_cast<size_t>(j)])];
    double rest = 0;
    for (size_t i = scores.size(); i-- > static_cast<size_t>(j);) {
      rest += PlainExp(scores[static_cast<size_t>(order[i])] - top);
    }
    scale = static_cast<double>(k - j) / rest;
    if (scale <= 1) break;
  }
  for (int64_t r = 0; r < k; ++r) {
    const double score = scores[static_cast<size_t>(routing.indices[static_cast<size_t>(r)])];
    routing.weights[static_cast<size_t>(r)] =
        static_cast<float>(std::min(1.0, PlainExp(score - top) * scale));
  }
  return routing;
}

PlainColt5Encoder::PlainColt5Encoder(const Colt5Config& config, const Colt5Weights& weights,
                                     const std::vector<int32_t>& ids)
    : config_(config),
      weights_(weights),
      tokens_(static_cast<int64_t>(ids.size())),
      x_(Embed(config, weights, ids)) {}

void PlainColt5Encoder::BeginAttention(int64_t layer) {
  h_ = RmsNorm(x_, weights_.encoder_layers[static_cast<size_t>(layer)].attention_norm,
               config_.rms_norm_eps);
}

HeadNorms PlainColt5Encoder::ProjectLight(int64_t layer) {
  const Colt5AttentionWeights& w =
      weights_.encoder_layers[static_cast<size_t>(layer)].light_attention;
  light_ = {Linear(h_, tokens_, w.query), Linear(h_, tokens_, w.key), Linear(h_, tokens_, w.value)};
  return {MaxHeadNorms(light_.query, config_.light_heads, config_.head_dim),
          MaxHeadNorms(light_.key, config_.light_heads, config_.head_dim)};
}

void PlainColt5Encoder::RouteAttention(int64_t layer) {
  const Colt5EncoderLayerWeights& w = weights_.encoder_layers[static_cast<size_t>(layer)];
  query_routing_ = PlainRoute(Scores(w.query_router), RoutedCount(tokens_, config_.query_rate));
  kv_routing_ = PlainRoute(Scores(w.kv_router), RoutedCount(tokens_, config_.kv_rate));
}

HeadNorms PlainColt5Encoder::ProjectHeavy(int64_t layer) {
  const Colt5AttentionWeights& w =
      weights_.encoder_layers[static_cast<size_t>(layer)].heavy_attention;
  const std::vector<float> from = Gather(h_, config_.hidden_size, query_routing_, false);
  const std::vector<float> to = Gather(h_, config_.hidden_size, kv_routing_, true);
  const int64_t queries = static_cast<int64_t>(query_routing_.indices.size());
  const int64_t keys = static_cast<int64_t>(kv_routing_.indices.size());
  heavy_ = {Linear(from, queries, w.query), Linear(to, keys, w.key), Linear(to, keys, w.value)};
  return {MaxHeadNorms(heavy_.query, config_.heavy_heads, config_.head_dim),
          MaxHeadNorms(heavy_.key, config_.heavy_heads, config_.head_dim)};
}

std::vector<float> PlainColt5Encoder::Attended(const Projected& p, const Colt5AttentionWeights& w,
                                               PlainAttention attention, int64_t queries,
                                               int64_t keys) const {
  attention.kv_heads = attention.heads;
  attention.head_dim = config_.head_dim;
  return Linear(Attend(attention, p.query, queries, p.key, p.value, keys), queries, w.output);
}

void PlainColt5Encoder::FinishAttention(int64_t layer) {
  const Colt5EncoderLayerWeights& w = weights_.encoder_layers[static_cast<size_t>(layer)];
  PlainAttention light;
  light.heads = config_.light_heads;
  light.slopes = &config_.light_slopes;
  light.radius = config_.light_radius;
  AddTo(x_, Attended(light_, w.light_attention, light, tokens_, tokens_));
  if (query_routing_.indices.empty() || kv_routing_.indices.empty()) return;
  PlainAttention heavy;
  heavy.heads = config_.heavy_heads;
  heavy.slopes = &config_.heavy_slopes;
  heavy.query_positions = &query_routing_.indices;
  heavy.key_positions = &kv_routing_.indices;
  ScatterAdd(Attended(heavy_, w.heavy_attention, heavy,
                      static_cast<int64_t>(query_routing_.indices.size()),
                      static_cast<int64_t>(kv_routing_.indices.size())),
             config_.hidden_size, query_routing_, x_);
}

void PlainColt5Encoder::BeginFeedForward(int64_t layer) {
  h_ = RmsNorm(x_, weights_.encoder_layers[static_cast<size_t>(layer)].ff_norm,
               config_.rms_norm_eps);
}

void PlainColt5Encoder::FinishFeedForward(int64_t layer) {
  const Colt5EncoderLayerWeights& w = weights_.encoder_layers[static_cast<size_t>(layer)];
  ff_routing_ = PlainRoute(Scores(w.ff_router), RoutedCount(tokens_, config_.ff_rate));
  AddTo(x_, FeedForward(h_, tokens_, w.light_ff));
  const int64_t routed = static_cast<int64_t>(ff_routing_.indices.size());
  ScatterAdd(FeedForward(Gather(h_, config_.hidden_size, ff_routing_, false), routed, w.heavy_ff),
             config_.hidden_size, ff_routing_, x_);
}

void PlainColt5Encoder::RunLayer(int64_t layer) {
  BeginAttention(layer);
  ProjectLight(layer);
  RouteAttention(layer);
  ProjectHeavy(layer);
  FinishAttention(layer);
  BeginFeedForward(layer);
  FinishFeedForward(layer);
}

std::vector<double> PlainColt5Encoder::Scores(const TensorView& router) const {
  const int64_t c = config_.hidden_size;
  const float* u = F32(router);
  std::vector<double> scores;
  for (int64_t t = 0; t < tokens_; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < c; ++i) {
      sum += static_cast<double>(h_[static_cast<size_t>(t * c + i)]) * u[i];
    }
    scores.push_back(sum);
  }
  return scores;
}

double PlainColt5Encoder::ScoreSpread(const TensorView& router) const {
  double sum = 0, squares = 0;
  const std::vector<double> scores = Scores(router);
  for (double score : scores) sum += score;
  const double mean = sum / static_cast<double>(scores.size());
  for (double score : scores) squares += (score - mean) * (score - mean);
  return std::sqrt(squares / static_cast<double>(scores.size()));
}

std::vector<float> PlainColt5Encoder::States() const {
  return RmsNorm(x_, weights_.encoder_final_norm, config_.rms_norm_eps);
}

PlainColt5Decoder::PlainColt5Decoder(const Colt5Config& config, const Colt5Weights& weights,
                                     const std::vector<float>& states,
                                     const std::vector<int32_t>& inputs)
    : config_(config),
      weights_(weights),
      states_(states),
      tokens_(static_cast<int64_t>(inputs.size())),
      y_(Embed(config, weights, inputs)) {}

HeadNorms PlainColt5Decoder::Project(const Colt5AttentionWeights& w, const TensorView& norm,
                                     const std::vector<float>* keys_from) {
  const std::vector<float> h = RmsNorm(y_, norm, config_.rms_norm_eps);
  const std::vector<float>& from = keys_from == nullptr ? h : *keys_from;
  const int64_t keys = static_cast<int64_t>(from.size()) / config_.hidden_size;
  query_ = Linear(h, tokens_, w.query);
  key_ = Linear(from, keys, w.key);
  value_ = Linear(from, keys, w.value);
  return {MaxHeadNorms(query_, config_.decoder_heads, config_.head_dim),
          MaxHeadNorms(key_, 1, config_.head_dim)};
}

void PlainColt5Decoder::Finish(const Colt5AttentionWeights& w, bool causal) {
  PlainAttention attention;
  attention.heads = config_.decoder_heads;
  attention.kv_heads = 1;
  attention.head_dim = config_.head_dim;
  attention.causal = causal;
  attention.slopes = causal ? &config_.decoder_slopes : nullptr;
  const int64_t keys = static_cast<int64_t>(key_.size()) / config_.head_dim;
  AddTo(y_, Linear(Attend(attention, query_, tokens_, key_, value_, keys), tokens_, w.output));
}

HeadNorms PlainColt5Decoder::ProjectSelf(int64_t layer) {
  const Colt5DecoderLayerWeights& w = weights_.decoder_layers[static_cast<size_t>(layer)];
  return Project(w.self_attention, w.self_attention_norm, nullptr);
}

void PlainColt5Decoder::FinishSelf(int64_t layer) {
  Finish(weights_.decoder_layers[static_cast<size_t>(layer)].self_attention, /*causal=*/true);
}

HeadNorms PlainColt5Decoder::ProjectCross(int64_t layer) {
  const Colt5DecoderLayerWeights& w = weights_.decoder_layers[static_cast<size_t>(layer)];
  return Project(w.cross_attention, w.cross_attention_norm, &states_);
}

void PlainColt5Decoder::FinishCross(int64_t layer) {
  Finish(weights_.decoder_layers[static_cast<size_t>(layer)].cross_attention, /*causal=*/false);
}

void PlainColt5Decoder::RunFeedForward(int64_t layer) {
  const Colt5DecoderLayerWeights& w = weights_.decoder_layers[static_cast<size_t>(layer)];
  AddTo(y_, FeedForward(RmsNorm(y_, w.ff_norm, config_.rms_norm_eps), tokens_, w.ff));
}

void PlainColt5Decoder::RunLayer(int64_t layer) {
  ProjectSelf(layer);
  FinishSelf(layer);
  ProjectCross(layer);
  FinishCross(layer);
  RunFeedForward(layer);
}

double PlainColt5Decoder::LogProb(int64_t position, int32_t target) const {
  const int64_t c = config_.hidden_size;
  const std::vector<float> row(y_.begin() + position * c, y_.begin() + (position + 1) * c);
  const std::vector<float> logits = Linear(
      RmsNorm(row, weights_.decoder_final_norm, config_.rms_norm_eps), 1, weights_.embeddings);
  const double scale = 1 / std::sqrt(static_cast<double>(c));
  const double best = *std::max_element(logits.begin(), logits.end()) * scale;
  double sum = 0;
  for (float logit : logits) sum += PlainExp(logit * scale - best);
  return logits[static_cast<size_t>(target)] * scale - best - std::log(sum);
}

}  // namespace longdoc
