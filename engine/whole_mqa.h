// Multi-query attention of all rows of a decoder's run at once, for devices: they split the keys
// themselves, and sequences differ in what device memory says, not in how many calls are made.
//
// What a decoding step changes (positions, key counts, page tables) is read from device memory, so
// that the host only tells sizes.
#pragma once

#include <cstdint>

#include "engine/tensor.h"
#include "kernels/decode.h"

namespace longdoc {

// The rows of a run, each an input token of one sequence, and the cache of those sequences
// (kv_cache.h). Arrays are the device's.
struct CachedRows {
  int64_t rows = 0, sequences = 0;
  int64_t max_rows = 0, max_keys = 0;      // of one sequence
  const int32_t* positions = nullptr;      // [rows] in its sequence
  const int32_t* sequence_of = nullptr;    // [rows]
  const int64_t* cu_query_rows = nullptr;  // [sequences + 1]: where its rows begin, times heads
  const int64_t* key_counts = nullptr;     // [sequences]
  const void* const* pages = nullptr;      // [sequences, table_stride]
  int64_t table_stride = 0, page_blocks = 0;
  int64_t layer_bytes = 0;  // from a layer's blocks in a page to the next layer's
  int32_t head_dim = 0;
  DType storage = DType::kBF16;
};

// New keys and values of rows [begin, begin + rows).
struct AppendKeysArgs {
  const CachedRows* cached = nullptr;
  int64_t layer = 0;
  int64_t begin = 0, rows = 0;
  const float* keys = nullptr;    // [rows, D], row stride `stride`
  const float* values = nullptr;  // likewise
  int64_t stride = 0;
};

// Either causal, every row with ALiBi against the keys of its own sequence up to itself: `cached`,
// `layer` and `slopes` are given, and `rows` is cached->rows. Or every row against all of `keys`.
struct WholeMqaArgs {
  const CachedRows* cached = nullptr;
  int64_t layer = 0;
  const float* slopes = nullptr;  // [heads], of the device
  kernels::MqaKeys keys;          // in one piece

  int64_t rows = 0;
  int32_t heads = 0;
  float scale = 0;
  const float* q = nullptr;  // [rows, heads·D], row stride `q_stride`
  int64_t q_stride = 0;
  DType out_type = DType::kBF16;
  void* out = nullptr;        // [rows, heads·D]
  void* workspace = nullptr;  // WorkspaceBytes() of these arguments
};

class WholeMqa {
 public:
  virtual ~WholeMqa() = default;
  virtual void Append(const AppendKeysArgs& args) = 0;
  virtual int64_t WorkspaceBytes(const WholeMqaArgs& args) const = 0;
  virtual void Attend(const WholeMqaArgs& args) = 0;
};

}  // namespace longdoc
