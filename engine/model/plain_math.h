// What plain_encoder.h and plain_colt5.h compute with: fp32 in plain loops, no library, no CPU
// feature; the same bits on every machine and with any number of threads. Private to engine/model.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/tensor.h"

namespace longdoc {

// Largest Euclidean norms over all tokens, per head.
struct HeadNorms {
  std::vector<float> query, key;  // [H]; of keys as many as there are key/value heads
};

const float* F32(const TensorView& tensor);  // its values; it must be F32

// Runs fn(begin, end) over pieces of [0, count). Every row is computed alike wherever the cuts
// fall.
void ParallelRows(int64_t count, const std::function<void(int64_t, int64_t)>& fn);

// x [tokens, depth] · weightᵀ [outputs, depth] + bias, which may have no data.
std::vector<float> Linear(const std::vector<float>& x, int64_t tokens, const TensorView& weight,
                          const TensorView& bias = {});
void AddTo(std::vector<float>& x, const std::vector<float>& y);
std::vector<float> MaxHeadNorms(const std::vector<float>& x, int64_t heads, int64_t head_dim);

// Softmax of q·k/√D − slope·|distance|, times v.
struct PlainAttention {
  int64_t heads = 0, kv_heads = 0;  // kv_heads is heads or 1
  int64_t head_dim = 0;
  const std::vector<float>* slopes = nullptr;  // [heads]; null: no position bias
  int64_t radius = -1;                         // >= 0: keys farther away are not seen
  bool causal = false;                         // keys at higher positions are not seen
  // Ascending; null: 0, 1, 2, …
  const std::vector<int32_t>* query_positions = nullptr;
  const std::vector<int32_t>* key_positions = nullptr;
};
// [queries, heads·D] from query [queries, heads·D], key and value [keys, kv_heads·D]. Every query
// must see a key. Memory: a row of scores for a few queries at a time.
std::vector<float> Attend(const PlainAttention& attention, const std::vector<float>& query,
                          int64_t queries, const std::vector<float>& key,
                          const std::vector<float>& value, int64_t keys);

// From additions, multiplications and divisions alone: those of the C library differ in their last
// bits between its versions and between processors. Relative error of exp and erf below 1e-14.
double PlainExp(double x);
double PlainErf(double x);
double PlainTanhGelu(double x);

}  // namespace longdoc
