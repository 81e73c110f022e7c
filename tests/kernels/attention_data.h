// Attention problems and their answer by the reference, on plain tensors. No GoogleTest here: the
// CUDA parity tests run without it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace longdoc::kernels::testing {

// Shapes and options of a problem; pointers of `mask` belong to the test.
struct AttentionCase {
  std::vector<int64_t> lengths;
  int32_t heads = 2;
  int32_t kv_heads = 2;
  int32_t dim = 16;
  std::vector<float> slopes;  // empty: DefaultSlopes(heads)
  AttentionMask mask;
  SkipMode skip = SkipMode::kDense;
  float epsilon = 1e-3f;
  DType storage = DType::kF32;
  // Gathered tokens: `lengths` counts the queries, these the keys of every sequence.
  bool gathered = false;
  std::vector<int64_t> key_lengths;
  std::vector<int32_t> q_positions, k_positions;

  int64_t tokens() const;  // queries
  int64_t keys() const;
};

// q [T,H,D], k and v [Tk,Hk,D], already rounded to the storage type.
struct AttentionTensors {
  std::vector<float> q, k, v;
};

// Offsets of packed sequences: [lengths + 1].
std::vector<int64_t> Offsets(const std::vector<int64_t>& lengths);

// The problem of a case; the vectors and the case have to outlive it. q, kv and bounds are null.
AttentionProblem MakeProblem(const AttentionCase& c, const std::vector<int64_t>& cu,
                             const std::vector<int64_t>& cu_keys, const std::vector<float>& slopes);

// The ALiBi slopes of a model with `heads` heads (interleaved when not a power of two).
std::vector<float> DefaultSlopes(int32_t heads);

// Normal values; scores then have a standard deviation of about `score_scale`.
AttentionTensors RandomTensors(const AttentionCase& c, uint32_t seed, float score_scale = 1.0f);

std::vector<float> RunReference(const AttentionCase& c, const AttentionTensors& tensors);

// Largest |a − b|; infinity when either is not finite anywhere.
double MaxDifference(const std::vector<float>& a, const std::vector<float>& b);
double MaxAbs(const std::vector<float>& a);
// Largest norm of a value vector: what the bounds of skipping are relative to.
double LongestValue(const AttentionCase& c, const AttentionTensors& tensors);

float RoundTo(DType storage, float value);

}  // namespace longdoc::kernels::testing
