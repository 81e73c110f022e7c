#include "kernels/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/convert.h"

namespace longdoc::kernels::reference {
namespace {

// Where token i of a sequence stands: gathered tokens say so, others stand side by side.
int64_t Position(const int32_t* positions, int64_t begin, int64_t i) {
  return positions != nullptr ? positions[begin + i] : i;
}

// Whether query i sees key j of a sequence whose block-list rows start at `first_list_row`.
bool Allowed(const AttentionMask& mask, int64_t first_list_row, int64_t i, int64_t j) {
  if (mask.causal && j > i) return false;
  if (mask.window_radius >= 0 && i >= mask.num_global && j >= mask.num_global &&
      std::abs(i - j) > mask.window_radius) {
    return false;
  }
  if (mask.block_row_offsets != nullptr) {
    const int64_t row = first_list_row + i / mask.block_tokens;
    const int64_t wanted = j / mask.block_tokens;
    for (int64_t e = mask.block_row_offsets[row]; e < mask.block_row_offsets[row + 1]; ++e) {
      if (mask.block_columns[e] == wanted) return true;
    }
    return false;
  }
  return true;
}

// One row of layer normalisation; as it is when gamma is null.
void NormalizeRow(const std::vector<double>& x, const float* gamma, const float* beta,
                  float epsilon, float* out, uint16_t* out_bf16) {
  const int64_t dim = static_cast<int64_t>(x.size());
  double mean = 0, variance = 0;
  for (double value : x) mean += value / static_cast<double>(dim);
  for (double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(dim);
  const double inverse = 1.0 / std::sqrt(variance + epsilon);
  for (int64_t c = 0; c < dim; ++c) {
    const double shift = beta != nullptr ? beta[c] : 0.0;
    out[c] =
        static_cast<float>(gamma != nullptr ? (x[c] - mean) * inverse * gamma[c] + shift : x[c]);
    if (out_bf16 != nullptr) out_bf16[c] = RoundToBf16(out[c]);
  }
}

}  // namespace

void Attention(const AttentionProblem& p, const float* q, const float* k, const float* v,
               float* o) {
  const int64_t heads = p.num_heads, kv_heads = p.num_kv_heads, dim = p.head_dim;
  int64_t first_list_row = 0;
  const int64_t* key_offsets = p.cu_seqlens_k != nullptr ? p.cu_seqlens_k : p.cu_seqlens;
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t begin = p.cu_seqlens[s], n = p.cu_seqlens[s + 1] - begin;
    const int64_t key_begin = key_offsets[s], keys = key_offsets[s + 1] - key_begin;
    std::vector<double> score(keys), sum(dim);
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t kv_head = h * kv_heads / heads;
      for (int64_t i = 0; i < n; ++i) {
        const float* qi = q + ((begin + i) * heads + h) * dim;
        double max = -std::numeric_limits<double>::infinity();
        for (int64_t j = 0; j < keys; ++j) {
          score[j] = -std::numeric_limits<double>::infinity();
          if (!Allowed(p.mask, first_list_row, i, j)) continue;
          const float* kj = k + ((key_begin + j) * kv_heads + kv_head) * dim;
          double dot = 0;
          for (int64_t d = 0; d < dim; ++d) dot += static_cast<double>(qi[d]) * kj[d];
          const int64_t distance =
              std::abs(Position(p.q_positions, begin, i) - Position(p.k_positions, key_begin, j));
          score[j] =
              dot * p.scale - static_cast<double>(p.slopes[h]) * static_cast<double>(distance);
          max = std::max(max, score[j]);
        }
        double total = 0;
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t j = 0; j < keys; ++j) {
          if (!Allowed(p.mask, first_list_row, i, j)) continue;
          const double weight = std::exp(score[j] - max);
          const float* vj = v + ((key_begin + j) * kv_heads + kv_head) * dim;
          total += weight;
          for (int64_t d = 0; d < dim; ++d) sum[d] += weight * vj[d];
        }
        float* oi = o + ((begin + i) * heads + h) * dim;
        for (int64_t d = 0; d < dim; ++d) {
          oi[d] = total == 0 ? 0.0f : static_cast<float>(sum[d] / total);
        }
      }
    }
    if (p.mask.block_tokens > 0) first_list_row += CeilDiv(n, p.mask.block_tokens);
  }
}

void Gemm(int64_t rows, int64_t n, int64_t k, const float* a, const float* w, const float* bias,
          float* c) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias != nullptr ? bias[j] : 0.0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(a[r * k + i]) * w[j * k + i];
      c[r * n + j] = static_cast<float>(sum);
    }
  }
}

void AddLayerNorm(const AddLayerNormArgs& args) {
  std::vector<double> x(args.dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t c = 0; c < args.dim; ++c) {
      x[c] = args.a[r * args.a_stride + c];
      if (args.residual != nullptr) x[c] += args.residual[r * args.dim + c];
    }
    NormalizeRow(x, args.gamma, args.beta, args.epsilon, args.out + r * args.out_stride,
                 args.out_bf16 != nullptr ? args.out_bf16 + r * args.dim : nullptr);
  }
}

void GatedGelu(const GatedGeluArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t f = 0; f < args.dim; ++f) {
      const double first = LoadAs(args.in_type, args.in, r * 2 * args.dim + f);
      const double second = LoadAs(args.in_type, args.in, r * 2 * args.dim + args.dim + f);
      const double x = args.activate_second_half ? second : first;
      const double gate = args.activate_second_half ? first : second;
      // (1 + tanh u) / 2 = 1 / (1 + e^-2u), which keeps its precision far left.
      const double share =
          args.tanh_form ? 1.0 / (1.0 + std::exp(-std::sqrt(8 / M_PI) * (x + 0.044715 * x * x * x)))
                         : 0.5 * std::erfc(-x * std::sqrt(0.5));
      StoreAs(args.out_type, args.out, r * args.dim + f, static_cast<float>(x * share * gate));
    }
  }
}

void Embed(const EmbedArgs& args) {
  std::vector<double> x(args.dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t base = static_cast<int64_t>(args.ids[r]) * args.dim;
    for (int64_t c = 0; c < args.dim; ++c) {
      x[c] = LoadAs(args.table_type, args.word, base + c);
      if (args.type != nullptr) x[c] += args.type[c];
    }
    NormalizeRow(x, args.gamma, args.beta, args.epsilon, args.out + r * args.dim,
                 args.out_bf16 != nullptr ? args.out_bf16 + r * args.dim : nullptr);
  }
}

void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) {
  for (int64_t c = 0; c < dim; ++c) {
    double sum = 0;
    for (int64_t t = begin; t < end; ++t) sum += x[t * dim + c];
    out[c] = static_cast<float>(sum / static_cast<double>(end - begin));
  }
}

}  // namespace longdoc::kernels::reference
