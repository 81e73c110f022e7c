// Matrix products with weights that are packed once: C[M,N] = A[M,K] · W[N,K]^T + bias.
//
// The work is oneDNN's; it runs on the calling thread alone (the scheduler's workers are the
// parallelism), so any number of threads may call Gemm at once on the same packed weights.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tensor.h"

namespace longdoc {

class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int64_t n() const = 0;
  virtual int64_t k() const = 0;
  virtual int64_t bytes() const = 0;
  // c[r,:] = a[r,:] · W^T + bias for `rows` rows; a is [rows, K] dense of the packing's input type,
  // c is [rows, N] dense fp32. `rows` may be 0. INTERNAL when the library fails.
  virtual absl::Status Gemm(int64_t rows, const void* a, float* c) const = 0;
};

// Packs the row-wise concatenation of `weights` (each [n_i, K], any float type) and of `biases`
// (each [n_i]; empty: none). `input_type` is the type of `a`: kF32, or kBF16 where the CPU has
// avx512_bf16 (fp32 accumulation). `typical_rows` is the row count to optimise for.
absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWithOneDnn(const std::vector<TensorView>& weights,
                                                             const std::vector<TensorView>& biases,
                                                             DType input_type,
                                                             int64_t typical_rows);

// The same through kernels/reference: naive, fp32 input, accumulation in double.
absl::StatusOr<std::unique_ptr<PackedMatrix>> PackForReference(
    const std::vector<TensorView>& weights, const std::vector<TensorView>& biases);

// What both do first. INVALID_ARGUMENT unless the weights share their input dimension, and biases
// fit them.
absl::Status CheckPackShapes(const std::vector<TensorView>& weights,
                             const std::vector<TensorView>& biases);
// The tensors one after the other, as fp32.
std::vector<float> Concatenate(const std::vector<TensorView>& tensors);

// Makes oneDNN run on the calling thread only. Every thread that calls Gemm calls this once before.
void UseSingleThreadedGemm();

// Any float tensor as fp32.
std::vector<float> ToFloats(const TensorView& tensor);

}  // namespace longdoc
