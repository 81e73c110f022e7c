// Compiled with -ffp-contract=off: every sum below has one fixed order and one rounding per step.
#include "engine/model/plain_encoder.h"

#include <cmath>

#include "engine/base/check.h"

namespace longdoc {
namespace {

// LayerNorm of every row, in place.
void Normalize(std::vector<float>& x, const NormWeights& norm, double eps) {
  const float* gamma = F32(norm.gamma);
  const float* beta = F32(norm.beta);
  const int64_t c = norm.gamma.shape[0];
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(c)) {
    float* v = x.data() + row;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < c; ++i) sum += v[i];
    const double mean = sum / static_cast<double>(c);
    for (int64_t i = 0; i < c; ++i) squares += (v[i] - mean) * (v[i] - mean);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c) + eps);
    for (int64_t i = 0; i < c; ++i) {
      v[i] = static_cast<float>((v[i] - mean) * scale * gamma[i] + beta[i]);
    }
  }
}

double Gelu(double x) { return x * 0.5 * (1 + PlainErf(x * 0.70710678118654752440)); }

}  // namespace

PlainEncoder::PlainEncoder(const EncoderConfig& config, const EncoderWeights& weights,
                           const std::vector<int32_t>& ids)
    : config_(config), weights_(weights), tokens_(static_cast<int64_t>(ids.size())) {
  const int64_t c = config_.hidden_size;
  const float* word = F32(weights_.word);
  const float* type = F32(weights_.token_type);
  hidden_.resize(static_cast<size_t>(tokens_ * c));
  for (int64_t t = 0; t < tokens_; ++t) {
    const int64_t id = ids[static_cast<size_t>(t)];
    LD_CHECK(id >= 0 && id < config_.vocab_size);
    for (int64_t i = 0; i < c; ++i) {
      hidden_[static_cast<size_t>(t * c + i)] = word[id * c + i] + type[i];
    }
  }
  Normalize(hidden_, weights_.embedding_norm, config_.layer_norm_eps);
}

HeadNorms PlainEncoder::ProjectLayer(int64_t layer) {
  const EncoderLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  query_ = Linear(hidden_, tokens_, w.query, w.query_bias);
  key_ = Linear(hidden_, tokens_, w.key, w.key_bias);
  value_ = Linear(hidden_, tokens_, w.value, w.value_bias);
  if (config_.family == EncoderFamily::kJinaBertB) {
    Normalize(query_, w.query_norm, config_.layer_norm_eps);
    Normalize(key_, w.key_norm, config_.layer_norm_eps);
  }
  return {MaxHeadNorms(query_, config_.num_heads, config_.head_dim),
          MaxHeadNorms(key_, config_.num_heads, config_.head_dim)};
}

void PlainEncoder::FinishLayer(int64_t layer) {
  const EncoderLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const bool b = config_.family == EncoderFamily::kJinaBertB;
  const double eps = config_.layer_norm_eps;
  PlainAttention attention;
  attention.heads = attention.kv_heads = config_.num_heads;
  attention.head_dim = config_.head_dim;
  attention.slopes = &config_.slopes;
  const std::vector<float> attended = Attend(attention, query_, tokens_, key_, value_, tokens_);
  std::vector<float> x = Linear(attended, tokens_, w.output, w.output_bias);
  AddTo(x, hidden_);
  Normalize(x, w.attention_norm, eps);
  if (b) {  // the residual once more
    AddTo(x, hidden_);
    Normalize(x, w.norm_1, eps);
  }
  const int64_t f = config_.intermediate_size;
  const std::vector<float> gated = Linear(x, tokens_, w.gated, TensorView{});
  std::vector<float> inner(static_cast<size_t>(tokens_ * f));
  ParallelRows(tokens_, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* first = gated.data() + t * 2 * f;
      const float* second = first + f;
      for (int64_t i = 0; i < f; ++i) {
        const double u = b ? first[i] * Gelu(second[i]) : Gelu(first[i]) * second[i];
        inner[static_cast<size_t>(t * f + i)] = static_cast<float>(u);
      }
    }
  });
  hidden_ = Linear(inner, tokens_, w.down, w.down_bias);
  AddTo(hidden_, x);
  Normalize(hidden_, w.mlp_norm, eps);
}

}  // namespace longdoc
