// Runs whole attention problems through a kernel table or the reference, on plain tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu_kernels.h"

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

// How the caller cuts the work; no result may depend on it.
struct Partition {
  int64_t store_rows = 37;
  int64_t rows_per_unit = 256;
  int threads = 1;
  bool reverse = false;  // units in ascending cost
};

struct AttentionResult {
  std::vector<float> out;  // [T,H,D]
  AttentionStats stats;
  std::string error;  // of CheckAttentionProblem
};

// The ALiBi slopes of a model with `heads` heads (interleaved when not a power of two).
std::vector<float> DefaultSlopes(int32_t heads);

// Normal values; scores then have a standard deviation of about `score_scale`.
AttentionTensors RandomTensors(const AttentionCase& c, uint32_t seed, float score_scale = 1.0f);

AttentionResult RunKernels(const CpuKernels& kernels, const AttentionCase& c,
                           const AttentionTensors& tensors, const Partition& partition = {});
std::vector<float> RunReference(const AttentionCase& c, const AttentionTensors& tensors);

// Largest |a − b|; infinity when either is not finite anywhere.
double MaxDifference(const std::vector<float>& a, const std::vector<float>& b);
double MaxAbs(const std::vector<float>& a);

float RoundTo(DType storage, float value);

// Tables that run here: what the CPU supports, then the emulated ones.
std::vector<const CpuKernels*> NativeTables();
std::vector<const CpuKernels*> EmulatedTables();
std::vector<const CpuKernels*> AllTables();

}  // namespace longdoc::kernels::testing
