// Device functions of both forward kernels: taking items, ending sides, counting.
#pragma once

#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/device/platform.h"

namespace longdoc::kernels::cuda {
namespace {  // NOLINT: internal linkage, like kernels/ranges.h

// A test for one tile of one side, the same for every row. Loads from memory: make it early.
struct SideTest {
  float norm;    // of the keys from the tile outward, with slack
  float sum;     // rule C: of e^(−slope·distance from `edge`) over the keys from it outward
  int32_t edge;  // position of the tile's nearest key
};

template <bool kGathered>
__device__ inline SideTest MakeSideTest(const AttentionParams& p, const AttentionItem& item,
                                        int64_t tile, int32_t side) {
  SideTest test = {0, 1, 0};
  if (item.rule == LoopRule::kNone || side == kTileDiagonal) return test;
  const KeyRange& range = item.range;
  const bool left = side == kTileLeft;
  const int64_t first = tile * range.tile_keys;
  const int64_t key = left ? Min(first + range.tile_keys, range.tokens) - 1 : first;
  test.norm = (left ? p.left_norms : p.right_norms)[item.norms + tile] + item.slack_norm;
  test.edge = kGathered ? p.k_positions[item.k_begin + key] : static_cast<int32_t>(key);
  if (kGathered && item.rule == LoopRule::kC) {
    test.sum = (left ? p.left_sums : p.right_sums)[item.sums + key];
  }
  return test;
}

// What the tests know of a query row.
struct RowBound {
  float norm, centre_dot;  // RowNorm
  float limit;             // RowLimit, or −3e38
  int32_t place;           // position of the row; gathered: with RowLimit.nearest in `nearest`
  int32_t nearest;
};

// Row `row` of the item; rows beyond it may end any side.
__device__ inline RowBound MakeRowBound(const AttentionParams& p, const AttentionItem& item,
                                        int row) {
  RowBound bound = {0, 0, 3.0e38f, 0, 0};
  if (row >= item.range.rows) return bound;
  const int64_t at = item.head * p.total_q + item.q_begin + row;
  bound.limit = -3.0e38f;
  bound.place = static_cast<int32_t>(item.range.first_row) + row;
  if (p.gathered) {
    const RowLimit limit = p.row_limits[at];
    bound.place = p.q_positions[item.q_begin + row];
    bound.nearest = limit.nearest;
    bound.limit = limit.limit;
  }
  if (item.rule == LoopRule::kNone) return bound;
  const RowNorm norm = p.row_norms[at];
  bound.norm = norm.norm;
  bound.centre_dot = norm.centre_dot;
  return bound;
}

// log2 of a positive float from below: its bits, read as an integer, interpolate log2 linearly, and
// log2(1 + f) >= f.
__device__ inline float Log2AtLeast(float x) {
  return fmaf(static_cast<float>(__float_as_int(x)), 0x1p-23f, -127.0f);
}

// Whether a row with running maximum `max` (base 2, true units; gathered: relative to its nearest
// key) and running sum `sum` may leave out the tested tile and all beyond it. All rows of a warp
// must agree before it ends the side.
template <bool kGathered>
__device__ inline bool MayEndSide(const AttentionItem& item, const SideTest& test, int32_t side,
                                  const RowBound& row, float max, float sum) {
  const int32_t apart = side == kTileLeft ? row.place - test.edge : test.edge - row.place;
  const float distance = static_cast<float>(kGathered ? apart - row.nearest : apart);
  const float slope = item.slope * (1 - 0x1p-20f);  // for the rounding of the bias
  const float log_sum = kGathered ? log2f(test.sum) : 0.0f;
  const float mass = fmaf(-slope, distance, fmaf(row.norm, test.norm, log_sum));
  const bool exact = kGathered && item.rule == LoopRule::kExactMax;
  const float seen = exact ? max : max + Log2AtLeast(sum);
  return fmaxf(seen - row.centre_dot - item.rule_constant, row.limit) >= mass;
}

// Called by one thread per item.
__device__ inline void AddTilesComputed(const AttentionParams& p, const AttentionItem& item,
                                        int64_t tiles) {
  if (p.stats == nullptr) return;
  atomicAdd(reinterpret_cast<unsigned long long*>(&p.stats[item.sequence].tiles_computed),
            static_cast<unsigned long long>(tiles));
}

// The number of the next item of the launch, for one thread of the block.
__device__ inline int64_t TakeItem(const AttentionParams& p) {
  return static_cast<int64_t>(atomicAdd(reinterpret_cast<unsigned long long*>(p.next_item), 1ull));
}

}  // namespace
}  // namespace longdoc::kernels::cuda
