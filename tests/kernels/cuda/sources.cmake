# The parity tests: cuda_emulated_test and cuda_parity are made of the same files. One group, the
# start of its tests' names, is one test of ctest.
set(LONGDOC_PARITY_SOURCES
  ../attention_data.cc
  parity.cc
  parity_attention.cc
  parity_attention_prepare.cc
  parity_attention_skip.cc
  parity_attention_sm90.cc
  parity_decode.cc
  parity_decode_batch.cc
  parity_dense.cc
  parity_elementwise.cc
  parity_gemm.cc
  parity_primitives.cu
  parity_routing.cc
  parity_sample.cc
  parity_similarity.cc
  parity_wgmma.cu
)
# Tests of the emulator itself; not on a device.
set(LONGDOC_EMULATOR_SOURCES
  emulator_checks.cu
)
set(LONGDOC_PARITY_GROUPS attention decode dense gemm primitives routing sample similarity)
list(TRANSFORM LONGDOC_PARITY_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM LONGDOC_EMULATOR_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
