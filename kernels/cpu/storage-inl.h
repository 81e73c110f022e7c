// How q, k, v and o are kept between the attention calls, and how rows are packed into panels.
//
// A storage policy ties together the element type in memory, the Dot of the micro-kernel, and the
// panel order. K panel of a key block: chunks of kChunk keys, each [D/kStep][kChunk][kStep]; V
// panel: chunks of kChunk columns (the last may be narrower), each [64/kStep][width][kStep]. Within
// a row of a chunk, column c is at Place(c).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/cpu/gathered.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/math-inl.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

template <class S>
struct F32Storage {
  using Simd = S;
  using Dot = F32Dot<S>;
  using Elem = float;
  using Vec = typename S::Vec;
  static constexpr bool kWiden = false;
  static Vec Load(const Elem* p) { return S::Load(p); }
  static void Store(Elem* p, Vec v) { S::Store(p, v); }
  static void StoreQuery(float* p, Vec v) { S::Store(p, v); }
  static constexpr int64_t Place(int64_t column) { return column; }  // within a row of a panel
  // Rows d and d+1 of a K panel chunk at lane group v.
  static void LoadRowPair(const Elem* chunk, int64_t d, int64_t width, int v, Vec* even, Vec* odd) {
    *even = S::Load(chunk + d * width + v * S::kLanes);
    *odd = S::Load(chunk + (d + 1) * width + v * S::kLanes);
  }
};

// bf16 in memory on a CPU without a bf16 dot product: panels are widened when a block is visited.
template <class S>
struct WidenedBf16Storage {
  using Simd = S;
  using Dot = F32Dot<S>;
  using Elem = uint16_t;
  using Vec = typename S::Vec;
  static constexpr bool kWiden = true;
  static Vec Load(const Elem* p) { return S::LoadBf16(p); }
  static void Store(Elem* p, Vec v) { S::StoreBf16(p, v); }
  static void StoreQuery(float* p, Vec v) { S::Store(p, v); }
  static constexpr int64_t Place(int64_t column) { return S::PanelPlace(column); }
  static void LoadRowPair(const Elem* chunk, int64_t d, int64_t width, int v, Vec* even, Vec* odd) {
    *even = S::LoadPanelBf16(chunk + d * width, v);
    *odd = S::LoadPanelBf16(chunk + (d + 1) * width, v);
  }
};

// Element order of panels (see the head of this file); `step` is kStep.
template <class S>
constexpr int64_t kChunk = S::kVecs* S::kLanes;

// Rows packed together: as many keys as fill cache lines of a K panel.
constexpr int64_t kPackRows = 16;

// Writes `rows` key rows [rows][dim] into the K panel of their block, from key number `j` of 64 on.
template <class St>
inline void PackKeys(const typename St::Elem* keys, int64_t rows, int64_t dim, int64_t j,
                     typename St::Elem* panel) {
  constexpr int64_t kStep = St::Dot::kStep, kWidth = kChunk<typename St::Simd>;
  for (int64_t r = 0; r < rows;) {
    const int64_t lane = (j + r) % kWidth;
    const int64_t run = rows - r < kWidth - lane ? rows - r : kWidth - lane;  // within one chunk
    typename St::Elem* to = panel + (j + r - lane) * dim;
    for (int64_t d = 0; d < dim; d += kStep, to += kWidth * kStep) {
      for (int64_t l = 0; l < run; ++l) {
        std::memcpy(to + St::Place(lane + l) * kStep, keys + (r + l) * dim + d,
                    kStep * sizeof(*to));
      }
    }
    r += run;
  }
}

// Writes `rows` value rows [rows][dim] into the V panel of their block, from key number `j` of 64
// on.
template <class St>
inline void PackValues(const typename St::Elem* values, int64_t rows, int64_t dim, int64_t j,
                       typename St::Elem* panel) {
  constexpr int64_t kStep = St::Dot::kStep, kWidth = kChunk<typename St::Simd>;
  for (int64_t first = 0; first < dim; first += kWidth) {
    const int64_t width = dim - first < kWidth ? dim - first : kWidth;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t key = j + r;
      const typename St::Elem* row = values + r * dim + first;
      typename St::Elem* to = panel + first * kKeyBlock + key / kStep * width * kStep + key % kStep;
      if (kStep == 2 && key % 2 == 0 && r + 1 < rows) {  // a whole pair of keys
        for (int64_t l = 0; l < width; ++l) {
          to[2 * l] = row[l];
          to[2 * l + 1] = row[dim + l];
        }
        ++r;
      } else {
        for (int64_t l = 0; l < width; ++l) to[St::Place(l) * kStep] = row[l];
      }
    }
  }
}

// The panels of a block of `elements` bf16 (a multiple of 16) as floats, columns in their order.
template <class S>
inline void WidenPanels(const uint16_t* block, int64_t elements, float* panels) {
  for (int64_t e = 0; e < elements; e += 16) {
    LONGDOC_UNROLL
    for (int v = 0; v < 16 / S::kLanes; ++v) {
      S::Store(panels + e + v * S::kLanes, S::LoadPanelBf16(block + e, v));
    }
  }
}

// Converts a row of `dim` (a multiple of 16) floats.
template <class St>
inline void ConvertRow(const float* in, int64_t dim, typename St::Elem* out) {
  using S = typename St::Simd;
  for (int64_t d = 0; d < dim; d += S::kLanes) St::Store(out + d, S::Load(in + d));
}

template <class St>
void StoreQueriesImpl(const AttentionProblem& p, int64_t token_begin, int64_t rows, const float* q,
                      int64_t stride) {
  const int64_t width = int64_t{p.num_heads} * p.head_dim;
  auto* to = static_cast<typename St::Elem*>(p.q) + token_begin * width;
  for (int64_t r = 0; r < rows; ++r) ConvertRow<St>(q + r * stride, width, to + r * width);
}

template <class St>
void StoreKeysValuesImpl(const AttentionProblem& p, int64_t token_begin, int64_t rows,
                         const float* kv, int64_t stride) {
  using Elem = typename St::Elem;
  const int64_t dim = p.head_dim, kv_width = p.num_kv_heads * dim;
  const int64_t* cu_seqlens = KeyOffsets(p);
  alignas(64) Elem packed[kPackRows * 256];
  // The last sequence that begins at or before token_begin (empty ones before it do not matter).
  int64_t low = 0, high = p.num_sequences - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cu_seqlens[middle] <= token_begin) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  int64_t sequence = low;
  for (int64_t r = 0; r < rows;) {
    const int64_t token = token_begin + r;
    while (cu_seqlens[sequence + 1] <= token) ++sequence;
    const int64_t position = token - cu_seqlens[sequence];
    int64_t count = kPackRows - position % kPackRows;  // stays within a key block
    if (count > rows - r) count = rows - r;
    if (count > cu_seqlens[sequence + 1] - token) count = cu_seqlens[sequence + 1] - token;
    const float* in = kv + r * stride;
    for (int64_t h = 0; h < p.num_kv_heads; ++h) {
      Elem* block = static_cast<Elem*>(p.kv) + KvBlockOffset(p, sequence, h, position / kKeyBlock);
      const float* keys = in + h * dim;
      for (int64_t t = 0; t < count; ++t) {
        ConvertRow<St>(keys + t * stride, dim, packed + t * dim);
      }
      PackKeys<St>(packed, count, dim, position % kKeyBlock, block);
      for (int64_t t = 0; t < count; ++t) {
        ConvertRow<St>(keys + kv_width + t * stride, dim, packed + t * dim);
      }
      PackValues<St>(packed, count, dim, position % kKeyBlock, block + kKeyBlock * dim);
    }
    r += count;
  }
}

// Max norms of the keys of one block, lanes beyond `keys` ignored; `poison` becomes NaN when any
// stored key or value is not finite.
template <class St>
inline void BlockNorms(const typename St::Elem* block, const float* centre, int64_t dim,
                       int64_t keys, float* raw_max, float* centred_max,
                       typename St::Simd::Vec* poison) {
  using S = typename St::Simd;
  using Vec = typename S::Vec;
  constexpr int64_t kWidth = kChunk<S>;
  const Vec zero = S::Set1(0.0f);
  Vec raw_top = zero, centred_top = zero;
  for (int64_t first = 0; first < keys; first += kWidth) {
    const typename St::Elem* chunk = block + first * dim;
    for (int v = 0; v < S::kVecs; ++v) {
      Vec raw = zero, centred = zero;
      for (int64_t d = 0; d < dim; d += 2) {
        Vec x[2];
        St::LoadRowPair(chunk, d, kWidth, v, &x[0], &x[1]);
        for (int64_t e = 0; e < 2; ++e) {
          const Vec difference = S::Sub(x[e], S::Set1(centre[d + e]));
          raw = S::Fma(x[e], x[e], raw);
          centred = S::Fma(difference, difference, centred);
        }
      }
      *poison = S::Fma(raw, zero, *poison);
      const Vec index = S::Add(S::Iota(), S::Set1(static_cast<float>(first + v * S::kLanes)));
      const typename S::Mask valid = S::Lt(index, S::Set1(static_cast<float>(keys)));
      raw_top = S::Max(S::Select(valid, raw, zero), raw_top);
      centred_top = S::Max(S::Select(valid, centred, zero), centred_top);
    }
  }
  const typename St::Elem* values = block + kKeyBlock * dim;
  for (int64_t e = 0; e < kKeyBlock * dim; e += S::kLanes) {
    *poison = S::Fma(St::Load(values + e), zero, *poison);
  }
  *raw_max = __builtin_sqrtf(S::MaxOf(raw_top));
  *centred_max = __builtin_sqrtf(S::MaxOf(centred_top));
}

// A centre close to the mean key: the mean over a sample of blocks (any vector is sound).
template <class St>
inline void SampleCentre(const typename St::Elem* kv, int64_t blocks, int64_t tokens, int64_t dim,
                         float* centre) {
  using S = typename St::Simd;
  constexpr int64_t kWidth = kChunk<S>, kSamples = 64;
  const int64_t stride = blocks <= kSamples ? 1 : blocks / kSamples;
  for (int64_t d = 0; d < dim; ++d) centre[d] = 0;
  int64_t keys = 0;
  for (int64_t b = 0; b < blocks; b += stride) {
    const int64_t left = tokens - b * kKeyBlock;
    keys += left < kKeyBlock ? left : kKeyBlock;
    const typename St::Elem* block = kv + b * BlockElements(dim);
    for (int64_t d = 0; d < dim; d += 2) {
      typename S::Vec sum[2] = {S::Set1(0.0f), S::Set1(0.0f)};
      for (int64_t first = 0; first < kKeyBlock; first += kWidth) {
        for (int v = 0; v < S::kVecs; ++v) {  // absent keys are zero and add nothing
          typename S::Vec even, odd;
          St::LoadRowPair(block + first * dim, d, kWidth, v, &even, &odd);
          sum[0] = S::Add(sum[0], even);
          sum[1] = S::Add(sum[1], odd);
        }
      }
      centre[d] += S::SumOf(sum[0]);
      centre[d + 1] += S::SumOf(sum[1]);
    }
  }
  for (int64_t d = 0; d < dim; ++d) centre[d] /= static_cast<float>(keys);
}

template <class St>
void BoundImpl(const AttentionProblem& p, int64_t sequence, int32_t kv_head) {
  using S = typename St::Simd;
  const int64_t tokens = KeyCount(p, sequence);
  if (tokens <= kShortSequence || p.skip == SkipMode::kDense) return;
  const int64_t blocks = Blocks(tokens), dim = p.head_dim;
  const auto* kv =
      static_cast<const typename St::Elem*>(p.kv) + KvBlockOffset(p, sequence, kv_head, 0);
  float* record = static_cast<float*>(p.bounds) + BoundsRecordOffset(p, sequence, kv_head);
  float* left = static_cast<float*>(p.bounds) + BoundsNormOffset(p, sequence, kv_head);
  float* right = left + blocks;
  float* centre = record + kBoundHeader;
  SampleCentre<St>(kv, blocks, tokens, dim, centre);
  // Squares summed in fp32 with one rounding per term, and the rounding of the square root.
  const float inflate = 1.0f + static_cast<float>(dim) * 0x1p-22f;
  typename S::Vec poison = S::Set1(0.0f);
  float raw_max = 0, running = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t keys = tokens - b * kKeyBlock;
    float raw, centred;
    BlockNorms<St>(kv + b * BlockElements(dim), centre, dim, keys < kKeyBlock ? keys : kKeyBlock,
                   &raw, &centred, &poison);
    right[b] = centred * inflate;
    if (right[b] > running) running = right[b];
    if (raw > raw_max) raw_max = raw;
    left[b] = running;
  }
  for (int64_t b = blocks - 2; b >= 0; --b) {
    if (right[b + 1] > right[b]) right[b] = right[b + 1];
  }
  record[kBoundCentredNorm] = running;
  record[kBoundRawNorm] = raw_max * inflate;
  const float check = S::SumOf(poison) + running * 0.0f + raw_max * 0.0f;
  record[kBoundFinite] = check == 0.0f ? 1.0f : 0.0f;
  if (p.cu_seqlens_k == nullptr || p.skip == SkipMode::kExact) return;
  const int32_t group = p.num_heads / p.num_kv_heads;
  for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    if (!(p.slopes[head] > 0)) continue;
    float* sums = static_cast<float*>(p.bounds) + PositionSumsOffset(p, sequence, head);
    PositionSums(p.k_positions + KeyOffsets(p)[sequence], tokens, p.slopes[head], sums,
                 sums + tokens);
  }
}

}  // namespace
}  // namespace longdoc::kernels
