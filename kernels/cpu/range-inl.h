// Which key tiles a block of queries visits, in which order, and when it may stop, where keys lie
// side by side (for gathered ones: gathered-inl.h). The proofs of rules A and B are in
// docs/attention.md.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/skip.h"

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

// One block of query rows of one head. Positions are within the sequence; tiles are key blocks.
struct TileRange {
  int64_t tokens = 0, tiles = 0;
  int64_t first_row = 0;
  int rows = 0;
  int64_t head_dim = 0;
  float scale = 0, slope = 0;
  bool causal = false;
  int64_t radius = -1;  // of the window, at most `tokens`; −1: none
  int64_t globals = 0;  // only with a window

  int64_t diagonal_begin = 0, diagonal_end = 0;  // tiles that hold keys at the rows' own positions
  int64_t left_end = 0;                          // the leftmost tile to visit, prefix tiles aside
  int64_t right_end = 0;                         // one past the rightmost tile to visit
  int64_t prefix_tiles = 0;  // tiles with global keys: visited although left of left_end
  int64_t dense_tiles = 0;

  // Block lists: the block rows that the queries touch (the second begins at position `split`).
  bool listed = false;
  int64_t tiles_per_block = 1, split = 0;
  const int32_t* list_begin[2] = {nullptr, nullptr};
  const int32_t* list_end[2] = {nullptr, nullptr};

  // Norms of the sequence's keys; null when nothing is skipped.
  const float* centre = nullptr;
  const float* left_norms = nullptr;   // max over tiles 0..t
  const float* right_norms = nullptr;  // max over tiles t..last
  float centred_norm = 0, slack_norm = 0;
  bool rule_b = false;
  float rule_b_constant = 0;
};

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// The last list entry <= `block`, or `begin` − 1.
inline const int32_t* LastAtMost(const int32_t* begin, const int32_t* end, int64_t block) {
  while (begin < end) {
    const int32_t* middle = begin + (end - begin) / 2;
    if (*middle <= block) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin - 1;
}

inline bool IsListed(const TileRange& range, int list, int64_t tile) {
  if (range.list_begin[list] == range.list_end[list]) return false;
  const int64_t block = tile / range.tiles_per_block;
  const int32_t* at = LastAtMost(range.list_begin[list], range.list_end[list], block);
  return at >= range.list_begin[list] && *at == block;
}

// The nearest tile <= `tile` that any row may see, or −1.
inline int64_t NextLeft(const TileRange& range, int64_t tile) {
  if (tile < 0) return -1;
  if (!range.listed) {
    if (tile >= range.left_end) return tile;
    return Min(tile, range.prefix_tiles - 1);
  }
  int64_t best = -1;
  for (int list = 0; list < 2; ++list) {
    if (range.list_begin[list] == range.list_end[list]) continue;
    const int32_t* at =
        LastAtMost(range.list_begin[list], range.list_end[list], tile / range.tiles_per_block);
    if (at < range.list_begin[list]) continue;
    best = Max(best, Min(tile, (*at + int64_t{1}) * range.tiles_per_block - 1));
  }
  return best;
}

// The nearest tile >= `tile` that any row may see, or −1.
inline int64_t NextRight(const TileRange& range, int64_t tile) {
  if (tile >= range.right_end) return -1;
  if (!range.listed) return tile;
  int64_t best = range.right_end;
  for (int list = 0; list < 2; ++list) {
    if (range.list_begin[list] == range.list_end[list]) continue;
    const int32_t* at =
        LastAtMost(range.list_begin[list], range.list_end[list], tile / range.tiles_per_block);
    if (at >= range.list_begin[list] && *at == tile / range.tiles_per_block) return tile;
    if (at + 1 == range.list_end[list]) continue;
    best = Min(best, at[1] * range.tiles_per_block);
  }
  return best < range.right_end ? best : -1;
}

// Whether every row of the strip sees all 64 keys of the tile.
inline bool IsFull(const TileRange& range, int64_t first_row, int rows, int64_t tile) {
  const int64_t key = tile * kKeyBlock, last_key = key + kKeyBlock - 1;
  const int64_t last_row = first_row + rows - 1;
  if (last_key >= range.tokens) return false;
  if (range.causal && last_key > first_row) return false;
  if (range.listed) {
    if (first_row < range.split && !IsListed(range, 0, tile)) return false;
    if (last_row >= range.split && !IsListed(range, 1, tile)) return false;
  }
  if (range.radius < 0 || last_row < range.globals || last_key < range.globals) return true;
  return last_row - range.radius <= key && first_row + range.radius >= last_key;
}

// Columns of the tile that each row of the strip may see: [begin, end) and [0, prefix). Returns
// false when no row sees any.
inline bool AllowedColumns(const TileRange& range, int64_t first_row, int rows, int64_t tile,
                           float* begin, float* end, float* prefix) {
  const int64_t key = tile * kKeyBlock;
  bool any = false;
  bool in_list[2] = {true, true};
  if (range.listed) {
    in_list[0] = IsListed(range, 0, tile);
    in_list[1] = IsListed(range, 1, tile);
  }
  for (int r = 0; r < rows; ++r) {
    const int64_t row = first_row + r;
    int64_t last = Min(kKeyBlock, range.tokens - key);
    if (range.causal) last = Min(last, row - key + 1);
    if (!in_list[row < range.split ? 0 : 1] || last < 0) last = 0;
    int64_t b = 0, e = last, g = 0;
    if (range.radius >= 0 && row >= range.globals) {
      b = Min(Max(0, row - range.radius - key), kKeyBlock);
      e = Min(last, row + range.radius + 1 - key);
      g = Min(last, range.globals - key);
    }
    begin[r] = static_cast<float>(b);
    end[r] = static_cast<float>(Max(e, 0));
    prefix[r] = static_cast<float>(Max(g, 0));
    any = any || e > b || g > 0;
  }
  return any;
}

inline void SetLists(const AttentionProblem& p, int64_t sequence, TileRange* range) {
  const AttentionMask& mask = p.mask;
  range->listed = true;
  range->tiles_per_block = mask.block_tokens / kKeyBlock;
  int64_t row = 0;
  for (int64_t s = 0; s < sequence; ++s) {
    row += (p.cu_seqlens[s + 1] - p.cu_seqlens[s] + mask.block_tokens - 1) / mask.block_tokens;
  }
  const int64_t first = range->first_row / mask.block_tokens;
  const int64_t last = (range->first_row + range->rows - 1) / mask.block_tokens;
  range->split = (first + 1) * mask.block_tokens;
  for (int64_t list = 0; list <= last - first; ++list) {
    range->list_begin[list] = mask.block_columns + mask.block_row_offsets[row + first + list];
    range->list_end[list] = mask.block_columns + mask.block_row_offsets[row + first + list + 1];
  }
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
  TileRange range;
  range.tokens = p.cu_seqlens[sequence + 1] - p.cu_seqlens[sequence];
  range.tiles = Blocks(range.tokens);
  range.first_row = first_row;
  range.rows = static_cast<int>(Min(kQueryBlock, row_end - first_row));
  range.head_dim = p.head_dim;
  range.scale = p.scale;
  range.slope = p.slopes[head];
  range.causal = p.mask.causal;
  const int64_t last_row = first_row + range.rows - 1;
  range.diagonal_begin = first_row / kKeyBlock;
  range.diagonal_end = last_row / kKeyBlock + 1;
  range.right_end = range.causal ? range.diagonal_end : range.tiles;
  range.dense_tiles = range.right_end;
  if (p.mask.window_radius >= 0) {
    range.radius = Min(p.mask.window_radius, range.tokens);
    range.globals = Min(p.mask.num_global, range.tokens);
    if (first_row >= range.globals) {  // no row of the block is global
      range.left_end = Max(0, first_row - range.radius) / kKeyBlock;
      range.right_end = Min(range.right_end, (last_row + range.radius) / kKeyBlock + 1);
    }
    // Not for blocks of global rows alone, which see one unbroken run of keys.
    if (last_row >= range.globals) range.prefix_tiles = Blocks(range.globals);
  }
  if (p.mask.block_row_offsets != nullptr) SetLists(p, sequence, &range);
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
  if (range->listed) return;  // rule A needs the near keys, which a list may leave out
  const int64_t distance = SkipDistance(p.skip, range->slope, bound, p.epsilon);
  const int64_t last_row = range->first_row + range->rows - 1;
  if (distance <= range->first_row) {
    // Kept iff first_row − (64·tile + 63) < distance.
    range->left_end = Max(range->left_end, (range->first_row - distance + 1) / kKeyBlock);
  }
  if (distance < range->tokens) {
    // Kept iff 64·tile − last_row < distance.
    const int64_t end = (last_row + distance - 1) / kKeyBlock + 1;
    range->right_end = Max(range->diagonal_end, Min(range->right_end, end));
  }
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

// Visits the diagonal, then left and right in turn, outward, each until may_stop(tile, is_left).
template <class MayStop, class Visit>
inline void ForEachTile(const TileRange& range, const MayStop& may_stop, const Visit& visit) {
  for (int64_t tile = range.diagonal_begin; tile < range.diagonal_end; ++tile) {
    if (!range.listed || IsListed(range, 0, tile) || IsListed(range, 1, tile)) visit(tile);
  }
  int64_t left = range.diagonal_begin - 1, right = range.diagonal_end;
  while (left >= 0 || right >= 0) {
    if (left >= 0) {
      left = NextLeft(range, left);
      if (left >= 0 && may_stop(left, true)) left = -1;
      if (left >= 0) visit(left--);
    }
    if (right >= 0) {
      right = NextRight(range, right);
      if (right >= 0 && may_stop(right, false)) right = -1;
      if (right >= 0) visit(right++);
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
