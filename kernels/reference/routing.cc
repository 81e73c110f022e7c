#include "kernels/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"

namespace longdoc::kernels::reference {

void RmsNorm(const RmsNormArgs& args) {
  std::vector<double> y(args.dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + (args.indices != nullptr ? args.indices[r] : r) * args.x_stride;
    double squares = 0;
    for (int64_t c = 0; c < args.dim; ++c) squares += static_cast<double>(x[c]) * x[c];
    const double rms = std::sqrt(squares / static_cast<double>(args.dim) + args.epsilon);
    for (int64_t c = 0; c < args.dim; ++c) y[c] = x[c] / rms * args.gamma[c];
    for (int s = 0; s < args.num_routers; ++s) {
      double score = 0;
      for (int64_t c = 0; c < args.dim; ++c) score += y[c] * args.routers[s][c];
      args.scores[s][r] = static_cast<float>(score);
    }
    if (args.out == nullptr) continue;
    const double scale = args.row_scale != nullptr ? args.row_scale[r] : 1.0;
    for (int64_t c = 0; c < args.dim; ++c) {
      StoreAs(args.out_type, args.out, r * args.dim + c, static_cast<float>(y[c] * scale));
    }
  }
}

namespace {

// t = offset − centre with sum of min(1, exp(s + t)) = k; apart, because s may be huge.
struct Threshold {
  double centre = 0, offset = 0;
};

// Over `descending` scores, 0 < k < n. The j largest are clipped to 1: the first j that is
// consistent is the one.
Threshold SoftTopKThreshold(const std::vector<double>& descending, int64_t k) {
  const int64_t n = static_cast<int64_t>(descending.size());
  // log_rest[j] = ln of the sum of exp(s − s_j) over the entries j, j+1, …
  std::vector<double> log_rest(n, 0.0);
  for (int64_t j = n - 2; j >= 0; --j) {
    log_rest[j] = std::log1p(std::exp(log_rest[j + 1] + (descending[j + 1] - descending[j])));
  }
  for (int64_t j = 0; j < k; ++j) {
    const double offset = std::log(static_cast<double>(k - j)) - log_rest[j];
    if (offset <= 0) return {descending[j], offset};
  }
  return {descending[k - 1], 0};  // rounding alone leads here
}

}  // namespace

void Route(const RouteArgs& args) {
  std::vector<int32_t> order(args.n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float x = args.scores[a], y = args.scores[b];
    return std::isnan(y) ? !std::isnan(x) : x > y;
  });
  std::vector<double> numbers;  // in descending order
  for (int32_t i : order) {
    if (!std::isnan(args.scores[i])) numbers.push_back(args.scores[i]);
  }
  const bool all = args.k >= static_cast<int64_t>(numbers.size());
  const Threshold t = all || args.k == 0 ? Threshold() : SoftTopKThreshold(numbers, args.k);
  std::sort(order.begin(), order.begin() + args.k);
  for (int64_t r = 0; r < args.k; ++r) {
    const double score = args.scores[order[r]];
    args.indices[r] = order[r];
    args.weights[r] =
        std::isnan(score) ? 0.0f
        : all             ? 1.0f
              : static_cast<float>(std::min(1.0, std::exp(score - t.centre + t.offset)));
  }
}

void ScatterAdd(const ScatterAddArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    float* out = args.out + (args.indices != nullptr ? args.indices[r] : r) * args.dim;
    const double scale = args.row_scale != nullptr ? args.row_scale[r] : 1.0;
    for (int64_t c = 0; c < args.dim; ++c) {
      out[c] = static_cast<float>(out[c] + scale * args.in[r * args.dim + c]);
    }
  }
}

}  // namespace longdoc::kernels::reference
