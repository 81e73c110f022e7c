// FlashAttention forward with ALiBi over packed sequences, with provably skipped tiles.
//
//   o[i,h,:] = sum_j softmax_j( q[i,h,:]·k[j,h',:]·scale − slope[h]·|i − j| ) · v[j,h',:]
//
// over the keys j of i's own sequence that the mask allows, h' = h·Hk/H. The score matrix never
// exists: key tiles are visited from the diagonal outward with an online softmax.
//
// One attention layer is four calls on the same AttentionProblem. Calls of one kind may run on many
// threads at once (on different rows or units); kinds are separated by barriers that the caller
// keeps:
//   1. StoreQueries, StoreKeysValues  for every token tile: put projected rows into the layout
//               the kernel wants
//   2. Bound     for every (sequence, kv head): key norms, for the skipping rules
//   3. PlanUnits once: cuts the work into units, costliest first
//   4. Attend    for every unit: the outputs overwrite the queries
//
// Skipping (docs/attention.md has the proofs): with B an upper bound of |q·(k−c)|·scale from the
// norms of the *stored* (rounded) values and any per-(sequence, head) centre c, a key tile at
// distance d from the query tile adds at most `epsilon` of the softmax mass when
//   rule A, before the loop:  d >= (2B + ln(2/epsilon)) / slope
//   rule B, in the loop, for every row i:  U_i − slope·d + ln(2/((1−e^−slope)·epsilon)) <= lse_i
//   rule C, for gathered tokens in place of both:  exact sums over the keys' positions
// so the output moves by at most 2·epsilon·max‖v‖. kExact uses d >= (2B + 87.4)/slope alone, for
// gathered tokens beyond the nearest key: there every skipped weight is below the smallest normal
// float and exp() gives exactly 0, so no bit of the result changes. Zero-slope heads and non-finite
// norms are never skipped.
//
// Numerics: fp32 accumulation, fp32 bias from tile-relative integer distances (exact to 2^24
// tokens), fp32 slopes, natural exponent; weights below e^-87.3 of the running maximum are exactly
// 0. Rows without any allowed key give 0. Results depend on neither the number of threads nor the
// other sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/types.h"

namespace longdoc::kernels {

enum class SkipMode : uint8_t {
  kDense,      // visit every allowed tile
  kExact,      // skip only what changes no bit
  kTolerance,  // rules A and B, or C, with `epsilon`
};

// Which (query i, key j) pairs of a sequence exist, beside the sequence border itself.
struct AttentionMask {
  bool causal = false;         // j <= i
  int64_t window_radius = -1;  // >= 0: |i−j| <= radius, or i or j is global; < 0: no window
  int64_t num_global =
      0;  // with a window: the first tokens of every sequence see and are seen by all
  // Block-sparse list in CSR form (null: none). Row r is the r-th query block of `block_tokens`
  // tokens, counted over the sequences in order (every sequence starts a new block); its columns
  // are key-block numbers within the row's own sequence, ascending and unique. A pair exists iff
  // its block is listed; a column stands for `block_tokens` keys, too. Not together with a window.
  int64_t block_tokens = 0;                    // a multiple of kKeyBlock
  const int64_t* block_row_offsets = nullptr;  // [rows + 1]
  const int32_t* block_columns = nullptr;
};

constexpr int64_t kKeyBlock = 64;     // keys per tile
constexpr int64_t kQueryBlock = 128;  // queries per tile

struct AttentionProblem {
  int64_t num_sequences = 0;            // B
  const int64_t* cu_seqlens = nullptr;  // [B+1] ascending from 0; empty sequences are legal
  // Gathered tokens (CoLT5's routed ones): queries and keys are two sets of tokens of the same
  // sequences, each at its own position. All three null, or all given; then neither a mask nor a
  // block list is allowed, and rule C replaces rules A and B. Row counts T of q and kv differ.
  const int64_t* cu_seqlens_k = nullptr;  // [B+1] of the keys; cu_seqlens counts the queries
  const int32_t* q_positions = nullptr;   // [Tq] ascending and distinct within a sequence
  const int32_t* k_positions = nullptr;   // [Tk] likewise
  int32_t num_heads = 0;                  // H
  int32_t num_kv_heads = 0;               // Hk, divides H
  int32_t head_dim = 0;                   // D, a multiple of 16, at most 256
  float scale = 0;                        // usually D^-0.5
  const float* slopes = nullptr;          // [H] >= 0
  AttentionMask mask;
  SkipMode skip = SkipMode::kDense;
  float epsilon = 0;            // kTolerance: in (0, 1)
  DType storage = DType::kF32;  // kF32 or kBF16: of q, k, v and o as kept between the calls
  void* q = nullptr;            // [T, H, D] of `storage`; Attend overwrites it with o
  void* kv = nullptr;           // AttentionKvBytes(), 64-byte aligned, zero-filled before stores
  void* bounds = nullptr;       // AttentionBoundsBytes(), 64-byte aligned
};

// A piece of work: all query rows [query_begin, query_end) of one sequence, for a range of heads.
struct AttentionUnit {
  int64_t sequence = 0;
  int64_t query_begin = 0, query_end = 0;  // within the sequence
  int32_t head_begin = 0, head_end = 0;
  double cost = 0;  // predicted tiles, for ordering
};

// Counts of kQueryBlock x kKeyBlock tiles, summed over heads.
struct AttentionStats {
  int64_t tiles_computed = 0;
  int64_t tiles_dense = 0;  // what the same sequences cost unmasked (causal: the lower triangle)
  float max_bound = 0;      // largest B seen (logit units); infinity when a norm was not finite
};

// Empty string when the problem is sound, else what is wrong (shape, range, null pointer).
const char* CheckAttentionProblem(const AttentionProblem& p);

// Bytes of `kv` and `bounds` (only shapes, cu_seqlens and storage are read).
int64_t AttentionKvBytes(const AttentionProblem& p);
int64_t AttentionBoundsBytes(const AttentionProblem& p);
// The same for any packing of `tokens` tokens in `sequences` sequences: an upper bound, for plans.
int64_t AttentionKvBytesUpperBound(int64_t tokens, int64_t sequences, int32_t num_kv_heads,
                                   int32_t head_dim, DType storage);

// Rule A in closed form, shared by every backend: the distance (in tokens) from which tiles may be
// skipped, for a pair of tiles with bound `b` >= 0. Returns INT64_MAX when nothing may be skipped.
int64_t SkipDistance(SkipMode mode, float slope, float b, float epsilon);

}  // namespace longdoc::kernels
