// The rules by which the next token is chosen (engine/sampler.h), as naively as they can be said:
// all tokens sorted, sums in double. The device is compared with this, and this with the sampler.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace longdoc::kernels::cuda::parity {

struct SampleOptions {
  float scale = 1, temperature = 0;
  int32_t top_k = 0;
  float top_p = 1;
};

struct OracleToken {
  int32_t id = -1;     // -1: logits are not finite
  float log_prob = 0;  // before temperature and truncation
  // How far `uniform` is from the nearest one that gives another token. Below rounding errors of
  // sums (1e-12) two correct samplers may differ.
  double margin = 1;
};

inline OracleToken OracleSample(const float* logits, int64_t size, const SampleOptions& o,
                                double uniform) {
  std::vector<int32_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const float max = logits[order[0]] * o.scale;
  double sum = 0;
  for (int64_t v = 0; v < size; ++v)
    sum += std::exp(static_cast<double>(logits[v] * o.scale) - max);
  OracleToken token;
  if (!std::isfinite(max) || !std::isfinite(sum)) return token;
  token.id = order[0];
  if (o.temperature > 0) {
    std::vector<double> weights(size);
    for (int64_t v = 0; v < size; ++v) {
      weights[v] = std::exp((static_cast<double>(logits[v] * o.scale) - max) / o.temperature);
    }
    if (o.top_k > 0 && o.top_k < size) order.resize(o.top_k);
    const auto add = [&](double x, int32_t v) { return x + weights[v]; };
    if (o.top_p < 1) {
      const double wanted = o.top_p * std::accumulate(order.begin(), order.end(), 0.0, add);
      double reached = 0;
      size_t kept = 0;
      while (kept < order.size()) {
        reached += weights[order[kept++]];
        token.margin = std::min(token.margin, std::fabs(reached - wanted) / wanted);
        if (reached >= wanted) break;
      }
      if (wanted == std::floor(wanted)) token.margin = 1;  // whole numbers are exact
      order.resize(kept);
    }
    std::sort(order.begin(), order.end());
    const double total = std::accumulate(order.begin(), order.end(), 0.0, add);
    double below = 0;
    token.id = -1;
    for (int32_t v : order) {
      below += weights[v];
      if (below != std::floor(below)) {
        token.margin = std::min(token.margin, std::fabs(uniform - below / total));
      }
      if (token.id < 0 && uniform * total < below) token.id = v;
    }
    if (token.id < 0) {  // by rounding alone
      token.id = *std::max_element(order.begin(), order.end(),
                                   [&](int32_t a, int32_t b) { return weights[a] < weights[b]; });
    }
  }
  token.log_prob =
      static_cast<float>(static_cast<double>(logits[token.id] * o.scale) - max - std::log(sum));
  return token;
}

}  // namespace longdoc::kernels::cuda::parity
