// What the kernels of multi-query attention are told. Private to kernels/cuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/mqa_plan.h"
#include "kernels/types.h"

namespace longdoc::kernels::cuda {

// Where key block b of a sequence is: contiguous, or behind pages[b / page_blocks].
struct MqaBlocks {
  const char* blocks = nullptr;  // or null:
  const char* const* pages = nullptr;
  int64_t table_stride = 0;  // pages of a sequence
  int64_t page_offset = 0;   // bytes
  uint32_t page_blocks = 1;
};

struct MqaParams {
  MqaBlocks blocks;
  int32_t dim = 0;
  int32_t keys = 0;
  const int64_t* key_counts = nullptr;  // [sequences] or null

  int32_t rows = 0;                  // of all sequences
  int32_t row_tiles = 0;             // of one sequence
  const int64_t* cu_rows = nullptr;  // [sequences + 1] or null
  const float* q = nullptr;
  int64_t q_stride = 0;  // of a token
  int32_t heads = 0;     // 0: rows are tokens
  float scale_log2 = 0;  // scale · log2(e)
  const float* slopes = nullptr;
  const int32_t* positions = nullptr;

  // Partial results: O unnormalised, and (largest score in units of log2, sum of 2^(s - max)).
  // A split without any allowed key has (-inf, 0) and O = 0.
  int32_t splits = 1;
  float* partial = nullptr;  // [splits, rows, D]
  float2* stats = nullptr;   // [splits, rows]
  DType out_type = DType::kF32;
  void* out = nullptr;  // [rows, D]; written by the attention kernel when there is one split
};

cudaError_t LaunchMqaBf16(const MqaPlan& plan, int64_t sequences, const MqaParams& params,
                          cudaStream_t stream);
cudaError_t LaunchMqaFp16(const MqaPlan& plan, int64_t sequences, const MqaParams& params,
                          cudaStream_t stream);

}  // namespace longdoc::kernels::cuda
