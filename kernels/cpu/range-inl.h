// Which key tiles a block of queries visits, and when it may stop, where keys lie side by side (for
// gathered ones: gathered-inl.h). Ranges and order are those of kernels/ranges.h; here are the
// tests that need norms and running sums. The proofs of rules A and B are in docs/attention.md.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/layout.h"
#include "kernels/ranges.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// Per query row of a block, arrays of kQueryBlock floats.
struct RowState {
  static constexpr int64_t kArrays = 4;
  float* max;         // running maximum of the scores
  float* sum;         // sum of exp(score − max)
  float* norm;        // |scale|·‖q‖, rounded up
  float* centre_dot;  // scale·q·c
};

// One block of query rows of one head against key blocks.
struct TileRange : KeyRange {
  int64_t head_dim = 0;
  float scale = 0, slope = 0;

  // Norms of the sequence's keys; null when nothing is skipped.
  const float* centre = nullptr;
  const float* left_norms = nullptr;   // max over tiles 0..t
  const float* right_norms = nullptr;  // max over tiles t..last
  float centred_norm = 0, slack_norm = 0;
  bool rule_b = false;
  float rule_b_constant = 0;

  explicit TileRange(const KeyRange& range) : KeyRange(range) {}
};

// Columns of the tile that each row of the strip may see: [begin, end) and [0, prefix). Returns
// false when no row sees any.
inline bool AllowedColumns(const TileRange& range, int64_t first_row, int rows, int64_t tile,
                           float* begin, float* end, float* prefix) {
  bool any = false;
  bool in_list[2] = {true, true};
  if (range.listed) {
    in_list[0] = IsListed(range, 0, tile);
    in_list[1] = IsListed(range, 1, tile);
  }
  for (int r = 0; r < rows; ++r) {
    const int64_t row = first_row + r;
    const TileColumns columns =
        VisibleColumns(range, row, tile, in_list[row < range.split ? 0 : 1]);
    begin[r] = static_cast<float>(columns.begin);
    end[r] = static_cast<float>(columns.end);
    prefix[r] = static_cast<float>(columns.prefix);
    any = any || columns.end > columns.begin || columns.prefix > 0;
  }
  return any;
}

// The block-list row of the sequence's first block.
inline int64_t ListRow(const AttentionProblem& p, int64_t sequence) {
  int64_t row = 0;
  if (p.mask.block_row_offsets == nullptr) return row;
  for (int64_t s = 0; s < sequence; ++s) {
    row += CeilDiv(p.cu_seqlens[s + 1] - p.cu_seqlens[s], p.mask.block_tokens);
  }
  return row;
}

// What Bound left for this range, where there is anything to skip.
inline void SetNorms(const AttentionProblem& p, int64_t sequence, int32_t kv_head,
                     TileRange* range) {
  if (p.skip == SkipMode::kDense || range->tokens <= kShortSequence) return;
  const float* bounds = static_cast<const float*>(p.bounds);
  const float* record = bounds + BoundsRecordOffset(p, sequence, kv_head);
  range->centre = record + kBoundHeader;
  range->left_norms = bounds + BoundsNormOffset(p, sequence, kv_head);
  range->right_norms = range->left_norms + range->tiles;
  range->centred_norm = record[kBoundCentredNorm];
  // Rounding of fp32 dot products, with margin; it scales with the norms before centring.
  range->slack_norm = record[kBoundRawNorm] * static_cast<float>(p.head_dim) * 0x1p-20f;
  if (record[kBoundFinite] == 0.0f) range->centred_norm = __builtin_inff();
}

// The range as the mask allows it, before any skipping.
inline TileRange MakeRange(const AttentionProblem& p, int64_t sequence, int32_t head,
                           int32_t kv_head, int64_t first_row, int64_t row_end) {
  TileRange range(MaskedRange(p.mask, p.cu_seqlens[sequence + 1] - p.cu_seqlens[sequence],
                              first_row, Min(kQueryBlock, row_end - first_row), kKeyBlock,
                              ListRow(p, sequence)));
  range.head_dim = p.head_dim;
  range.scale = p.scale;
  range.slope = p.slopes[head];
  SetNorms(p, sequence, kv_head, &range);
  return range;
}

// B of a block of queries: infinity when something is not finite. For ranges with norms.
inline float BlockBound(const TileRange& range, const RowState& rows, AttentionStats* stats) {
  float norm = 0, poison = 0;
  for (int r = 0; r < range.rows; ++r) {
    poison += rows.norm[r] * 0.0f + rows.centre_dot[r] * 0.0f;
    if (rows.norm[r] > norm) norm = rows.norm[r];
  }
  float bound = norm * (range.centred_norm + range.slack_norm);
  if (poison != 0.0f || !(bound <= 3.0e38f)) bound = __builtin_inff();
  if (bound > stats->max_bound) stats->max_bound = bound;
  return bound;
}

// Rule A: narrows the range by the norms of the block's queries, and prepares rule B.
inline void LimitByNorms(const AttentionProblem& p, const RowState& rows, TileRange* range,
                         AttentionStats* stats) {
  if (range->centre == nullptr) return;
  const float bound = BlockBound(*range, rows, stats);
  if (bound == __builtin_inff()) return;
  range->rule_b = p.skip == SkipMode::kTolerance && range->slope > 0;
  range->rule_b_constant = range->rule_b ? RuleBConstant(range->slope, p.epsilon) : 0.0f;
  LimitByDistance(SkipDistance(p.skip, range->slope, bound, p.epsilon), range);
}

// At most the logarithm of exp(max)·sum of the rows from r on. log2(1 + f) >= f: reading the bits
// of the sum as a number bounds its logarithm from below.
template <class S>
inline typename S::Vec LogSumAtLeast(const RowState& rows, int r) {
  const typename S::Vec log_unit = S::Set1(8.2629582881927490e-8f);  // ln 2 / 2^23
  return S::Fma(S::ExponentBits(S::Load(rows.sum + r)), log_unit, S::Load(rows.max + r));
}

// Rule B: whether `tile` and everything beyond it on its side (`left` or right) may be left out.
template <class S>
inline bool MayStopByRuleB(const TileRange& range, const RowState& rows, int64_t tile, bool left) {
  using Vec = typename S::Vec;
  if (!range.rule_b) return false;
  const int64_t key = left ? tile * kKeyBlock + kKeyBlock - 1 : tile * kKeyBlock;
  const int64_t first_distance = left ? range.first_row - key : key - range.first_row;
  const float side_norm = (left ? range.left_norms : range.right_norms)[tile] + range.slack_norm;
  const Vec norm = S::Set1(side_norm), slope = S::Set1(range.slope);
  const Vec constant = S::Set1(range.rule_b_constant);
  const Vec direction = S::Set1(left ? 1.0f : -1.0f);
  for (int r = 0; r < range.rows; r += S::kLanes) {
    const Vec row = S::Add(S::Iota(), S::Set1(static_cast<float>(r)));
    const Vec distance = S::Fma(row, direction, S::Set1(static_cast<float>(first_distance)));
    const Vec top = S::Fma(S::Load(rows.norm + r), norm, S::Load(rows.centre_dot + r));
    const Vec mass = S::Add(S::Fnma(slope, distance, top), constant);
    if (!S::All(S::Ge(LogSumAtLeast<S>(rows, r), mass))) return false;
  }
  return true;
}

// Visits the tiles in order, each side until may_stop(tile, is_left).
template <class MayStop, class Visit>
inline void ForEachTile(const TileRange& range, const MayStop& may_stop, const Visit& visit) {
  TileWalk walk = StartWalk(range);
  int32_t side = kTileDiagonal;
  for (int64_t tile = NextTile(range, &walk, &side); tile >= 0;
       tile = NextTile(range, &walk, &side)) {
    if (side != kTileDiagonal && may_stop(tile, side == kTileLeft)) {
      EndSide(side, &walk);
    } else {
      visit(tile);
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
