// gemm.h through cuBLASLt.
//
// The library is column-major: a row-major C[M,N] is its C^T [N,M], so it computes C^T = W · A^T
// with W, in memory [K,N] column-major, transposed. A bias runs along its rows, our columns.
#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>

#include "kernels/cuda/gemm.h"

namespace longdoc::kernels::cuda {
namespace {

cudaError_t ToCudaError(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return cudaSuccess;
    case CUBLAS_STATUS_NOT_INITIALIZED:
    case CUBLAS_STATUS_ARCH_MISMATCH:
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return cudaErrorNotSupported;
    case CUBLAS_STATUS_ALLOC_FAILED:
      return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_INVALID_VALUE:
      return cudaErrorInvalidValue;
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return cudaErrorLaunchFailure;
    default:
      return cudaErrorUnknown;
  }
}

cudaDataType_t TypeOf(DType type) {
  return type == DType::kF32 ? CUDA_R_32F : type == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
}

// Owners of the library's descriptors.
template <class T, cublasStatus_t (*kDestroy)(T)>
struct Destroyer {
  void operator()(std::remove_pointer_t<T>* p) const { kDestroy(p); }
};
template <class T, cublasStatus_t (*kDestroy)(T)>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroyer<T, kDestroy>>;
using Handle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// The first error of several calls.
class Status {
 public:
  bool Add(cublasStatus_t status) {
    if (first_ == CUBLAS_STATUS_SUCCESS) first_ = status;
    return first_ == CUBLAS_STATUS_SUCCESS;
  }
  cublasStatus_t first() const { return first_; }

 private:
  cublasStatus_t first_ = CUBLAS_STATUS_SUCCESS;
};

// The largest power of two up to 16 that divides the address and, if any, the stride in bytes. No
// more: where a buffer happens to lie must not choose the algorithm, and so the rounding.
uint32_t AlignmentOf(const void* p, int64_t stride_bytes) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(p) | static_cast<uint64_t>(stride_bytes) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// The library's view of one product.
struct Description {
  Operation operation;
  Layout w, a, c;
  std::array<uint32_t, 4> alignment;  // of w, a, c, bias

  cublasStatus_t Make(const GemmArgs& args, int64_t rows) {
    Status status;
    const cudaDataType_t in = TypeOf(args.in_type), out = TypeOf(args.out_type);
    cublasLtMatmulDesc_t raw_operation = nullptr;
    status.Add(cublasLtMatmulDescCreate(&raw_operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    operation.reset(raw_operation);
    AddLayout(&status, &w, in, args.k, args.n, args.k);
    AddLayout(&status, &a, in, args.k, rows, args.a_stride);
    AddLayout(&status, &c, out, args.n, rows, args.c_stride);
    const int64_t in_bytes = static_cast<int64_t>(SizeOf(args.in_type));
    const int64_t out_bytes = static_cast<int64_t>(SizeOf(args.out_type));
    alignment = {AlignmentOf(args.w, args.k * in_bytes),
                 AlignmentOf(args.a, args.a_stride * in_bytes),
                 AlignmentOf(args.c, args.c_stride * out_bytes), AlignmentOf(args.bias, 0)};
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Set(&status, CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (args.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = args.activation == GemmActivation::kGelu
                                              ? CUBLASLT_EPILOGUE_GELU_BIAS
                                              : CUBLASLT_EPILOGUE_BIAS;
      Set(&status, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      Set(&status, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
      Set(&status, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out);
    }
    return status.first();
  }

 private:
  static void AddLayout(Status* status, Layout* layout, cudaDataType_t type, int64_t rows,
                        int64_t columns, int64_t stride) {
    cublasLtMatrixLayout_t raw = nullptr;
    status->Add(cublasLtMatrixLayoutCreate(&raw, type, static_cast<uint64_t>(rows),
                                           static_cast<uint64_t>(columns), stride));
    layout->reset(raw);
  }
  template <class T>
  void Set(Status* status, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    if (status->first() != CUBLAS_STATUS_SUCCESS) return;
    status->Add(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)));
  }
};

// What an algorithm was chosen for.
using PlanKey = std::array<int64_t, 13>;

PlanKey KeyOf(const GemmArgs& args, int64_t rows, const Description& d) {
  return {rows,
          args.n,
          args.k,
          args.a_stride,
          args.c_stride,
          static_cast<int64_t>(args.in_type),
          static_cast<int64_t>(args.out_type),
          static_cast<int64_t>(args.activation) * 4 + (args.bias != nullptr ? 2 : 0) +
              (args.accumulate ? 1 : 0),
          args.workspace_bytes,
          d.alignment[0],
          d.alignment[1],
          d.alignment[2],
          d.alignment[3]};
}

class CublasLtGemm : public Gemm {
 public:
  explicit CublasLtGemm(Handle handle) : handle_(std::move(handle)) {}

  cudaError_t Run(const GemmArgs& args, cudaStream_t stream) override {
    if (CheckGemm(args) != nullptr) return cudaErrorInvalidValue;
    if (args.rows == 0) return cudaSuccess;
    cublasStatus_t status = RunAs(args, GemmRowBucket(args.rows), stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
      // The bucket's algorithm does not take this row count: ask for the count itself.
      status = RunAs(args, args.rows, stream);
    }
    return ToCudaError(status);
  }

 private:
  // With the algorithm chosen for `planned_rows`.
  cublasStatus_t RunAs(const GemmArgs& args, int64_t planned_rows, cudaStream_t stream) {
    Description d;
    cublasStatus_t status = d.Make(args, args.rows);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasLtMatmulAlgo_t algorithm;
    status = FindAlgorithm(args, planned_rows, d, &algorithm);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const float one = 1, beta = args.accumulate ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_.get(), d.operation.get(), &one, args.w, d.w.get(), args.a,
                          d.a.get(), &beta, args.c, d.c.get(), args.c, d.c.get(), &algorithm,
                          args.workspace, static_cast<size_t>(args.workspace_bytes), stream);
  }

  cublasStatus_t FindAlgorithm(const GemmArgs& args, int64_t planned_rows, const Description& d,
                               cublasLtMatmulAlgo_t* algorithm) {
    const PlanKey key = KeyOf(args, planned_rows, d);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = algorithms_.find(key);
      if (found != algorithms_.end()) {
        *algorithm = found->second;
        return CUBLAS_STATUS_SUCCESS;
      }
    }
    // Outside of the lock: this takes a while, and all who ask get the same answer.
    const cublasStatus_t status = AskHeuristics(args, planned_rows, algorithm);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (algorithms_.size() >= kMaxPlans) algorithms_.clear();
    algorithms_.emplace(key, *algorithm);
    return CUBLAS_STATUS_SUCCESS;
  }

  cublasStatus_t AskHeuristics(const GemmArgs& args, int64_t planned_rows,
                               cublasLtMatmulAlgo_t* algorithm) const {
    Description d;
    Status status;
    status.Add(d.Make(args, planned_rows));
    cublasLtMatmulPreference_t raw = nullptr;
    if (status.first() == CUBLAS_STATUS_SUCCESS) {
      status.Add(cublasLtMatmulPreferenceCreate(&raw));
    }
    const Preference preference(raw);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      if (status.first() != CUBLAS_STATUS_SUCCESS) return;
      status.Add(cublasLtMatmulPreferenceSetAttribute(raw, attribute, &value, sizeof(value)));
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(args.workspace_bytes));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, d.alignment[0]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, d.alignment[1]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d.alignment[2]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d.alignment[2]);
    if (status.first() != CUBLAS_STATUS_SUCCESS) return status.first();
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    status.Add(cublasLtMatmulAlgoGetHeuristic(handle_.get(), d.operation.get(), d.w.get(),
                                              d.a.get(), d.c.get(), d.c.get(), raw, 1, &result,
                                              &count));
    if (status.first() != CUBLAS_STATUS_SUCCESS) return status.first();
    if (count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    *algorithm = result.algo;
    return result.state;
  }

  static constexpr size_t kMaxPlans = 4096;  // about 1 MB; a server meets a few hundred
  const Handle handle_;
  std::mutex mutex_;
  std::map<PlanKey, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

cudaError_t Gemm::Create(int device, std::unique_ptr<Gemm>* gemm) {
  int current = 0;
  cudaError_t error = cudaGetDevice(&current);
  if (error != cudaSuccess) return error;
  error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  cublasLtHandle_t raw = nullptr;
  const cublasStatus_t status = cublasLtCreate(&raw);
  Handle handle(raw);
  error = cudaSetDevice(current);
  if (status != CUBLAS_STATUS_SUCCESS) return ToCudaError(status);
  if (error != cudaSuccess) return error;
  *gemm = std::make_unique<CublasLtGemm>(std::move(handle));
  return cudaSuccess;
}

}  // namespace longdoc::kernels::cuda
