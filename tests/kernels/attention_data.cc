#include "tests/kernels/attention_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"

namespace longdoc::kernels::testing {

std::vector<int64_t> Offsets(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> cu{0};
  for (int64_t length : lengths) cu.push_back(cu.back() + length);
  return cu;
}

AttentionProblem MakeProblem(const AttentionCase& c, const std::vector<int64_t>& cu,
                             const std::vector<int64_t>& cu_keys,
                             const std::vector<float>& slopes) {
  AttentionProblem p;
  p.num_sequences = static_cast<int64_t>(c.lengths.size());
  p.cu_seqlens = cu.data();
  if (c.gathered) {
    p.cu_seqlens_k = cu_keys.data();
    p.q_positions = c.q_positions.data();
    p.k_positions = c.k_positions.data();
  }
  p.num_heads = c.heads;
  p.num_kv_heads = c.kv_heads;
  p.head_dim = c.dim;
  p.scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
  p.slopes = slopes.data();
  p.mask = c.mask;
  p.skip = c.skip;
  p.epsilon = c.epsilon;
  p.storage = c.storage;
  return p;
}

int64_t AttentionCase::tokens() const {
  int64_t sum = 0;
  for (int64_t length : lengths) sum += length;
  return sum;
}

int64_t AttentionCase::keys() const {
  if (!gathered) return tokens();
  int64_t sum = 0;
  for (int64_t length : key_lengths) sum += length;
  return sum;
}

std::vector<float> DefaultSlopes(int32_t heads) {
  int32_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  for (int32_t h = 0; h < power; ++h) slopes.push_back(std::exp2(-8.0f * (h + 1) / power));
  for (int32_t h = 0; static_cast<int32_t>(slopes.size()) < heads; ++h) {
    slopes.push_back(std::exp2(-4.0f * (2 * h + 1) / power));
  }
  return slopes;
}

float RoundTo(DType storage, float value) {
  uint32_t memory;
  reference::StoreAs(storage, &memory, 0, value);
  return reference::LoadAs(storage, &memory, 0);
}

AttentionTensors RandomTensors(const AttentionCase& c, uint32_t seed, float score_scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  AttentionTensors t;
  const float scale = std::sqrt(score_scale);
  auto fill = [&](int64_t rows, float by, std::vector<float>* out) {
    out->resize(rows * c.dim);
    for (float& x : *out) x = RoundTo(c.storage, normal(generator) * by);
  };
  fill(c.tokens() * c.heads, scale, &t.q);
  fill(c.keys() * c.kv_heads, scale, &t.k);
  fill(c.keys() * c.kv_heads, 1.0f, &t.v);
  return t;
}

std::vector<float> RunReference(const AttentionCase& c, const AttentionTensors& tensors) {
  const std::vector<int64_t> cu = Offsets(c.lengths), cu_keys = Offsets(c.key_lengths);
  const std::vector<float> slopes = c.slopes.empty() ? DefaultSlopes(c.heads) : c.slopes;
  const AttentionProblem p = MakeProblem(c, cu, cu_keys, slopes);
  std::vector<float> out(tensors.q.size());
  reference::Attention(p, tensors.q.data(), tensors.k.data(), tensors.v.data(), out.data());
  return out;
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
  }
  return worst;
}

double MaxAbs(const std::vector<float>& a) {
  double worst = 0;
  for (float x : a) worst = std::max(worst, static_cast<double>(std::abs(x)));
  return worst;
}

double LongestValue(const AttentionCase& c, const AttentionTensors& tensors) {
  double longest = 0;
  for (size_t i = 0; i < tensors.v.size(); i += static_cast<size_t>(c.dim)) {
    double square = 0;
    for (int d = 0; d < c.dim; ++d) {
      square += static_cast<double>(tensors.v[i + d]) * tensors.v[i + d];
    }
    longest = std::max(longest, std::sqrt(square));
  }
  return longest;
}

}  // namespace longdoc::kernels::testing
