// Compiled with -ffp-contract=off: every sum below has one fixed order and one rounding per step.
#include "engine/model/plain_math.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
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

int64_t PositionAt(const std::vector<int32_t>* positions, int64_t index) {
  return positions == nullptr ? index : (*positions)[static_cast<size_t>(index)];
}

// The keys that queries [first, first + rows) may see, [begin, end). Cut at multiples of the lanes:
// what lies around them would add zeros, so that no bit depends on how rows are grouped.
std::pair<int64_t, int64_t> KeyRange(const PlainAttention& a, int64_t first, int64_t rows,
                                     int64_t keys) {
  int64_t begin = 0, end = keys;
  const int64_t low = PositionAt(a.query_positions, first);
  const int64_t high = PositionAt(a.query_positions, first + rows - 1);
  if (a.radius >= 0) {
    while (begin < end && PositionAt(a.key_positions, begin) < low - a.radius) ++begin;
    while (end > begin && PositionAt(a.key_positions, end - 1) > high + a.radius) --end;
  }
  if (a.causal) {
    while (end > begin && PositionAt(a.key_positions, end - 1) > high) --end;
  }
  return {begin / kLanes * kLanes, std::min(keys, (end + kLanes - 1) / kLanes * kLanes)};
}

// One query's row of scores over keys [first, first + count), in place: the softmax.
void SoftmaxRow(const PlainAttention& a, int64_t query, int64_t first, int64_t count, double slope,
                float* row) {
  const double scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  const int64_t position = PositionAt(a.query_positions, query);
  double best = -HUGE_VAL;
  for (int64_t j = 0; j < count; ++j) {
    const int64_t ahead = PositionAt(a.key_positions, first + j) - position;
    const int64_t distance = std::abs(ahead);
    const bool hidden = (a.causal && ahead > 0) || (a.radius >= 0 && distance > a.radius);
    row[j] = hidden ? -HUGE_VALF
                    : static_cast<float>(row[j] * scale - slope * static_cast<double>(distance));
    best = std::max(best, static_cast<double>(row[j]));
  }
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    const double weight = PlainExp(row[j] - best);
    row[j] = static_cast<float>(weight);
    sum += weight;
  }
  for (int64_t j = 0; j < count; ++j) row[j] = static_cast<float>(row[j] / sum);
}

}  // namespace

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

std::vector<float> Attend(const PlainAttention& a, const std::vector<float>& query, int64_t queries,
                          const std::vector<float>& key, const std::vector<float>& value,
                          int64_t keys) {
  const int64_t d = a.head_dim, q_stride = a.heads * d, kv_stride = a.kv_heads * d;
  constexpr int64_t kRows = 32;
  std::vector<float> out(static_cast<size_t>(queries * q_stride));
  std::vector<float> value_t(static_cast<size_t>(d * keys));  // [D, keys], one head
  for (int64_t h = 0; h < a.heads; ++h) {
    const int64_t kv = a.kv_heads == 1 ? 0 : h;
    const double slope = a.slopes == nullptr ? 0 : (*a.slopes)[static_cast<size_t>(h)];
    for (int64_t t = 0; t < keys; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        value_t[static_cast<size_t>(i * keys + t)] =
            value[static_cast<size_t>(t * kv_stride + kv * d + i)];
      }
    }
    ParallelRows(queries, [&](int64_t begin, int64_t end) {
      std::vector<float> scores(static_cast<size_t>(kRows * keys));
      for (int64_t first = begin; first < end; first += kRows) {
        const int64_t rows = std::min(kRows, end - first);
        const auto [seen, seen_end] = KeyRange(a, first, rows, keys);
        const int64_t count = seen_end - seen;
        Multiply(query.data() + first * q_stride + h * d, q_stride,
                 key.data() + seen * kv_stride + kv * d, kv_stride, rows, count, d, nullptr,
                 scores.data(), count);
        for (int64_t r = 0; r < rows; ++r) {
          SoftmaxRow(a, first + r, seen, count, slope, scores.data() + r * count);
        }
        Multiply(scores.data(), count, value_t.data() + seen, keys, rows, d, count, nullptr,
                 out.data() + first * q_stride + h * d, q_stride);
      }
    });
  }
  return out;
}

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

double PlainTanhGelu(double x) {
  // x/2·(1 + tanh u) = x / (1 + e^(−2u))
  const double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x);
  return x / (1 + PlainExp(-2 * u));
}

}  // namespace longdoc
