// Multi-query attention of a decoder: few query rows against many keys of one shared head.
//
//   o[r,:] = sum_j softmax_j( q[r,:]·k[j,:]·scale − slope[r]·(position[r] − j) ) · v[j,:]
//
// Rows are whatever shares the keys: heads × target tokens × candidates of one document, so that K
// and V are read once for all of them (Shazeer 2019; design §7). Cross-attention has no bias and
// sees every key; self-attention is causal ALiBi (position[r] >= j).
//
// Long keys are split over threads: MqaPartial handles a range of key blocks and leaves
// unnormalised sums, MqaMerge joins them. Numerics: fp32 accumulation, natural exponent; a row
// without any allowed key gives 0.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/types.h"

namespace longdoc::kernels {

// Keys and values of one head in blocks of kKeyBlock tokens. A block holds a K panel and a V panel
// in the order that this CPU's kernels want; MqaBlockBytes() apart. Blocks are contiguous, or
// found through pages of `page_blocks` blocks (a paged cache).
struct MqaKeys {
  int64_t keys = 0;              // tokens; those beyond in the last block are never read as scores
  int32_t head_dim = 0;          // D, a multiple of 16, at most 256
  DType storage = DType::kF32;   // kF32 or kBF16
  const void* blocks = nullptr;  // contiguous, 64-byte aligned; or null:
  const void* const* pages = nullptr;  // [ceil(blocks / page_blocks)], each 64-byte aligned
  int64_t page_blocks = 0;
};

constexpr int64_t MqaBlockBytes(int32_t head_dim, DType storage) {
  return 2 * kKeyBlock * head_dim * static_cast<int64_t>(SizeOf(storage));
}

// Writes `rows` keys and values into one block, from key number `first` of the block on
// (first + rows <= kKeyBlock). The block was zero-filled before its first use.
struct MqaStoreArgs {
  int64_t first = 0, rows = 0;
  int32_t head_dim = 0;
  DType storage = DType::kF32;
  const float* keys = nullptr;    // [rows, D], row stride `stride`
  const float* values = nullptr;  // [rows, D], row stride `stride`
  int64_t stride = 0;
  void* block = nullptr;
};

// Rows against key blocks [block_begin, block_end).
struct MqaPartialArgs {
  MqaKeys keys;
  int64_t block_begin = 0, block_end = 0;
  float scale = 0;  // usually D^-0.5
  int64_t rows = 0;
  const float* q = nullptr;  // [rows, D] dense fp32
  // Both null: no bias, every key. Both given: causal ALiBi.
  const float* slopes = nullptr;       // [rows] >= 0
  const int32_t* positions = nullptr;  // [rows]
  float* out = nullptr;                // [rows, D]: sum of exp(s − max)·v
  float* max = nullptr;                // [rows]: largest score; −FLT_MAX when no key was allowed
  float* sum = nullptr;                // [rows]: sum of exp(s − max)
  void* scratch = nullptr;             // MqaScratchBytes(), 64-byte aligned, private to the call
};

// out[r,:] = the normalised attention from `parts` partial results of the same rows, laid one after
// the other: part p's row r at index p·rows + r.
struct MqaMergeArgs {
  int64_t parts = 0, rows = 0;
  int32_t head_dim = 0;
  const float* partial_out = nullptr;  // [parts, rows, D]
  const float* partial_max = nullptr;  // [parts, rows]
  const float* partial_sum = nullptr;  // [parts, rows]
  DType out_type = DType::kF32;        // kF32 or kBF16
  void* out = nullptr;                 // [rows, D]
};

// Log-softmax over a vocabulary that comes in tiles of columns: logits are never all in memory.
// Running state per row starts at max = −FLT_MAX, sum = 0, chosen = 0.
//   afterwards  log p(target[r]) = chosen[r] − max[r] − ln(sum[r])
struct LogSoftmaxTileArgs {
  int64_t rows = 0;
  int64_t column_begin = 0, columns = 0;  // of the vocabulary
  const float* logits = nullptr;          // [rows, columns] dense
  float scale = 1;                        // multiplies the logits
  const int32_t* targets = nullptr;       // [rows]
  float* max = nullptr;                   // [rows], running
  float* sum = nullptr;                   // [rows], running: sum of exp(logit − max)
  float* chosen = nullptr;  // [rows]: the target's scaled logit once its tile has come
};

}  // namespace longdoc::kernels
