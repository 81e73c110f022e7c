// Attend: a block of 128 query rows against its key blocks, from the diagonal outward. How the
// tiles are chosen is in range-inl.h, the proofs in docs/attention.md.
//
// Scores of a strip of kStripRows query rows live in tile-relative units: with r the row within the
// strip and i0 its first position, a tile entirely to the left has bias −m(i0+r−j) = −m(i0−j) −
// m·r. The first part is one value per column, added with the scale in one FMA; the second is
// constant per row and enters only the running maximum. Tiles to the right are symmetric; tiles
// that overlap the strip's diagonal take the absolute value per element. For gathered tokens the
// same holds with the distances of gathered-inl.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/gathered-inl.h"
#include "kernels/cpu/range-inl.h"
#include "kernels/cpu/storage-inl.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// Rows that go through a tile together: their scores (6 KB) and a panel chunk fit in 32 KB of
// cache.
constexpr int kStripRows = 24;

constexpr float kNoScore = -3.40282347e38f;  // running maximum of a row that has seen no key

// Everything about one strip of rows against one tile.
struct Strip {
  int64_t first_row;  // position of its first row in the sequence
  int64_t first_key;  // position of the tile's first key
  int rows;           // <= kRows
  int columns;        // keys of the tile inside the sequence
  float slope, scale;
  float shift[kStripRows] = {};     // of each row: its true score = the one in tile units + shift
  float allowed_begin[kStripRows];  // masked tiles: per row the allowed columns [begin, end) and
                                    // [0, prefix)
  float allowed_end[kStripRows];
  float allowed_prefix[kStripRows];
};

// Adds scale and bias to the raw dot products in s [rows][64] and finds the maximum of every row.
template <class S, bool kDiagonal, bool kMasked>
void ScoreStrip(const Strip& strip, float* s, float* top) {
  using Vec = typename S::Vec;
  constexpr int kTileVecs = kKeyBlock / S::kLanes;
  const int vecs = (strip.columns + S::kLanes - 1) / S::kLanes;
  const Vec scale = S::Set1(strip.scale), slope = S::Set1(strip.slope);
  const Vec minus_infinity = S::Set1(-__builtin_inff());
  // Key position minus row position of the strip's first row, at column 0. Exact up to 2^24.
  const float offset = static_cast<float>(strip.first_key - strip.first_row);
  Vec bias[kTileVecs];
  for (int v = 0; v < vecs; ++v) {
    const Vec column = S::Add(S::Iota(), S::Set1(offset + static_cast<float>(v * S::kLanes)));
    bias[v] = kDiagonal ? column : S::Fnma(slope, S::Abs(column), S::Set1(0.0f));
  }
  for (int r = 0; r < strip.rows; ++r) {
    float* row = s + r * kKeyBlock;
    const Vec row_number = S::Set1(static_cast<float>(r));
    Vec best = minus_infinity;
    for (int v = 0; v < vecs; ++v) {
      Vec t = S::Load(row + v * S::kLanes);
      if constexpr (kDiagonal) {
        t = S::Fnma(slope, S::Abs(S::Sub(bias[v], row_number)), S::Mul(t, scale));
      } else {
        t = S::Fma(t, scale, bias[v]);
      }
      if constexpr (kMasked) {
        const Vec column = S::Add(S::Iota(), S::Set1(static_cast<float>(v * S::kLanes)));
        const typename S::Mask inside = S::And(S::Ge(column, S::Set1(strip.allowed_begin[r])),
                                               S::Lt(column, S::Set1(strip.allowed_end[r])));
        const typename S::Mask prefix = S::Lt(column, S::Set1(strip.allowed_prefix[r]));
        t = S::Select(S::Or(inside, prefix), t, minus_infinity);
      }
      S::Store(row + v * S::kLanes, t);
      best = S::Max(t, best);
    }
    top[r] = S::MaxOf(best);
  }
}

// The same for gathered tokens: keys at positions `keys` [64], rows at `rows`, each `nearest` away
// from its nearest key. Outside of overlaps, `edge` is the key of the tile next to the strip.
template <class S, bool kOverlap>
void ScoreGatheredStrip(const Strip& strip, const int32_t* keys, int32_t edge, const int32_t* rows,
                        const int32_t* nearest, float* s, float* top) {
  using Vec = typename S::Vec;
  constexpr int kTileVecs = kKeyBlock / S::kLanes;
  const int vecs = (strip.columns + S::kLanes - 1) / S::kLanes;
  const Vec scale = S::Set1(strip.scale), slope = S::Set1(strip.slope);
  const Vec minus_infinity = S::Set1(-__builtin_inff()), zero = S::Set1(0.0f);
  const Vec columns = S::Set1(static_cast<float>(strip.columns));
  Vec bias[kTileVecs];
  for (int v = 0; v < vecs; ++v) {
    const Vec column = S::Add(S::Iota(), S::Set1(static_cast<float>(v * S::kLanes)));
    bias[v] = S::Select(S::Lt(column, columns), zero, minus_infinity);
    if (!kOverlap) bias[v] = S::Fnma(slope, S::Distance(keys + v * S::kLanes, edge, 0), bias[v]);
  }
  for (int r = 0; r < strip.rows; ++r) {
    float* row = s + r * kKeyBlock;
    Vec best = minus_infinity;
    for (int v = 0; v < vecs; ++v) {
      Vec add = bias[v];
      if constexpr (kOverlap) {
        add = S::Fnma(slope, S::Distance(keys + v * S::kLanes, rows[r], nearest[r]), add);
      }
      const Vec t = S::Fma(S::Load(row + v * S::kLanes), scale, add);
      S::Store(row + v * S::kLanes, t);
      best = S::Max(t, best);
    }
    top[r] = S::MaxOf(best);
  }
}

// Updates the running maxima; returns whether any moved, with the factors for the old sums in
// `factor` and the maxima in tile units in `top`.
template <class S>
inline bool MoveMaxima(const Strip& strip, float* top, float* row_max, float* factor) {
  bool moved = false;
  for (int r = 0; r < strip.rows; ++r) {
    const float before = row_max[r] - strip.shift[r];
    const bool higher = top[r] > before;  // false for NaN, which then reaches the weights
    factor[r] = higher ? before - top[r] : 0.0f;
    if (higher) {
      row_max[r] = top[r] + strip.shift[r];
      moved = true;
    } else {
      top[r] = before;
    }
  }
  if (moved) {
    for (int r = strip.rows; r < strip.rows + S::kLanes; ++r) factor[r] = 0;
    for (int r = 0; r < strip.rows; r += S::kLanes) {
      S::Store(factor + r, Exp<S>(S::Load(factor + r)));
    }
  }
  return moved;
}

// Turns scores into weights, in the operand type of the second product, and adds them up.
template <class Dot>
inline void WeightStrip(const Strip& strip, const float* s, const float* top,
                        typename Dot::Elem* weights, float* row_sum) {
  using S = typename Dot::Simd;
  using Vec = typename S::Vec;
  const int vecs = (strip.columns + S::kLanes - 1) / S::kLanes;
  for (int r = 0; r < strip.rows; ++r) {
    const Vec max = S::Set1(top[r]);
    Vec sum = S::Set1(0.0f);
    for (int v = 0; v < vecs; ++v) {
      const int64_t at = r * kKeyBlock + v * S::kLanes;
      const Vec p = Dot::Weight(S::Sub(S::Load(s + at), max));
      Dot::StoreWeight(weights + at, p);
      sum = S::Add(sum, p);
    }
    row_sum[r] += S::SumOf(sum);
  }
}

// Scratch of one Attend call; every part starts at a multiple of 64 bytes.
template <class St>
struct Scratch {
  typename St::Dot::Elem* q;        // [128][D]
  float* o;                         // [128][D], not normalised
  float* panels;                    // widened K and V panel (bf16 storage without native products)
  float* s;                         // [kStripRows][64]
  typename St::Dot::Elem* weights;  // [kStripRows][64]; shares memory with s for fp32
  RowState rows;

  static int64_t Bytes(int64_t dim) {
    return static_cast<int64_t>(sizeof(float)) *
           (4 * kQueryBlock * dim + 2 * kStripRows * kKeyBlock + RowState::kArrays * kQueryBlock);
  }
  Scratch(void* memory, int64_t dim) {
    float* at = static_cast<float*>(memory);
    q = reinterpret_cast<typename St::Dot::Elem*>(at);
    at += kQueryBlock * dim;
    o = at;
    at += kQueryBlock * dim;
    panels = at;
    at += 2 * kQueryBlock * dim;
    s = at;
    at += kStripRows * kKeyBlock;
    weights = sizeof(typename St::Dot::Elem) == sizeof(float)
                  ? reinterpret_cast<typename St::Dot::Elem*>(s)
                  : reinterpret_cast<typename St::Dot::Elem*>(at);
    at += kStripRows * kKeyBlock;
    rows.max = at;
    rows.sum = at + kQueryBlock;
    rows.norm = at + 2 * kQueryBlock;
    rows.centre_dot = at + 3 * kQueryBlock;
  }
};

// Adds a strip with scores s [rows][64] to its rows' running maxima, sums and unnormalised outputs
// o [rows][dim]: the online softmax. `top` are the maxima of s in tile units; `weights` may be s.
template <class Dot>
inline void AddStrip(const Strip& strip, const float* s, float* top, typename Dot::Elem* weights,
                     const typename Dot::Panel* values, int64_t dim, float* max, float* sum,
                     float* o) {
  using S = typename Dot::Simd;
  float factor[kStripRows + 16];
  if (MoveMaxima<S>(strip, top, max, factor)) {
    for (int r = 0; r < strip.rows; ++r) {
      if (factor[r] == 1.0f) continue;  // most rows keep their maximum when one moves
      sum[r] *= factor[r];
      const typename S::Vec by = S::Set1(factor[r]);
      for (int64_t d = 0; d < dim; d += S::kLanes) {
        S::Store(o + r * dim + d, S::Mul(S::Load(o + r * dim + d), by));
      }
    }
  }
  WeightStrip<Dot>(strip, s, top, weights, sum);
  MultiplyPanel<Dot, true>(strip.rows, strip.columns, kKeyBlock, dim, weights, kKeyBlock, values, o,
                           dim);
}

// One strip against one tile whose panels are in operand type.
template <class St>
void VisitStrip(const TileRange& range, const Scratch<St>& scratch, int first, int rows,
                int64_t tile, const typename St::Dot::Elem* keys,
                const typename St::Dot::Elem* values) {
  using Dot = typename St::Dot;
  using S = typename St::Simd;
  const int64_t dim = range.head_dim;
  Strip strip;
  strip.rows = rows;
  strip.first_row = range.first_row + first;
  strip.first_key = tile * kKeyBlock;
  strip.slope = range.slope;
  strip.scale = range.scale;
  const int64_t keys_left = range.tokens - strip.first_key;
  strip.columns = static_cast<int>(keys_left < kKeyBlock ? keys_left : kKeyBlock);
  const bool masked = !IsFull(range, strip.first_row, rows, tile);
  if (masked && !AllowedColumns(range, strip.first_row, rows, tile, strip.allowed_begin,
                                strip.allowed_end, strip.allowed_prefix)) {
    return;
  }
  const bool left = strip.first_key + kKeyBlock - 1 <= strip.first_row;
  const bool right = strip.first_key >= strip.first_row + rows - 1;
  const float row_step = left ? -range.slope : right ? range.slope : 0.0f;
  for (int r = 0; r < rows; ++r) strip.shift[r] = row_step * static_cast<float>(r);

  const int64_t width = kChunk<S>;
  const int64_t columns = (strip.columns + width - 1) / width * width;
  MultiplyPanel<Dot, false>(rows, dim, dim, columns, scratch.q + first * dim, dim, keys, scratch.s,
                            kKeyBlock);
  float top[kStripRows];
  if (left || right) {
    masked ? ScoreStrip<S, false, true>(strip, scratch.s, top)
           : ScoreStrip<S, false, false>(strip, scratch.s, top);
  } else {
    masked ? ScoreStrip<S, true, true>(strip, scratch.s, top)
           : ScoreStrip<S, true, false>(strip, scratch.s, top);
  }
  AddStrip<Dot>(strip, scratch.s, top, scratch.weights, values, dim, scratch.rows.max + first,
                scratch.rows.sum + first, scratch.o + first * dim);
}

// One strip of gathered rows against one tile; `positions` are those of the tile's 64 keys, the
// last one repeated where the sequence ends before.
template <class St>
void VisitGatheredStrip(const TileRange& range, const GatheredBlock& block,
                        const Scratch<St>& scratch, int first, int rows, int64_t tile,
                        const int32_t* positions, const typename St::Dot::Elem* keys,
                        const typename St::Dot::Elem* values) {
  using Dot = typename St::Dot;
  using S = typename St::Simd;
  const int64_t dim = range.head_dim;
  const int32_t* row = block.rows + first;
  const int32_t* nearest = block.places.nearest + first;
  const bool left = positions[kKeyBlock - 1] <= row[0];
  const bool apart = left || positions[0] >= row[rows - 1];
  // The block spans many keys, and most of its tiles matter to some of its strips only. For EXACT
  // the nearest keys of all rows must have been visited.
  const bool optional =
      block.exact ? tile < range.diagonal_begin || tile >= range.diagonal_end : apart;
  if (optional && MayLeaveOut<S>(range, block, scratch.rows, first, rows, tile, left)) return;
  Strip strip;
  strip.rows = rows;
  strip.columns = static_cast<int>(Min(kKeyBlock, range.tokens - tile * kKeyBlock));
  strip.slope = range.slope;
  strip.scale = range.scale;
  const int32_t edge = left ? positions[kKeyBlock - 1] : positions[0];
  for (int r = 0; apart && r < rows; ++r) {
    const int32_t beyond = (left ? row[r] - edge : edge - row[r]) - nearest[r];
    strip.shift[r] = -range.slope * static_cast<float>(beyond);
  }
  const int64_t width = kChunk<S>;
  MultiplyPanel<Dot, false>(rows, dim, dim, (strip.columns + width - 1) / width * width,
                            scratch.q + first * dim, dim, keys, scratch.s, kKeyBlock);
  float top[kStripRows];
  apart ? ScoreGatheredStrip<S, false>(strip, positions, edge, row, nearest, scratch.s, top)
        : ScoreGatheredStrip<S, true>(strip, positions, edge, row, nearest, scratch.s, top);
  AddStrip<Dot>(strip, scratch.s, top, scratch.weights, values, dim, scratch.rows.max + first,
                scratch.rows.sum + first, scratch.o + first * dim);
}

// Calls visit(first row, rows, key panel, value panel) for every strip of the block.
template <class St, class Visit>
inline void ForEachStrip(const TileRange& range, const Scratch<St>& scratch,
                         const typename St::Elem* kv, int64_t tile, const Visit& visit) {
  const int64_t dim = range.head_dim;
  const typename St::Elem* block = kv + tile * BlockElements(dim);
  const typename St::Dot::Elem* keys;
  if constexpr (St::kWiden) {
    WidenPanels<typename St::Simd>(block, BlockElements(dim), scratch.panels);
    keys = scratch.panels;
  } else {
    keys = block;
  }
  for (int first = 0; first < range.rows; first += kStripRows) {
    const int left = range.rows - first;
    visit(first, left < kStripRows ? left : kStripRows, keys, keys + kKeyBlock * dim);
  }
}

template <class St>
void VisitTile(const TileRange& range, const Scratch<St>& scratch, const typename St::Elem* kv,
               int64_t tile) {
  using Elem = typename St::Dot::Elem;
  ForEachStrip<St>(range, scratch, kv, tile,
                   [&](int first, int rows, const Elem* keys, const Elem* values) {
                     VisitStrip<St>(range, scratch, first, rows, tile, keys, values);
                   });
}

template <class St>
void VisitGatheredTile(const TileRange& range, const GatheredBlock& block,
                       const Scratch<St>& scratch, const typename St::Elem* kv, int64_t tile) {
  using Elem = typename St::Dot::Elem;
  int32_t positions[kKeyBlock];
  for (int64_t c = 0; c < kKeyBlock; ++c) {
    positions[c] = block.keys[Min(tile * kKeyBlock + c, range.tokens - 1)];
  }
  ForEachStrip<St>(
      range, scratch, kv, tile, [&](int first, int rows, const Elem* keys, const Elem* values) {
        VisitGatheredStrip<St>(range, block, scratch, first, rows, tile, positions, keys, values);
      });
}

// Copies the block's queries into scratch and clears its state; with `centre`, also the norms.
template <class St>
void LoadQueries(const typename St::Elem* q, int64_t stride, const float* centre,
                 const TileRange& range, const Scratch<St>& scratch) {
  using S = typename St::Simd;
  using Vec = typename S::Vec;
  const int64_t dim = range.head_dim;
  const float scale = __builtin_fabsf(range.scale);
  const float inflate = 1.0f + static_cast<float>(dim) * 0x1p-22f;
  for (int r = 0; r < kQueryBlock; ++r) {
    // Rows beyond the block satisfy every stopping rule.
    scratch.rows.max[r] = r < range.rows ? kNoScore : -kNoScore;
    scratch.rows.sum[r] = r < range.rows ? 0.0f : 1.0f;
    scratch.rows.norm[r] = scratch.rows.centre_dot[r] = 0;
    if (r >= range.rows) continue;
    Vec square = S::Set1(0.0f), dot = S::Set1(0.0f);
    for (int64_t d = 0; d < dim; d += S::kLanes) {
      const Vec x = St::Load(q + r * stride + d);
      St::StoreQuery(scratch.q + r * dim + d, x);
      S::Store(scratch.o + r * dim + d, S::Set1(0.0f));
      if (centre == nullptr) continue;
      square = S::Fma(x, x, square);
      dot = S::Fma(x, S::Load(centre + d), dot);
    }
    scratch.rows.norm[r] = __builtin_sqrtf(S::SumOf(square)) * inflate * scale;
    scratch.rows.centre_dot[r] = S::SumOf(dot) * range.scale;
  }
}

template <class St>
void StoreOutputs(const TileRange& range, const Scratch<St>& scratch, int64_t stride,
                  typename St::Elem* out) {
  using S = typename St::Simd;
  for (int r = 0; r < range.rows; ++r) {
    const float sum = scratch.rows.sum[r];
    const typename S::Vec inverse = S::Set1(sum == 0.0f ? 0.0f : 1.0f / sum);
    for (int64_t d = 0; d < range.head_dim; d += S::kLanes) {
      // Adding 0 turns −0 into +0: whether a tile of zero weights was visited must not show.
      St::Store(out + r * stride + d,
                S::Fma(S::Load(scratch.o + r * range.head_dim + d), inverse, S::Set1(0.0f)));
    }
  }
}

// One block of query rows of one head, at `rows`.
template <class St>
inline void AttendBlock(const AttentionProblem& p, const AttentionUnit& unit, int32_t head,
                        int32_t kv_head, int64_t first_row, const Scratch<St>& scratch,
                        typename St::Elem* rows, AttentionStats* stats) {
  using S = typename St::Simd;
  const int64_t stride = int64_t{p.num_heads} * p.head_dim;
  const auto* kv =
      static_cast<const typename St::Elem*>(p.kv) + KvBlockOffset(p, unit.sequence, kv_head, 0);
  TileRange range = MakeRange(p, unit.sequence, head, kv_head, first_row, unit.query_end);
  LoadQueries<St>(rows, stride, range.centre, range, scratch);
  LimitByNorms(p, scratch.rows, &range, stats);
  ForEachTile(
      range,
      [&](int64_t tile, bool left) { return MayStopByRuleB<S>(range, scratch.rows, tile, left); },
      [&](int64_t tile) {
        VisitTile<St>(range, scratch, kv, tile);
        ++stats->tiles_computed;
      });
  stats->tiles_dense += range.dense_tiles;
  StoreOutputs<St>(range, scratch, stride, rows);
}

// The same where queries and keys are gathered tokens.
template <class St>
inline void AttendGatheredBlock(const AttentionProblem& p, const AttentionUnit& unit, int32_t head,
                                int32_t kv_head, int64_t first_row, const Scratch<St>& scratch,
                                typename St::Elem* rows, AttentionStats* stats) {
  using S = typename St::Simd;
  const int64_t stride = int64_t{p.num_heads} * p.head_dim;
  const auto* kv =
      static_cast<const typename St::Elem*>(p.kv) + KvBlockOffset(p, unit.sequence, kv_head, 0);
  GatheredBlock block;
  const TileRange range =
      MakeGatheredRange(p, unit.sequence, head, kv_head, first_row, unit.query_end, &block);
  LoadQueries<St>(rows, stride, range.centre, range, scratch);
  LimitByPositions(p, range, scratch.rows, &block, stats);
  ForEachTile(
      range,
      [&](int64_t tile, bool left) {
        return MayLeaveOut<S>(range, block, scratch.rows, 0, range.rows, tile, left);
      },
      [&](int64_t tile) {
        VisitGatheredTile<St>(range, block, scratch, kv, tile);
        ++stats->tiles_computed;
      });
  stats->tiles_dense += range.dense_tiles;
  StoreOutputs<St>(range, scratch, stride, rows);
}

template <class St>
void AttendImpl(const AttentionProblem& p, const AttentionUnit& unit, void* memory,
                AttentionStats* stats) {
  const Scratch<St> scratch(memory, p.head_dim);
  const int64_t begin = p.cu_seqlens[unit.sequence];
  for (int32_t head = unit.head_begin; head < unit.head_end; ++head) {
    const int32_t kv_head =
        static_cast<int32_t>(static_cast<int64_t>(head) * p.num_kv_heads / p.num_heads);
    for (int64_t i = unit.query_begin; i < unit.query_end; i += kQueryBlock) {
      auto* rows =
          static_cast<typename St::Elem*>(p.q) + ((begin + i) * p.num_heads + head) * p.head_dim;
      p.cu_seqlens_k == nullptr
          ? AttendBlock<St>(p, unit, head, kv_head, i, scratch, rows, stats)
          : AttendGatheredBlock<St>(p, unit, head, kv_head, i, scratch, rows, stats);
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
