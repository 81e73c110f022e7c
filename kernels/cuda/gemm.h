// Matrix products on the device: C[M,N] = act(A[M,K] · W[N,K]^T + bias) (+ C), all row-major.
//
// The work is cuBLASLt's. A Gemm object holds the library's handle for one device and remembers
// which algorithm the library's heuristics chose for a shape, so that only the first product of a
// shape asks for it. Any host thread may call; the same shape, alignment and row bucket always take
// the same algorithm, and no algorithm adds in an order that changes from run to run, so results
// are deterministic. Tests on the emulator link an implementation by plain loops.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "kernels/types.h"

namespace longdoc::kernels::cuda {

enum class GemmActivation : uint8_t {
  kNone,
  kGelu,  // tanh form, as cuBLASLt has it; needs a bias and 16-bit output
};

// Sums are fp32. Pointers are device memory, aligned to their type; 16 bytes, and dimensions and
// strides that are multiples of 8, are much faster. Strides are in elements.
struct GemmArgs {
  int64_t rows = 0, n = 0, k = 0;  // M (may be 0), N and K (at least 1)
  DType in_type = DType::kBF16;    // of a and w: kBF16 or kF16
  const void* a = nullptr;         // [M, K]
  int64_t a_stride = 0;
  const void* w = nullptr;       // [N, K] dense
  DType out_type = DType::kF32;  // of c and bias: kF32 or in_type
  const void* bias = nullptr;    // [N], or null
  GemmActivation activation = GemmActivation::kNone;
  bool accumulate = false;  // adds to what c holds: a residual stream in fp32
  void* c = nullptr;        // [M, N]
  int64_t c_stride = 0;
  void* workspace = nullptr;    // 256-byte aligned; calls on different streams need their own
  int64_t workspace_bytes = 0;  // kGemmWorkspaceBytes; less (0, too) leaves fewer algorithms
};

// What the library's documentation advises for Hopper.
constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;

// What is wrong with `args`, or null.
const char* CheckGemm(const GemmArgs& args);

class Gemm {
 public:
  // For products on `device`. cudaErrorNotSupported where the library cannot run there.
  static cudaError_t Create(int device, std::unique_ptr<Gemm>* gemm);
  virtual ~Gemm() = default;
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // Enqueues the product; `device` must be the calling thread's current device.
  // cudaErrorInvalidValue for what CheckGemm refuses, cudaErrorNotSupported when the library has no
  // algorithm for the shape.
  virtual cudaError_t Run(const GemmArgs& args, cudaStream_t stream) = 0;

 protected:
  Gemm() = default;
};

// The row count whose algorithm serves `rows` rows: the next multiple of 16, from 128 on of a
// quarter of the power of two below.
int64_t GemmRowBucket(int64_t rows);

}  // namespace longdoc::kernels::cuda
