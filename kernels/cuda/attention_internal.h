// What the parts of CUDA attention share: the preparation (attention_prepare.cu), the two forward
// kernels (attention_sm80.cuh, attention_sm90.cu) and the dispatch (attention.cc).
//
// One layer: the preparation measures norms and writes one work item per (head, tile of queries),
// in the order of execution; persistent blocks of the forward kernel take items by an atomic
// counter until there is none. Everything in the loop is in base 2: scores are scale·log2 e·q·k −
// slope·log2 e·|i − j|.
//
// For forward kernels (attention_tiles.cuh has the device functions):
//   - item.range.rows == 0: an empty slot, go on. Rows [q_begin, q_begin + rows) of q and o, head
//     item.head; keys [k_begin, k_begin + range.tokens) of k and v, head item.kv_head. A tile holds
//     keys [tile·tile.keys, …) of the sequence; rows of k and v behind the last key belong to
//     another document: they may be read but must reach nothing, not even as 0·NaN.
//   - Visit tiles with StartWalk / NextTile / EndSide of kernels/ranges.h. Rows may end a side when
//     MayEndSide() says so; what a warp (or warpgroup) skips depends on its own rows alone, never
//     on the time that something took: results are deterministic. A side once ended stays so.
//   - A row that has seen no key gives 0 (and an lse of −infinity). Outputs add +0 before rounding,
//     so that −0 never shows. lse, if wanted, is in natural units.
//   - tiles computed, of an item: those that any of its rows used; see AddTilesComputed().
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ranges.h"

namespace longdoc::kernels::cuda {

constexpr float kLog2E = 1.44269504088896341f;

// The tiles of the two kernels. A block list whose blocks do not fit the sm_90a tile goes to the
// sm_80 kernel, see UsesSm90().
constexpr TileShape Sm80Tile(int32_t) { return {128, 64}; }
constexpr TileShape Sm90Tile(int32_t head_dim) { return {head_dim == 64 ? 192 : 128, 128}; }

// What may end a side within the loop; kExactMax is rule C's form for EXACT.
enum class LoopRule : int32_t { kNone, kB, kC, kExactMax };

// One tile of queries of one head. In global memory, in the order of execution.
struct AttentionItem {
  KeyRange range;
  int64_t q_begin;  // the tile's first row in q and o
  int64_t k_begin;  // the sequence's first row in k and v
  int32_t sequence, head, kv_head;
  LoopRule rule;
  float slope;          // times log2 e
  float rule_constant;  // ln(2/…) of rule B or C, times log2 e
  float slack_norm;     // to be added to every key norm
  int32_t unused;
  int64_t norms;  // index of the first tile in left_norms and right_norms
  int64_t sums;   // index of the first key in left_sums and right_sums; rule C
};

// Of a query row, for the rules; base 2. [H, Tq]
struct RowNorm {
  float norm;        // |scale|·log2 e·‖q‖, rounded up
  float centre_dot;  // scale·log2 e·q·c
};
// Of a gathered query row. [H, Tq]
struct RowLimit {
  int32_t nearest;  // distance to the nearest key
  float limit;      // rule C: what a side may lose before the loop, base 2
};
// Of one (sequence, kv head), behind it the centre c[D] in `centres`.
struct KeyBound {
  float centred_norm;  // max over keys of ‖k − c‖; infinity when a key or value is not finite
  float raw_norm;      // max over keys of ‖k‖
};

// Arguments of every kernel; all pointers are device memory.
struct AttentionParams {
  const void *q, *k, *v;
  void* o;
  float* lse;                                      // or null
  int64_t q_stride, k_stride, v_stride, o_stride;  // elements from token to token
  DType type;                                      // kBF16 or kF16
  int32_t heads, kv_heads, head_dim;
  int64_t num_sequences, total_q, total_k, max_k;
  const int64_t *cu_q, *cu_k;                // cu_k is cu_q unless gathered
  const int32_t *q_positions, *k_positions;  // null unless gathered
  const float* slopes;                       // [H] natural
  float scale;                               // natural
  AttentionMask mask;                        // device pointers
  SkipMode skip;
  float epsilon;
  double spread;  // SkipSpread()
  bool gathered;
  bool norms;  // whether anything can be skipped: norms are measured
  TileShape tile;
  // Slots: tile t of sequence s is slot cu[s]/tile + s + t, as in kernels/cpu/layout.h; some are
  // empty.
  int64_t query_slots, key_slots, items;  // items = heads·query_slots

  // Workspace.
  int64_t* list_rows;               // [B] block-list row of each sequence's first block
  int32_t* head_order;              // [H] by ascending slope
  int64_t* next_item;               // work counter, 0 at first
  AttentionItem* work;              // [items]
  KeyBound* key_bounds;             // [B, Hk]
  float* centres;                   // [B, Hk, D]
  float *left_norms, *right_norms;  // [Hk, key_slots] max over tiles 0..t, and t..last
  float* raw_norms;                 // [Hk, key_slots]
  RowNorm* row_norms;               // [H, Tq]
  RowLimit* row_limits;             // [H, Tq]
  float *left_sums, *right_sums;    // [H, Tk] PositionSums
  AttentionStats* stats;            // [B] or null
};

// Whether the sm_90a kernel serves this call on compute capability `major`.x.
bool UsesSm90(const AttentionArgs& args, int major);
TileShape TileOf(const AttentionArgs& args, int major);

// Fills `params`; its workspace begins at args.workspace, and its size is returned (so that a null
// workspace asks for the size alone).
int64_t MakeAttentionParams(const AttentionArgs& args, TileShape tile, AttentionParams* params);

// Norms, sums, items and the zeroed counter.
cudaError_t PrepareAttention(const AttentionParams& params, cudaStream_t stream);

// The forward kernels, after PrepareAttention on the same stream. `multiprocessors` of the device.
cudaError_t LaunchAttentionSm80(const AttentionParams& params, int multiprocessors,
                                cudaStream_t stream);
cudaError_t LaunchAttentionSm80Fp16(const AttentionParams& params, int multiprocessors,
                                    cudaStream_t stream);
cudaError_t LaunchAttentionSm90(const AttentionParams& params, int multiprocessors,
                                cudaStream_t stream);

}  // namespace longdoc::kernels::cuda
