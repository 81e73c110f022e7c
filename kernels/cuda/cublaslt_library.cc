// The functions of cuBLASLt that gemm_cublaslt.cc calls, found in the library when one is first
// called.
//
// The library is not linked: it is half a gigabyte that a process without a GPU never needs, and
// its 94 KB of thread-local data would lie in the stack of every thread, more than some of the
// small stacks of the HTTP server's threads hold. Without the library every call gives
// CUBLAS_STATUS_NOT_INITIALIZED.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace {

// Null when the library or the function cannot be found.
void* Find(const char* function) {
  static void* const library = [] {
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    return dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL);
  }();
  return library == nullptr ? nullptr : dlsym(library, function);
}

}  // namespace

#define LONGDOC_FORWARD(function, parameters, arguments)                                      \
  cublasStatus_t function parameters {                                                        \
    static const auto call = reinterpret_cast<cublasStatus_t(*) parameters>(Find(#function)); \
    return call == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : call arguments;                  \
  }

LONGDOC_FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
LONGDOC_FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
LONGDOC_FORWARD(cublasLtMatmul,
                (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha,
                 const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                 cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                 cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                 const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                 cudaStream_t stream),
                (handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout,
                 algorithm, workspace, workspace_bytes, stream))
LONGDOC_FORWARD(cublasLtMatmulAlgoGetHeuristic,
                (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                 cublasLtMatmulPreference_t preference, int requested,
                 cublasLtMatmulHeuristicResult_t results[], int* returned),
                (handle, operation, a, b, c, d, preference, requested, results, returned))
LONGDOC_FORWARD(cublasLtMatmulDescCreate,
                (cublasLtMatmulDesc_t * operation, cublasComputeType_t compute,
                 cudaDataType_t scale),
                (operation, compute, scale))
LONGDOC_FORWARD(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t operation), (operation))
LONGDOC_FORWARD(cublasLtMatmulDescSetAttribute,
                (cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                 const void* value, size_t bytes),
                (operation, attribute, value, bytes))
LONGDOC_FORWARD(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference),
                (preference))
LONGDOC_FORWARD(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference),
                (preference))
LONGDOC_FORWARD(cublasLtMatmulPreferenceSetAttribute,
                (cublasLtMatmulPreference_t preference,
                 cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t bytes),
                (preference, attribute, value, bytes))
LONGDOC_FORWARD(cublasLtMatrixLayoutCreate,
                (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows,
                 uint64_t columns, int64_t stride),
                (layout, type, rows, columns, stride))
LONGDOC_FORWARD(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
