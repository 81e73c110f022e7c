// The micro-kernel of matrix products: templates over a Simd struct (simd_portable.h).
#pragma once

#include <cstdint>

#include "kernels/functions-inl.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// How a micro-kernel multiplies. `Elem` is the type of the left operand in memory, `Panel` that of
// the panel's; a panel row holds kStep consecutive values of the inner dimension for every column,
// side by side. LoadB gives vector v of such a row. kPairRows: so many rows at a time go through
// two chunks of a panel side by side; 0: chunks come one by one.
template <class S>
struct F32Dot {
  using Simd = S;
  using Elem = float;
  using Panel = float;
  using Operand = typename S::Vec;
  static constexpr int kStep = 1;
  static constexpr int kPairRows = S::kPairRows;
  static Operand LoadB(const Panel* row, int v) { return S::Load(row + v * S::kLanes); }
  static Operand BroadcastA(const Elem* p) { return S::Set1(*p); }
  static typename S::Vec MulAdd(Operand a, Operand b, typename S::Vec c) { return S::Fma(a, b, c); }
  static typename S::Vec Weight(typename S::Vec x) { return WeightExp<S>(x); }
  static void StoreWeight(Elem* p, typename S::Vec v) { S::Store(p, v); }
};

// The same on a panel of bf16, widened as it is loaded: for few rows, which do not pay for widening
// it once for all of them. They wait for memory instead, so the lines that follow are asked for; a
// prefetch beyond the end does no harm. Widening takes a register, so there is none for a second
// chunk.
template <class S>
struct WidenedBf16Dot : F32Dot<S> {
  using Panel = uint16_t;
  static constexpr int kPairRows = 0;
  static constexpr int kAhead = 1024;  // elements: 2 KB, a fraction of a microsecond
  static typename S::Vec LoadB(const Panel* row, int v) {
    if (v == 0) __builtin_prefetch(row + kAhead);
    return S::LoadPanelBf16(row, v);
  }
};

#define LONGDOC_UNROLL _Pragma("GCC unroll 8")

// One step of MicroKernel. The shorter side of the tile is held in registers, the longer one
// passes.
template <class Dot, int R, int NV>
[[gnu::always_inline]] inline void MicroStep(const typename Dot::Elem* a, int64_t lda,
                                             const typename Dot::Panel* b, int64_t next_chunk,
                                             typename Dot::Simd::Vec (&acc)[R][NV]) {
  using Operand = typename Dot::Operand;
  constexpr int kVecs = Dot::Simd::kVecs;
  const auto load = [&](int v) { return Dot::LoadB(b + v / kVecs * next_chunk, v % kVecs); };
  if constexpr (R < NV) {
    Operand row[R];
    LONGDOC_UNROLL
    for (int r = 0; r < R; ++r) row[r] = Dot::BroadcastA(a + r * lda);
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) {
      const Operand y = load(v);
      LONGDOC_UNROLL
      for (int r = 0; r < R; ++r) acc[r][v] = Dot::MulAdd(row[r], y, acc[r][v]);
    }
  } else {
    Operand panel[NV];
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) panel[v] = load(v);
    LONGDOC_UNROLL
    for (int r = 0; r < R; ++r) {
      const Operand x = Dot::BroadcastA(a + r * lda);
      LONGDOC_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] = Dot::MulAdd(x, panel[v], acc[r][v]);
    }
  }
}

// c[r, 0..NV·lanes) (+)= sum over k of a[r, k] · b[k, ·],  r < R, `steps` = inner dimension /
// kStep. a: R rows, stride lda.  b: chunks of a panel, `next_chunk` elements apart, each contiguous
// with rows of min(NV, kVecs)·lanes·kStep elements.  c: stride ldc. The accumulators stay in
// registers; nothing else may live there (never inlined). Several steps per turn of the loop: a
// core whose front end serves two hardware threads otherwise spends as long on fetching a short
// loop as on its products.
template <class Dot, int R, int NV, bool kAccumulate>
[[gnu::noinline]] void MicroKernel(int64_t steps, const typename Dot::Elem* a, int64_t lda,
                                   const typename Dot::Panel* b, int64_t next_chunk, float* c,
                                   int64_t ldc) {
  using S = typename Dot::Simd;
  constexpr int kWidth = NV < S::kVecs ? NV : S::kVecs;
  constexpr int kLanes = S::kLanes, kTurn = 8, kRow = kWidth * kLanes * Dot::kStep;
  typename S::Vec acc[R][NV];
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = S::Set1(0.0f);
  }
  int64_t k = 0;
  for (; k + kTurn <= steps; k += kTurn) {
    LONGDOC_UNROLL
    for (int t = 0; t < kTurn; ++t) {
      MicroStep<Dot, R, NV>(a + t * Dot::kStep, lda, b + t * kRow, next_chunk, acc);
    }
    a += kTurn * Dot::kStep;
    b += kTurn * kRow;
  }
  for (; k < steps; ++k, a += Dot::kStep, b += kRow) {
    MicroStep<Dot, R, NV>(a, lda, b, next_chunk, acc);
  }
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) {
      float* to = c + r * ldc + v * kLanes;
      S::Store(to, kAccumulate ? S::Add(S::Load(to), acc[r][v]) : acc[r][v]);
    }
  }
}

// MicroKernel of `rows` rows, 1 <= rows <= R.
template <class Dot, int R, int NV, bool kAccumulate>
inline void MicroKernelOf(int rows, int64_t steps, const typename Dot::Elem* a, int64_t lda,
                          const typename Dot::Panel* b, int64_t next_chunk, float* c, int64_t ldc) {
  if constexpr (R > 1) {
    if (rows < R) {
      return MicroKernelOf<Dot, R - 1, NV, kAccumulate>(rows, steps, a, lda, b, next_chunk, c, ldc);
    }
  }
  MicroKernel<Dot, R, NV, kAccumulate>(steps, a, lda, b, next_chunk, c, ldc);
}

// Any number of rows, R at a time. From R + 1 to 2·R − 1 of them are cut into halves: a kernel of
// very few rows has too few independent sums to hide the latency of a multiply-add.
template <class Dot, int R, int NV, bool kAccumulate>
inline void MicroRows(int rows, int64_t steps, const typename Dot::Elem* a, int64_t lda,
                      const typename Dot::Panel* b, int64_t next_chunk, float* c, int64_t ldc) {
  while (rows > 0) {
    const int count = rows <= R ? rows : rows >= 2 * R ? R : (rows + 1) / 2;
    MicroKernelOf<Dot, R, NV, kAccumulate>(count, steps, a, lda, b, next_chunk, c, ldc);
    rows -= count;
    a += count * lda;
    c += count * ldc;
  }
}

// c[rows, columns) (+)= a[rows, inner) · panel, the panel cut into chunks of kVecs vectors: chunk i
// starts at element i · kVecs · lanes · panel_inner and is contiguous; the last may be narrower.
// `inner` <= panel_inner is how much of the inner dimension counts. All rows go through a chunk
// before the next one, which keeps it in the first-level cache.
template <class Dot, bool kAccumulate>
inline void MultiplyPanel(int rows, int64_t inner, int64_t panel_inner, int64_t columns,
                          const typename Dot::Elem* a, int64_t lda,
                          const typename Dot::Panel* panel, float* c, int64_t ldc) {
  using S = typename Dot::Simd;
  constexpr int kRows = S::kRows;
  constexpr int64_t kChunk = S::kVecs * S::kLanes;
  const int64_t steps = (inner + Dot::kStep - 1) / Dot::kStep;
  const int64_t next_chunk = kChunk * panel_inner;
  int64_t column = 0;
  if constexpr (Dot::kPairRows > 0) {
    for (; column + 2 * kChunk <= columns; column += 2 * kChunk) {
      MicroRows<Dot, Dot::kPairRows, 2 * S::kVecs, kAccumulate>(
          rows, steps, a, lda, panel + column * panel_inner, next_chunk, c + column, ldc);
    }
  }
  for (; column + kChunk <= columns; column += kChunk) {
    MicroRows<Dot, kRows, S::kVecs, kAccumulate>(rows, steps, a, lda, panel + column * panel_inner,
                                                 next_chunk, c + column, ldc);
  }
  if constexpr (S::kVecs > 2) {  // narrower chunks only exist where a chunk exceeds 16 columns
    const typename Dot::Panel* rest = panel + column * panel_inner;
    switch ((columns - column) / S::kLanes) {
      case 3:
        return MicroRows<Dot, kRows, 3, kAccumulate>(rows, steps, a, lda, rest, 0, c + column, ldc);
      case 2:
        return MicroRows<Dot, kRows, 2, kAccumulate>(rows, steps, a, lda, rest, 0, c + column, ldc);
      case 1:
        return MicroRows<Dot, kRows, 1, kAccumulate>(rows, steps, a, lda, rest, 0, c + column, ldc);
      default:
        return;
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
