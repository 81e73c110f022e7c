# The CUDA kernels, compiled twice: by nvcc (longdoc_kernels_cuda) and as C++ against the emulator of
# the tests (longdoc_kernels_cuda_emulated). Host code, .cc, belongs here as well.
set(LONGDOC_CUDA_SOURCES
  attention.cc
  attention_prepare.cu
  attention_sm80_bf16.cu
  attention_sm80_fp16.cu
  attention_sm90.cu
  convert.cu
  elementwise.cu
  gemm.cc
  norm.cu
  pool.cu
  route.cu
  attention_layer.cc
  routed_rows.cu
  runtime.cc
  log_softmax.cu
  mqa.cu
  mqa_bf16.cu
  mqa_fp16.cu
  mqa_plan.cc
  mqa_store.cu
  sample.cu
  similarity.cu
)
# What needs more of the toolkit than the emulator has (cuBLASLt); by nvcc's build only.
set(LONGDOC_CUDA_LIBRARY_SOURCES
  cublaslt_library.cc
  gemm_cublaslt.cc
)
list(TRANSFORM LONGDOC_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM LONGDOC_CUDA_LIBRARY_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
