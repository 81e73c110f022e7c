// Which key tiles a tile of queries visits, and in which order: the arithmetic that every backend
// shares, host and device. The proofs of the skipping rules are in docs/attention.md.
//
// Everything is in closed form from a few integers, the tile sizes among them, so that the CPU and
// every CUDA kernel leave out the same keys but for the grain of their tiles. Offsets are 64-bit.
//
// This header is compiled under several instruction-set flags. Its functions therefore have
// internal linkage (see cpu/layout.h), and its structs no constructors.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/attention.h"

#if defined(__CUDACC__)
#define LONGDOC_HOST_DEVICE __host__ __device__
#else
#define LONGDOC_HOST_DEVICE
#endif

namespace longdoc::kernels {

// The key tiles of one tile of query rows of one head. Positions are within the sequence; where
// keys and queries are gathered, a position is an index among the sequence's keys. Whoever lacks
// registers uses 32-bit numbers, see Narrowed().
template <typename I>
struct BasicKeyRange {
  using Index = I;
  Index tile_keys;      // keys per tile
  Index tokens, tiles;  // keys of the sequence
  Index first_row;      // of the queries, within the sequence
  Index rows;
  Index radius;   // of the window, at most `tokens`; −1: none
  Index globals;  // only with a window
  bool causal;
  bool listed;  // a block list says what exists

  Index diagonal_begin, diagonal_end;  // tiles that hold keys at the rows' own positions
  Index left_end;                      // the leftmost tile to visit, prefix tiles aside
  Index right_end;                     // one past the rightmost tile to visit
  Index prefix_tiles;                  // tiles with global keys: visited although left of left_end
  Index dense_tiles;  // what an unmasked tile of queries visits (causal: the lower triangle)

  // Block lists: the block rows that the queries touch (the second begins at position `split`).
  Index tiles_per_block, split;
  const int32_t* list_begin[2];
  const int32_t* list_end[2];
};
using KeyRange = BasicKeyRange<int64_t>;

enum TileSide : int32_t { kTileDiagonal = 0, kTileLeft = 1, kTileRight = 2 };

// Where a walk over the tiles of a range stands: the next candidates, −1 when a side has ended.
template <typename I>
struct BasicTileWalk {
  I diagonal, left, right;
  bool right_is_next;
};
using TileWalk = BasicTileWalk<int64_t>;

// The columns of a tile that a row may see: [begin, end) and [0, prefix).
template <typename I>
struct BasicTileColumns {
  I begin, end, prefix;
};
using TileColumns = BasicTileColumns<int64_t>;

// A gathered query row among the keys of its sequence.
struct RowPlace {
  int32_t nearest;      // distance to the nearest key
  int64_t nearest_key;  // its index
  // ln Σ_j e^(−slope·(|row − p[j]| − nearest)) over all keys, at least 0; 0 without sums.
  float log_mass;
};

namespace {  // NOLINT: internal linkage, see above

// Sequences this short are always dense and carry no norms: there is nothing to skip.
constexpr int64_t kShortSequence = 256;

// What a score must lie below the running maximum for its weight to be exactly 0: exp() gives 0
// below -87.3, and 0.1 covers the rounding of the bias.
constexpr double kExactSpread = 87.4;

LONGDOC_HOST_DEVICE inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
LONGDOC_HOST_DEVICE inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// The same among numbers of one type.
template <typename I>
LONGDOC_HOST_DEVICE constexpr I Least(I a, I b) {
  return a < b ? a : b;
}
template <typename I>
LONGDOC_HOST_DEVICE constexpr I Greatest(I a, I b) {
  return a > b ? a : b;
}
template <typename I>
using IndexOf = typename BasicKeyRange<I>::Index;  // takes no part in the deduction of I

// ---- rules A, B and C: scalars ------------------------------------------------------------------

// What rule A adds to 2B, in logit units; dense problems have no such number.
LONGDOC_HOST_DEVICE inline double SkipSpread(SkipMode mode, float epsilon) {
  if (mode != SkipMode::kTolerance) return kExactSpread;
  // Beyond the exact distance nothing is lost at all, so a tiny epsilon never asks for more.
  const double spread = std::log(2.0 / epsilon);
  return spread < kExactSpread ? spread : kExactSpread;
}

// Rule A: the distance from which tiles may be left out, INT64_MAX when none may. IEEE arithmetic
// alone, so that host and device agree.
LONGDOC_HOST_DEVICE inline int64_t DistanceOfSpread(double spread, float slope, float b) {
  if (!(slope > 0) || !(b >= 0 && b <= 3.40282347e38f)) return INT64_MAX;
  const double distance = std::ceil((2.0 * b + spread) / slope);
  return distance < 9e18 ? static_cast<int64_t>(distance) : INT64_MAX;
}

// ln(2 / ((1 − e^−slope)·epsilon)) of rule B, plus a slack of 0.02 for the rounding of the running
// sums and of the bias. slope > 0, epsilon in (0, 1).
LONGDOC_HOST_DEVICE inline float RuleBConstant(float slope, float epsilon) {
  const double geometric = -std::expm1(-static_cast<double>(slope));  // 1 − e^−slope
  return static_cast<float>(std::log(2.0 / (geometric * epsilon)) + 0.02);
}

// ln(2 / epsilon) of rule C, with the same slack.
LONGDOC_HOST_DEVICE inline float RuleCConstant(float epsilon) {
  return static_cast<float>(std::log(2.0 / static_cast<double>(epsilon)) + 0.02);
}

// Places a row whose next key beyond it is keys[after] (after = count: none); count > 0. `left` and
// `right` are the sums over positions of rule C, or both null.
LONGDOC_HOST_DEVICE inline RowPlace PlaceRow(const int32_t* keys, int64_t count, int32_t row,
                                             int64_t after, float slope, const float* left,
                                             const float* right) {
  const bool has_left = after > 0, has_right = after < count;
  const int64_t to_left = has_left ? int64_t{row} - keys[after - 1] : int64_t{1} << 40;
  const int64_t to_right = has_right ? int64_t{keys[after]} - row : int64_t{1} << 40;
  const int64_t nearest = Min(to_left, to_right);
  RowPlace place = {static_cast<int32_t>(nearest), after - (to_left <= to_right ? 1 : 0), 0.0f};
  if (left == nullptr) return place;
  double mass = 0;
  const double fall = -static_cast<double>(slope);
  if (has_left) mass += left[after - 1] * std::exp(fall * static_cast<double>(to_left - nearest));
  if (has_right) mass += right[after] * std::exp(fall * static_cast<double>(to_right - nearest));
  place.log_mass = static_cast<float>(std::log(mass));
  return place;
}

// ---- block lists --------------------------------------------------------------------------------

// The last list entry <= `block`, or `begin` − 1.
template <typename I>
LONGDOC_HOST_DEVICE inline const int32_t* LastAtMost(const int32_t* begin, const int32_t* end,
                                                     I block) {
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

// Whether block row `list` (0 or 1) of the range names the block of `tile`.
template <typename I>
LONGDOC_HOST_DEVICE inline bool IsListed(const BasicKeyRange<I>& range, int list, IndexOf<I> tile) {
  if (range.list_begin[list] == range.list_end[list]) return false;
  const I block = tile / range.tiles_per_block;
  const int32_t* at = LastAtMost(range.list_begin[list], range.list_end[list], block);
  return at >= range.list_begin[list] && *at == block;
}

// ---- ranges -------------------------------------------------------------------------------------

// The range as the mask allows it, before any skipping. `list_row`: the block-list row of the
// sequence's first block.
LONGDOC_HOST_DEVICE inline KeyRange MaskedRange(const AttentionMask& mask, int64_t tokens,
                                                int64_t first_row, int64_t rows, int64_t tile_keys,
                                                int64_t list_row) {
  KeyRange range = {};
  range.tile_keys = tile_keys;
  range.tokens = tokens;
  range.tiles = CeilDiv(tokens, tile_keys);
  range.first_row = first_row;
  range.rows = rows;
  range.radius = -1;
  range.causal = mask.causal;
  range.tiles_per_block = 1;
  const int64_t last_row = first_row + rows - 1;
  range.diagonal_begin = first_row / tile_keys;
  range.diagonal_end = last_row / tile_keys + 1;
  range.right_end = range.causal ? range.diagonal_end : range.tiles;
  range.dense_tiles = range.right_end;
  if (mask.window_radius >= 0) {
    range.radius = Min(mask.window_radius, tokens);
    range.globals = Min(mask.num_global, tokens);
    if (first_row >= range.globals) {  // no row of the tile is global
      range.left_end = Max(0, first_row - range.radius) / tile_keys;
      range.right_end = Min(range.right_end, (last_row + range.radius) / tile_keys + 1);
    }
    // Not for tiles of global rows alone, which see one unbroken run of keys.
    if (last_row >= range.globals) range.prefix_tiles = CeilDiv(range.globals, tile_keys);
  }
  if (mask.block_row_offsets == nullptr) return range;
  range.listed = true;
  range.tiles_per_block = mask.block_tokens / tile_keys;
  const int64_t first = first_row / mask.block_tokens, last = last_row / mask.block_tokens;
  range.split = (first + 1) * mask.block_tokens;
  for (int list = 0; list < 2; ++list) {
    if (first + list > last) break;
    const int64_t* offsets = mask.block_row_offsets + list_row + first + list;
    range.list_begin[list] = mask.block_columns + offsets[0];
    range.list_end[list] = mask.block_columns + offsets[1];
  }
  return range;
}

// The range of gathered rows, the first and the last of which have the nearest keys `first_key` and
// `last_key`: the diagonal holds the nearest key of every row, all else lies to one side of all.
LONGDOC_HOST_DEVICE inline KeyRange GatheredRange(int64_t tokens, int64_t first_row, int64_t rows,
                                                  int64_t tile_keys, int64_t first_key,
                                                  int64_t last_key) {
  KeyRange range = {};
  range.tile_keys = tile_keys;
  range.tokens = tokens;
  range.tiles = range.right_end = range.dense_tiles = CeilDiv(tokens, tile_keys);
  range.first_row = first_row;
  range.rows = rows;
  range.radius = -1;
  range.tiles_per_block = 1;
  if (tokens == 0) return range;
  range.diagonal_begin = first_key / tile_keys;
  range.diagonal_end = last_key / tile_keys + 1;
  return range;
}

// Rule A: leaves out the tiles at `distance` or beyond. Not for lists, which may leave out the near
// keys that the rule needs.
LONGDOC_HOST_DEVICE inline void LimitByDistance(int64_t distance, KeyRange* range) {
  if (range->listed) return;
  const int64_t last_row = range->first_row + range->rows - 1;
  if (distance <= range->first_row) {
    // Kept iff first_row − the tile's last key < distance.
    range->left_end = Max(range->left_end, (range->first_row - distance + 1) / range->tile_keys);
  }
  if (distance < range->tokens) {
    // Kept iff the tile's first key − last_row < distance.
    const int64_t end = (last_row + distance - 1) / range->tile_keys + 1;
    range->right_end = Max(range->diagonal_end, Min(range->right_end, end));
  }
}

// The range in 32 bits, for sequences of fewer than 2^30 keys; beyond all keys is as good as 2^30.
LONGDOC_HOST_DEVICE inline BasicKeyRange<int32_t> Narrowed(const KeyRange& range) {
  const auto narrow = [](int64_t x) { return static_cast<int32_t>(Least(x, int64_t{1} << 30)); };
  BasicKeyRange<int32_t> result = {};
  result.tile_keys = narrow(range.tile_keys);
  result.tokens = narrow(range.tokens);
  result.tiles = narrow(range.tiles);
  result.first_row = narrow(range.first_row);
  result.rows = narrow(range.rows);
  result.radius = narrow(range.radius);
  result.globals = narrow(range.globals);
  result.causal = range.causal;
  result.listed = range.listed;
  result.diagonal_begin = narrow(range.diagonal_begin);
  result.diagonal_end = narrow(range.diagonal_end);
  result.left_end = narrow(range.left_end);
  result.right_end = narrow(range.right_end);
  result.prefix_tiles = narrow(range.prefix_tiles);
  result.dense_tiles = narrow(range.dense_tiles);
  result.tiles_per_block = narrow(range.tiles_per_block);
  result.split = narrow(range.split);
  for (int list = 0; list < 2; ++list) {
    result.list_begin[list] = range.list_begin[list];
    result.list_end[list] = range.list_end[list];
  }
  return result;
}

// ---- the walk -----------------------------------------------------------------------------------

// The nearest tile <= `tile` that any row may see, or −1.
template <typename I>
LONGDOC_HOST_DEVICE inline I NextLeft(const BasicKeyRange<I>& range, IndexOf<I> tile) {
  if (tile < 0) return -1;
  if (!range.listed) {
    if (tile >= range.left_end) return tile;
    return Least<I>(tile, range.prefix_tiles - 1);
  }
  I best = -1;
  for (int list = 0; list < 2; ++list) {
    if (range.list_begin[list] == range.list_end[list]) continue;
    const int32_t* at =
        LastAtMost(range.list_begin[list], range.list_end[list], tile / range.tiles_per_block);
    if (at < range.list_begin[list]) continue;
    best = Greatest<I>(best, Least<I>(tile, (*at + I{1}) * range.tiles_per_block - 1));
  }
  return best;
}

// The nearest tile >= `tile` that any row may see, or −1.
template <typename I>
LONGDOC_HOST_DEVICE inline I NextRight(const BasicKeyRange<I>& range, IndexOf<I> tile) {
  if (tile >= range.right_end) return -1;
  if (!range.listed) return tile;
  I best = range.right_end;
  for (int list = 0; list < 2; ++list) {
    if (range.list_begin[list] == range.list_end[list]) continue;
    const int32_t* at =
        LastAtMost(range.list_begin[list], range.list_end[list], tile / range.tiles_per_block);
    if (at >= range.list_begin[list] && *at == tile / range.tiles_per_block) return tile;
    if (at + 1 == range.list_end[list]) continue;
    best = Least<I>(best, at[1] * range.tiles_per_block);
  }
  return best < range.right_end ? best : -1;
}

template <typename I>
LONGDOC_HOST_DEVICE inline BasicTileWalk<I> StartWalk(const BasicKeyRange<I>& range) {
  return {range.diagonal_begin, range.diagonal_begin - 1, range.diagonal_end, false};
}

// The next tile of the walk and its side, or −1 at the end: the diagonal, then left and right in
// turn, outward. EndSide() ends a side early.
template <typename I>
LONGDOC_HOST_DEVICE inline I NextTile(const BasicKeyRange<I>& range, BasicTileWalk<I>* walk,
                                      int32_t* side) {
  while (walk->diagonal < range.diagonal_end) {
    const I tile = walk->diagonal++;
    if (range.listed && !IsListed(range, 0, tile) && !IsListed(range, 1, tile)) continue;
    *side = kTileDiagonal;
    return tile;
  }
  while (walk->left >= 0 || walk->right >= 0) {
    walk->right_is_next = !walk->right_is_next;
    if (walk->right_is_next) {  // so it is left's turn
      walk->left = NextLeft(range, walk->left);
      *side = kTileLeft;
      if (walk->left >= 0) return walk->left--;
    } else if (walk->right >= 0) {
      walk->right = NextRight(range, walk->right);
      *side = kTileRight;
      if (walk->right >= 0) return walk->right++;
    }
  }
  return -1;
}

template <typename I>
LONGDOC_HOST_DEVICE inline void EndSide(int32_t side, BasicTileWalk<I>* walk) {
  (side == kTileLeft ? walk->left : walk->right) = -1;
}

// ---- masks within a tile ------------------------------------------------------------------------

// Whether all of `rows` rows from `first_row` on see every key of the tile.
template <typename I>
LONGDOC_HOST_DEVICE inline bool IsFull(const BasicKeyRange<I>& range, IndexOf<I> first_row,
                                       IndexOf<I> rows, IndexOf<I> tile) {
  const I key = tile * range.tile_keys, last_key = key + range.tile_keys - 1;
  const I last_row = first_row + rows - 1;
  if (last_key >= range.tokens) return false;
  if (range.causal && last_key > first_row) return false;
  if (range.listed) {
    if (first_row < range.split && !IsListed(range, 0, tile)) return false;
    if (last_row >= range.split && !IsListed(range, 1, tile)) return false;
  }
  if (range.radius < 0 || last_row < range.globals || last_key < range.globals) return true;
  return last_row - range.radius <= key && first_row + range.radius >= last_key;
}

// What one row may see of a tile that is not full; `in_list`: whether its block row names the tile.
template <typename I>
LONGDOC_HOST_DEVICE inline BasicTileColumns<I> VisibleColumns(const BasicKeyRange<I>& range,
                                                              IndexOf<I> row, IndexOf<I> tile,
                                                              bool in_list) {
  const I key = tile * range.tile_keys;
  I last = Least<I>(range.tile_keys, range.tokens - key);
  if (range.causal) last = Least<I>(last, row - key + 1);
  if (!in_list || last < 0) last = 0;
  if (range.radius < 0 || row < range.globals) return {0, last, 0};
  return {Least<I>(Greatest<I>(0, row - range.radius - key), range.tile_keys),
          Greatest<I>(0, Least<I>(last, row + range.radius + 1 - key)),
          Greatest<I>(0, Least<I>(last, range.globals - key))};
}

}  // namespace
}  // namespace longdoc::kernels
