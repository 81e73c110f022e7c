// Compiled with -ffp-contract=off: every sum below has one fixed order and one rounding per step.
#include "engine/model/plain_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <thread>

#include "engine/base/check.h"

namespace longdoc {
namespace {

// Four floats side by side, on any machine.
typedef float Lanes __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;

Lanes Load(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

const float* F32(const TensorView& tensor) {
  LD_CHECK(tensor.dtype == DType::kF32 && tensor.data != nullptr);
  return static_cast<const float*>(tensor.data);
}

// Runs fn(begin, end) over pieces of [0, count). Every row is computed alike wherever the cuts
// fall.
void ParallelRows(int64_t count, const std::function<void(int64_t, int64_t)>& fn) {
  const int64_t workers =
      std::clamp<int64_t>(static_cast<int64_t>(std::thread::hardware_concurrency()), 1, 16);
  const int64_t piece = std::max<int64_t>(4, (count + workers - 1) / workers);
  std::vector<std::thread> threads;
  for (int64_t begin = piece; begin < count; begin += piece) {
    threads.emplace_back(fn, begin, std::min(begin + piece, count));
  }
  fn(0, std::min(piece, count));
  for (std::thread& thread : threads) thread.join();
}

// y[r, o] = x[r, :]·w[o, :] for R rows and two outputs; strides in elements. The order of summation
// does not depend on R: four lanes over k, the tail after them.
template <int R>
void DotBlock(const float* x, int64_t ldx, const float* w0, const float* w1, int64_t depth,
              float (&y)[R][2]) {
  Lanes acc[R][2] = {};
  const int64_t whole = depth / kLanes * kLanes;
  for (int64_t k = 0; k < whole; k += kLanes) {
    const Lanes a = Load(w0 + k), b = Load(w1 + k);
    for (int r = 0; r < R; ++r) {
      const Lanes v = Load(x + r * ldx + k);
      acc[r][0] += v * a;
      acc[r][1] += v * b;
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < 2; ++o) {
      const float* w = o == 0 ? w0 : w1;
      float sum = (acc[r][o][0] + acc[r][o][1]) + (acc[r][o][2] + acc[r][o][3]);
      for (int64_t k = whole; k < depth; ++k) sum += x[r * ldx + k] * w[k];
      y[r][o] = sum;
    }
  }
}

template <int R>
void MultiplyRows(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t outputs,
                  int64_t depth, const float* bias, float* y, int64_t ldy) {
  for (int64_t o = 0; o < outputs; o += 2) {
    const bool pair = o + 1 < outputs;
    const float* w0 = w + o * ldw;
    float block[R][2];
    DotBlock<R>(x, ldx, w0, pair ? w0 + ldw : w0, depth, block);
    for (int r = 0; r < R; ++r) {
      y[r * ldy + o] = bias != nullptr ? block[r][0] + bias[o] : block[r][0];
      if (pair) y[r * ldy + o + 1] = bias != nullptr ? block[r][1] + bias[o + 1] : block[r][1];
    }
  }
}

// y [rows, outputs] = x [rows, depth] · wᵀ [outputs, depth] + bias.
void Multiply(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t rows,
              int64_t outputs, int64_t depth, const float* bias, float* y, int64_t ldy) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    MultiplyRows<4>(x + r * ldx, ldx, w, ldw, outputs, depth, bias, y + r * ldy, ldy);
  }
  for (; r < rows; ++r) {
    MultiplyRows<1>(x + r * ldx, ldx, w, ldw, outputs, depth, bias, y + r * ldy, ldy);
  }
}

std::vector<float> Linear(const std::vector<float>& x, int64_t tokens, const TensorView& weight,
                          const TensorView& bias) {
  const int64_t outputs = weight.shape[0], depth = weight.shape[1];
  const float* b = bias.data == nullptr ? nullptr : F32(bias);
  std::vector<float> y(static_cast<size_t>(tokens * outputs));
  ParallelRows(tokens, [&](int64_t begin, int64_t end) {
    Multiply(x.data() + begin * depth, depth, F32(weight), depth, end - begin, outputs, depth, b,
             y.data() + begin * outputs, outputs);
  });
  return y;
}

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

void AddTo(std::vector<float>& x, const std::vector<float>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

std::vector<float> MaxHeadNorms(const std::vector<float>& x, int64_t heads, int64_t head_dim) {
  std::vector<float> norms(static_cast<size_t>(heads), 0.0f);
  const int64_t c = heads * head_dim;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(c)) {
    for (int64_t h = 0; h < heads; ++h) {
      double squares = 0;
      for (int64_t d = 0; d < head_dim; ++d) {
        const double v = x[row + static_cast<size_t>(h * head_dim + d)];
        squares += v * v;
      }
      float& best = norms[static_cast<size_t>(h)];
      best = std::max(best, static_cast<float>(std::sqrt(squares)));
    }
  }
  return norms;
}

double Gelu(double x) { return x * 0.5 * (1 + PlainErf(x * 0.70710678118654752440)); }

// Softmax with ALiBi over one row of scores, in place; `query` is the row's position.
void SoftmaxRow(float* row, int64_t tokens, int64_t query, double scale, double slope) {
  double best = -HUGE_VAL;
  for (int64_t j = 0; j < tokens; ++j) {
    const double score = row[j] * scale - slope * static_cast<double>(std::abs(query - j));
    row[j] = static_cast<float>(score);
    best = std::max(best, static_cast<double>(row[j]));
  }
  double sum = 0;
  for (int64_t j = 0; j < tokens; ++j) {
    const double weight = PlainExp(row[j] - best);
    row[j] = static_cast<float>(weight);
    sum += weight;
  }
  for (int64_t j = 0; j < tokens; ++j) row[j] = static_cast<float>(row[j] / sum);
}

}  // namespace

double PlainExp(double x) {
  if (x < -708) return 0;
  if (x > 709) return HUGE_VAL;
  // x = k·ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, the first with trailing zeros: k·hi is
  // exact.
  constexpr double kLn2Hi = 6.93147180369123816490e-01, kLn2Lo = 1.90821492927058770002e-10;
  const double k = std::floor(x * 1.44269504088896340736 + 0.5);
  const double r = (x - k * kLn2Hi) - k * kLn2Lo;
  // 1/n!, rounded by the compiler alike everywhere.
  static constexpr double kCoefficients[] = {1.0 / 6227020800,
                                             1.0 / 479001600,
                                             1.0 / 39916800,
                                             1.0 / 3628800,
                                             1.0 / 362880,
                                             1.0 / 40320,
                                             1.0 / 5040,
                                             1.0 / 720,
                                             1.0 / 120,
                                             1.0 / 24,
                                             1.0 / 6,
                                             1.0 / 2,
                                             1.0,
                                             1.0};
  double sum = 0;
  for (double coefficient : kCoefficients) sum = sum * r + coefficient;
  // Times 2^k by adding to the exponent bits: k keeps the result normal here.
  uint64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  bits += static_cast<uint64_t>(static_cast<int64_t>(k)) << 52;
  std::memcpy(&sum, &bits, sizeof(bits));
  return sum;
}

double PlainErf(double x) {
  const double a = std::abs(x);
  if (a > 6) return x > 0 ? 1 : -1;
  // erf(a) = 2/√π·e^(−a²)·Σ 2ⁿ a^(2n+1) / (2n+1)!!: all terms positive, nothing cancels.
  double term = a, sum = a;
  for (int n = 1; term > sum * 1e-17; ++n) {
    term *= 2 * a * a / (2 * n + 1);
    sum += term;
  }
  const double y = std::min(1.0, 1.12837916709551257390 * PlainExp(-a * a) * sum);
  return x >= 0 ? y : -y;
}

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

void PlainEncoder::Attend(std::vector<float>& out) const {
  const int64_t c = config_.hidden_size, d = config_.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  constexpr int64_t kRows = 32;
  std::vector<float> value_t(static_cast<size_t>(d * tokens_));  // [D, T], one head
  for (int64_t h = 0; h < config_.num_heads; ++h) {
    const double slope = config_.slopes[static_cast<size_t>(h)];
    for (int64_t t = 0; t < tokens_; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        value_t[static_cast<size_t>(i * tokens_ + t)] =
            value_[static_cast<size_t>(t * c + h * d + i)];
      }
    }
    ParallelRows(tokens_, [&](int64_t begin, int64_t end) {
      std::vector<float> scores(static_cast<size_t>(kRows * tokens_));
      for (int64_t first = begin; first < end; first += kRows) {
        const int64_t rows = std::min(kRows, end - first);
        Multiply(query_.data() + first * c + h * d, c, key_.data() + h * d, c, rows, tokens_, d,
                 nullptr, scores.data(), tokens_);
        for (int64_t r = 0; r < rows; ++r) {
          SoftmaxRow(scores.data() + r * tokens_, tokens_, first + r, scale, slope);
        }
        Multiply(scores.data(), tokens_, value_t.data(), tokens_, rows, d, tokens_, nullptr,
                 out.data() + first * c + h * d, c);
      }
    });
  }
}

void PlainEncoder::FinishLayer(int64_t layer) {
  const EncoderLayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const bool b = config_.family == EncoderFamily::kJinaBertB;
  const double eps = config_.layer_norm_eps;
  std::vector<float> attended(hidden_.size());
  Attend(attended);
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
