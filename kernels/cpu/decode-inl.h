// Multi-query attention of few rows against long keys, and the softmax over a vocabulary;
// contracts: decode.h. Key blocks hold the same panels as those of self-attention (storage-inl.h).
//
// A strip of at most kStripRows rows goes through a block at a time: scores, running maxima,
// weights, weighted values. Up to kDirectRows rows read bf16 panels as they are; more rows have the
// block widened once for all of them.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attend-inl.h"
#include "kernels/cpu/small_ops-inl.h"
#include "kernels/cpu/storage-inl.h"
#include "kernels/decode.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

constexpr int64_t kDirectRows = kStripRows;

template <class St>
void MqaStoreImpl(const MqaStoreArgs& args) {
  using Elem = typename St::Elem;
  const int64_t dim = args.head_dim;
  Elem* keys = static_cast<Elem*>(args.block);
  alignas(64) Elem packed[kPackRows * 256];
  for (int64_t r = 0; r < args.rows; r += kPackRows) {
    const int64_t count = args.rows - r < kPackRows ? args.rows - r : kPackRows;
    for (int64_t t = 0; t < count; ++t) {
      ConvertRow<St>(args.keys + (r + t) * args.stride, dim, packed + t * dim);
    }
    PackKeys<St>(packed, count, dim, args.first + r, keys);
    for (int64_t t = 0; t < count; ++t) {
      ConvertRow<St>(args.values + (r + t) * args.stride, dim, packed + t * dim);
    }
    PackValues<St>(packed, count, dim, args.first + r, keys + kKeyBlock * dim);
  }
}

inline const void* MqaBlock(const MqaKeys& keys, int64_t block) {
  const int64_t bytes = MqaBlockBytes(keys.head_dim, keys.storage);
  if (keys.pages == nullptr) return static_cast<const char*>(keys.blocks) + block * bytes;
  const void* page = keys.pages[block / keys.page_blocks];
  return static_cast<const char*>(page) + block % keys.page_blocks * bytes;
}

// Scratch of one MqaPartial call; every part starts at a multiple of 64 bytes.
struct MqaScratch {
  float* panels;   // a widened K and V panel
  float* scores;   // [kStripRows][64]
  float* weights;  // [kStripRows][64] in the operand type, which may be the same memory as scores
  // [rows] each: running maxima and sums. Not the caller's arrays, whose cache lines other calls
  // may write at the same time.
  float* max;
  float* sum;
  float* q;  // [rows][D], scaled; then in the operand type

  static int64_t Bytes(int64_t rows, int32_t dim) {
    return static_cast<int64_t>(sizeof(float)) *
           (BlockElements(dim) + 2 * int64_t{kStripRows} * kKeyBlock + 2 * RoundUp(rows, 16) +
            rows * dim);
  }
  MqaScratch(void* memory, int64_t rows, int64_t dim)
      : panels(static_cast<float*>(memory)),
        scores(panels + BlockElements(dim)),
        weights(scores + kStripRows * kKeyBlock),
        max(weights + kStripRows * kKeyBlock),
        sum(max + RoundUp(rows, 16)),
        q(sum + RoundUp(rows, 16)) {}
};

// The maximum of every row of s [rows][64].
template <class S>
inline void MqaMaxima(int rows, const float* s, float* top) {
  for (int r = 0; r < rows; ++r, s += kKeyBlock) {
    typename S::Vec best = S::Load(s);
    for (int64_t c = S::kLanes; c < kKeyBlock; c += S::kLanes) best = S::Max(S::Load(s + c), best);
    top[r] = S::MaxOf(best);
  }
}

// Adds bias and mask to the scores in s [rows][64], and finds the maximum of every row.
template <class S>
inline void MqaBiasedMaxima(const MqaPartialArgs& args, int64_t first_row, int rows,
                            int64_t first_key, int columns, float* s, float* top) {
  using Vec = typename S::Vec;
  const int vecs = (columns + S::kLanes - 1) / S::kLanes;
  const Vec minus_infinity = S::Set1(-__builtin_inff());
  for (int r = 0; r < rows; ++r) {
    float* row = s + r * kKeyBlock;
    float slope = 0, last = static_cast<float>(columns - 1);  // last allowed column
    float distance = 0;                                       // of column 0, exact to 2^24
    if (args.positions != nullptr) {
      slope = args.slopes[first_row + r];
      distance = static_cast<float>(args.positions[first_row + r] - first_key);
      if (distance < last) last = distance;
    }
    Vec best = minus_infinity;
    for (int v = 0; v < vecs; ++v) {
      const Vec column = S::Add(S::Iota(), S::Set1(static_cast<float>(v * S::kLanes)));
      Vec t = S::Load(row + v * S::kLanes);
      t = S::Fnma(S::Set1(slope), S::Sub(S::Set1(distance), column), t);
      t = S::Select(S::Lt(S::Set1(last), column), minus_infinity, t);
      S::Store(row + v * S::kLanes, t);
      best = S::Max(t, best);
    }
    top[r] = S::MaxOf(best);
  }
}

// One strip of rows against one block whose panels are what `Dot` reads.
template <class Dot>
inline void MqaStrip(const MqaPartialArgs& args, const MqaScratch& scratch,
                     const typename Dot::Elem* q, int64_t first_row, int rows, int64_t first_key,
                     int columns, const typename Dot::Panel* keys,
                     const typename Dot::Panel* values) {
  using S = typename Dot::Simd;
  const int64_t dim = args.keys.head_dim;
  Strip strip = {};
  strip.rows = rows;
  strip.columns = columns;
  const int64_t padded = RoundUp(columns, kChunk<S>);
  MultiplyPanel<Dot, false>(rows, dim, dim, padded, q + first_row * dim, dim, keys, scratch.scores,
                            kKeyBlock);
  float top[kStripRows];
  if (args.positions == nullptr && columns == kKeyBlock) {
    MqaMaxima<S>(rows, scratch.scores, top);
  } else {
    MqaBiasedMaxima<S>(args, first_row, rows, first_key, columns, scratch.scores, top);
  }
  auto* weights = reinterpret_cast<typename Dot::Elem*>(
      sizeof(typename Dot::Elem) == sizeof(float) ? scratch.scores : scratch.weights);
  AddStrip<Dot>(strip, scratch.scores, top, weights, values, dim, scratch.max + first_row,
                scratch.sum + first_row, args.out + first_row * dim);
}

// Asks for a block's bytes while another one is worked on: each strip asks for its share of them.
class BlockPrefetch {
 public:
  BlockPrefetch(const void* block, int64_t bytes, int64_t strips)
      : next_(static_cast<const char*>(block)),
        end_(block == nullptr ? next_ : next_ + bytes),
        share_(RoundUp(CeilDiv(bytes, strips), kLineBytes)) {}
  void Share() {
    for (const char* stop = next_ + share_; next_ < stop && next_ < end_; next_ += kLineBytes) {
      __builtin_prefetch(next_);
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  const char* next_;
  const char* end_;
  const int64_t share_;
};

// `next`: the block that is worked on afterwards, or null.
template <class Dot>
inline void MqaStrips(const MqaPartialArgs& args, const MqaScratch& scratch,
                      const typename Dot::Elem* q, int64_t first_key,
                      const typename Dot::Panel* panels, const void* next) {
  const int64_t left = args.keys.keys - first_key;
  const int columns = static_cast<int>(left < kKeyBlock ? left : kKeyBlock);
  BlockPrefetch prefetch(next, MqaBlockBytes(args.keys.head_dim, args.keys.storage),
                         CeilDiv(args.rows, kStripRows));
  for (int64_t first = 0; first < args.rows; first += kStripRows) {
    const int64_t rows = args.rows - first < kStripRows ? args.rows - first : kStripRows;
    prefetch.Share();
    MqaStrip<Dot>(args, scratch, q, first, static_cast<int>(rows), first_key, columns, panels,
                  panels + kKeyBlock * args.keys.head_dim);
  }
}

// Clears the results; returns one more than the last key that any row may see.
template <class S>
inline int64_t MqaBegin(const MqaPartialArgs& args, const MqaScratch& scratch) {
  int64_t keys = args.positions == nullptr ? args.keys.keys : 0;
  for (int64_t r = 0; r < args.rows; ++r) {
    scratch.max[r] = -FLT_MAX;
    scratch.sum[r] = 0;
    if (args.positions != nullptr && args.positions[r] >= keys) keys = args.positions[r] + 1;
  }
  std::memset(args.out, 0, static_cast<size_t>(args.rows * args.keys.head_dim) * sizeof(float));
  return keys < args.keys.keys ? keys : args.keys.keys;
}

// q · scale in the operand type, in `memory`: scores then come out of the product as they are.
template <class St>
inline const typename St::Dot::Elem* ScaledQueries(const MqaPartialArgs& args, float* memory) {
  using S = typename St::Simd;
  using Elem = typename St::Dot::Elem;
  const int64_t count = args.rows * args.keys.head_dim;
  for (int64_t i = 0; i < count; i += S::kLanes) {
    S::Store(memory + i, S::Mul(S::Load(args.q + i), S::Set1(args.scale)));
  }
  // In place: every vector is read before what it becomes is written at or before it.
  auto* q = reinterpret_cast<Elem*>(memory);
  if constexpr (sizeof(Elem) != sizeof(float)) ConvertRow<St>(memory, count, q);
  return q;
}

template <class St>
void MqaPartialImpl(const MqaPartialArgs& args) {
  using S = typename St::Simd;
  using Elem = typename St::Dot::Elem;
  if (args.rows == 0) return;
  const int64_t dim = args.keys.head_dim;
  const MqaScratch scratch(args.scratch, args.rows, dim);
  const int64_t keys = MqaBegin<S>(args, scratch);
  const Elem* q = ScaledQueries<St>(args, scratch.q);
  const int64_t last = Min(args.block_end, CeilDiv(keys, kKeyBlock)) - 1;
  for (int64_t b = args.block_begin; b <= last; ++b) {
    const auto* block = static_cast<const typename St::Elem*>(MqaBlock(args.keys, b));
    // One strip alone is done with a block before its successor could arrive: its products ask
    // ahead themselves, or the CPU does.
    const bool ahead = args.rows > kStripRows && b < last;
    const void* next = ahead ? MqaBlock(args.keys, b + 1) : nullptr;
    if constexpr (!St::kWiden) {
      MqaStrips<typename St::Dot>(args, scratch, q, b * kKeyBlock, block, next);
    } else if (args.rows <= kDirectRows) {
      MqaStrips<WidenedBf16Dot<S>>(args, scratch, q, b * kKeyBlock, block, next);
    } else {
      WidenPanels<S>(block, BlockElements(dim), scratch.panels);
      MqaStrips<typename St::Dot>(args, scratch, q, b * kKeyBlock, scratch.panels, next);
    }
  }
  std::memcpy(args.max, scratch.max, static_cast<size_t>(args.rows) * sizeof(float));
  std::memcpy(args.sum, scratch.sum, static_cast<size_t>(args.rows) * sizeof(float));
}

// e^x of one number, as the vector function has it.
template <class S>
inline float ExpOf(float x) {
  float lanes[S::kLanes];
  S::Store(lanes, Exp<S>(S::Set1(x)));
  return lanes[0];
}

template <class S>
void MqaMergeImpl(const MqaMergeArgs& args) {
  using Vec = typename S::Vec;
  const int64_t dim = args.head_dim;
  alignas(64) float sums[256];
  for (int64_t r = 0; r < args.rows; ++r) {
    float max = -FLT_MAX, total = 0;
    for (int64_t p = 0; p < args.parts; ++p) {
      const float part = args.partial_max[p * args.rows + r];
      if (part > max) max = part;
    }
    std::memset(sums, 0, sizeof(sums));
    for (int64_t p = 0; p < args.parts; ++p) {
      const int64_t row = p * args.rows + r;
      const float factor = ExpOf<S>(args.partial_max[row] - max);
      total += factor * args.partial_sum[row];
      for (int64_t d = 0; d < dim; d += S::kLanes) {
        const Vec in = S::Load(args.partial_out + row * dim + d);
        S::Store(sums + d, S::Fma(in, S::Set1(factor), S::Load(sums + d)));
      }
    }
    const Vec inverse = S::Set1(total == 0 ? 0.0f : 1.0f / total);
    for (int64_t d = 0; d < dim; d += S::kLanes) {
      StoreSomeAs<S>(args.out_type, args.out, r * dim + d, S::Mul(S::Load(sums + d), inverse),
                     S::kLanes);
    }
  }
}

// Logits are read twice; the sum of a stretch of columns is rounded in float, beyond in double.
template <class S>
void LogSoftmaxTileImpl(const LogSoftmaxTileArgs& args) {
  using Vec = typename S::Vec;
  constexpr int64_t kStretch = 1024;
  const Vec scale = S::Set1(args.scale), minus_infinity = S::Set1(-__builtin_inff());
  const Vec lowest = S::Set1(-FLT_MAX);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* logits = args.logits + r * args.columns;
    Vec top = S::Set1(args.max[r]);
    ForVectors<S>(args.columns, [&](int64_t i, int count) {
      const Vec v = S::Mul(LoadSome<S>(logits + i, count), scale);
      const auto inside = S::Lt(S::Iota(), S::Set1(static_cast<float>(count)));
      top = S::Max(S::Select(inside, v, lowest), top);
    });
    const float max = S::MaxOf(top);
    double sum = static_cast<double>(args.sum[r]) * ExpOf<S>(args.max[r] - max);
    for (int64_t first = 0; first < args.columns; first += kStretch) {
      Vec part = S::Set1(0.0f);
      const int64_t left = args.columns - first;
      ForVectors<S>(left < kStretch ? left : kStretch, [&](int64_t i, int count) {
        const Vec v = S::Mul(LoadSome<S>(logits + first + i, count), scale);
        const Vec x = S::Sub(v, S::Set1(max));
        const auto inside = S::Lt(S::Iota(), S::Set1(static_cast<float>(count)));
        part = S::Add(part, Exp<S>(S::Select(inside, x, minus_infinity)));
      });
      sum += S::SumOf(part);
    }
    args.max[r] = max;
    args.sum[r] = static_cast<float>(sum);
    const int64_t column = args.targets[r] - args.column_begin;
    if (column >= 0 && column < args.columns) args.chosen[r] = logits[column] * args.scale;
  }
}

}  // namespace
}  // namespace longdoc::kernels
