set(LONGDOC_GPU_BENCH_SOURCES
  attention_section.cc
  decode_section.cc
  gemm_section.cc
  gpu_bench.cc
  gpu_memory.cc
  main.cc
  route_section.cc
  rows_section.cc
)
list(TRANSFORM LONGDOC_GPU_BENCH_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
