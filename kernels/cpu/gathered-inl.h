// Which key tiles a block of queries visits where keys and queries are gathered tokens, each at its
// own position: rule C. The proof is in docs/attention.md.
//
// The scores of row i are kept relative to its nearest key: their bias is −slope·(|p_i − p_j| −
// nearest_i), an exact integer times the slope, small wherever a weight is not 0. Softmax does not
// see the difference, and keys 10^8 positions away lose no precision.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/gathered.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/range-inl.h"
#include "kernels/ranges.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// What a block of gathered rows knows beside its TileRange, whose diagonal holds the nearest key of
// every row: all other tiles lie entirely to one side of the block.
struct GatheredBlock {
  const int32_t* keys = nullptr;     // positions of the sequence's keys
  const int32_t* rows = nullptr;     // positions of the block's rows
  const float* left_sums = nullptr;  // PositionSums of the keys; null when nothing is skipped
  const float* right_sums = nullptr;
  bool exact = false;  // skip by single weights, not by masses
  float constant = 0;  // ln(2/epsilon), or what is needed for a weight of 0
  RowPlaces places;
  // What a row may lose on a side, before the loop: the largest logarithm of a mass, relative to
  // its nearest key. In the loop the running sum may allow more.
  float limit[kQueryBlock];
};

inline TileRange MakeGatheredRange(const AttentionProblem& p, int64_t sequence, int32_t head,
                                   int32_t kv_head, int64_t first_row, int64_t row_end,
                                   GatheredBlock* block) {
  const int64_t keys = KeyCount(p, sequence), rows = Min(kQueryBlock, row_end - first_row);
  block->keys = p.k_positions + KeyOffsets(p)[sequence];
  block->rows = p.q_positions + p.cu_seqlens[sequence] + first_row;
  TileRange range(GatheredRange(keys, first_row, rows, kKeyBlock, 0, 0));
  range.head_dim = p.head_dim;
  range.scale = p.scale;
  range.slope = p.slopes[head];
  if (keys == 0) return range;
  SetNorms(p, sequence, kv_head, &range);
  if (range.centre != nullptr && range.slope > 0) {
    block->left_sums = static_cast<const float*>(p.bounds) + PositionSumsOffset(p, sequence, head);
    block->right_sums = block->left_sums + keys;
  }
  block->exact = p.skip == SkipMode::kExact;
  PlaceRows(block->keys, keys, block->rows, static_cast<int>(rows), range.slope,
            block->exact ? nullptr : block->left_sums, block->exact ? nullptr : block->right_sums,
            &block->places);
  static_cast<KeyRange&>(range) = GatheredRange(keys, first_row, rows, kKeyBlock,
                                                block->places.first_key, block->places.last_key);
  return range;
}

// Rule C before the loop: with both B, from positions and norms alone.
inline void LimitByPositions(const AttentionProblem& p, const TileRange& range,
                             const RowState& rows, GatheredBlock* block, AttentionStats* stats) {
  if (range.centre == nullptr) return;
  const bool infinite = BlockBound(range, rows, stats) == __builtin_inff();
  if (infinite) block->left_sums = nullptr;
  if (block->left_sums == nullptr) return;
  block->constant = block->exact ? static_cast<float>(kExactSpread) : RuleCConstant(p.epsilon);
  const float norm = range.centred_norm + range.slack_norm;
  for (int r = 0; r < kQueryBlock; ++r) {
    const float mass = r < range.rows ? block->places.log_mass[r] : 0.0f;
    block->limit[r] = mass - rows.norm[r] * norm - block->constant;
  }
}

// Rule C: whether `tile`, which lies to the left (or right) of the block's rows [first, first +
// count), and everything beyond it may be left out for these rows.
template <class S>
inline bool MayLeaveOut(const TileRange& range, const GatheredBlock& block, const RowState& rows,
                        int first, int count, int64_t tile, bool left) {
  using Vec = typename S::Vec;
  if (block.left_sums == nullptr) return false;
  const int64_t key = left ? Min(tile * kKeyBlock + kKeyBlock, range.tokens) - 1 : tile * kKeyBlock;
  const int32_t edge = block.keys[key];  // the tile's nearest key
  const float sum = (left ? block.left_sums : block.right_sums)[key];
  const float side_norm = (left ? range.left_norms : range.right_norms)[tile] + range.slack_norm;
  const Vec log_sum = S::Set1(block.exact ? 0.0f : __builtin_logf(sum));
  const Vec norm = S::Set1(side_norm), constant = S::Set1(block.constant);
  const Vec slope = S::Set1(range.slope * (1 - 0x1p-20f));  // for the rounding of the bias
  for (int r = first; r < first + count; r += S::kLanes) {
    const int at = r < kQueryBlock - S::kLanes ? r : static_cast<int>(kQueryBlock) - S::kLanes;
    float distance[S::kLanes];
    for (int l = 0; l < S::kLanes; ++l) {
      const int row = at + l;
      distance[l] = 3.0e38f;  // other rows do not count
      if (row < first || row >= first + count) continue;
      const int32_t apart = left ? block.rows[row] - edge : edge - block.rows[row];
      distance[l] = static_cast<float>(apart - block.places.nearest[row]);
    }
    const Vec top = S::Fma(S::Load(rows.norm + at), norm, log_sum);
    const Vec mass = S::Fnma(slope, S::Load(distance), top);
    const Vec seen = block.exact ? S::Load(rows.max + at) : LogSumAtLeast<S>(rows, at);
    const Vec live = S::Sub(S::Sub(seen, S::Load(rows.centre_dot + at)), constant);
    if (!S::All(S::Ge(S::Max(live, S::Load(block.limit + at)), mass))) return false;
  }
  return true;
}

}  // namespace
}  // namespace longdoc::kernels
