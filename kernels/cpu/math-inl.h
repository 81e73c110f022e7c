// The micro-kernel of matrix products: templates over a Simd struct (simd_portable.h).
#pragma once

#include <cstdint>

#include "kernels/functions-inl.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// How a micro-kernel multiplies. `Elem` is the type of the left operand in memory, `Panel` that of
// the panel's; a panel row holds kStep consecutive values of the inner dimension for every column,
// side by side. LoadB gives vector v of such a row.
template <class S>
struct F32Dot {
  using Simd = S;
  using Elem = float;
  using Panel = float;
  using Operand = typename S::Vec;
  static constexpr int kStep = 1;
  static Operand LoadB(const Panel* row, int v) { return S::Load(row + v * S::kLanes); }
  static Operand BroadcastA(const Elem* p) { return S::Set1(*p); }
  static typename S::Vec MulAdd(Operand a, Operand b, typename S::Vec c) { return S::Fma(a, b, c); }
  static typename S::Vec Weight(typename S::Vec x) { return WeightExp<S>(x); }
  static void StoreWeight(Elem* p, typename S::Vec v) { S::Store(p, v); }
};

// The same on a panel of bf16, widened as it is loaded: for few rows, which do not pay for widening
// it once for all of them. They wait for memory instead, so the lines that follow are asked for; a
// prefetch beyond the end does no harm.
template <class S>
struct WidenedBf16Dot : F32Dot<S> {
  using Panel = uint16_t;
  static constexpr int kAhead = 1024;  // elements: 2 KB, a fraction of a microsecond
  static typename S::Vec LoadB(const Panel* row, int v) {
    if (v == 0) __builtin_prefetch(row + kAhead);
    return S::LoadPanelBf16(row, v);
  }
};

#define LONGDOC_UNROLL _Pragma("GCC unroll 8")

// One step of MicroKernel.
template <class Dot, int R, int NV>
[[gnu::always_inline]] inline void MicroStep(const typename Dot::Elem* a, int64_t lda,
                                             const typename Dot::Panel* b,
                                             typename Dot::Simd::Vec (&acc)[R][NV]) {
  typename Dot::Operand panel[NV];
  LONGDOC_UNROLL
  for (int v = 0; v < NV; ++v) panel[v] = Dot::LoadB(b, v);
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    const typename Dot::Operand x = Dot::BroadcastA(a + r * lda);
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) acc[r][v] = Dot::MulAdd(x, panel[v], acc[r][v]);
  }
}

// c[r, 0..NV·lanes) (+)= sum over k of a[r, k] · b[k, ·],  r < R, `steps` = inner dimension /
// kStep. a: R rows, stride lda.  b: a panel, contiguous, rows of NV·lanes·kStep elements.  c:
// stride ldc. The accumulators stay in registers; nothing else may live there (never inlined).
// Several steps per turn of the loop: a core whose front end serves two hardware threads otherwise
// spends as long on fetching a short loop as on its products.
template <class Dot, int R, int NV, bool kAccumulate>
[[gnu::noinline]] void MicroKernel(int64_t steps, const typename Dot::Elem* a, int64_t lda,
                                   const typename Dot::Panel* b, float* c, int64_t ldc) {
  using S = typename Dot::Simd;
  constexpr int kLanes = S::kLanes, kTurn = 4, kRow = NV * kLanes * Dot::kStep;
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
      MicroStep<Dot, R, NV>(a + t * Dot::kStep, lda, b + t * kRow, acc);
    }
    a += kTurn * Dot::kStep;
    b += kTurn * kRow;
  }
  for (; k < steps; ++k, a += Dot::kStep, b += kRow) MicroStep<Dot, R, NV>(a, lda, b, acc);
  LONGDOC_UNROLL
  for (int r = 0; r < R; ++r) {
    LONGDOC_UNROLL
    for (int v = 0; v < NV; ++v) {
      float* to = c + r * ldc + v * kLanes;
      S::Store(to, kAccumulate ? S::Add(S::Load(to), acc[r][v]) : acc[r][v]);
    }
  }
}

// Any number of rows. From kRows + 1 to 2·kRows − 1 of them are cut into halves: a kernel of very
// few rows has too few independent sums to hide the latency of a multiply-add.
template <class Dot, int NV, bool kAccumulate>
inline void MicroRows(int rows, int64_t steps, const typename Dot::Elem* a, int64_t lda,
                      const typename Dot::Panel* b, float* c, int64_t ldc) {
  constexpr int kRows = Dot::Simd::kRows;
  static_assert(kRows == 6, "one case per row count");
  while (rows > 0) {
    const int count = rows <= kRows ? rows : rows >= 2 * kRows ? kRows : (rows + 1) / 2;
    switch (count) {
      case 1:
        MicroKernel<Dot, 1, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 2:
        MicroKernel<Dot, 2, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 3:
        MicroKernel<Dot, 3, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 4:
        MicroKernel<Dot, 4, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      case 5:
        MicroKernel<Dot, 5, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
      default:
        MicroKernel<Dot, kRows, NV, kAccumulate>(steps, a, lda, b, c, ldc);
        break;
    }
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
  constexpr int64_t kChunk = S::kVecs * S::kLanes;
  const int64_t steps = (inner + Dot::kStep - 1) / Dot::kStep;
  int64_t column = 0;
  for (; column + kChunk <= columns; column += kChunk) {
    MicroRows<Dot, S::kVecs, kAccumulate>(rows, steps, a, lda, panel + column * panel_inner,
                                          c + column, ldc);
  }
  if constexpr (S::kVecs > 2) {  // narrower chunks only exist where a chunk exceeds 16 columns
    const typename Dot::Panel* rest = panel + column * panel_inner;
    switch ((columns - column) / S::kLanes) {
      case 3:
        return MicroRows<Dot, 3, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      case 2:
        return MicroRows<Dot, 2, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      case 1:
        return MicroRows<Dot, 1, kAccumulate>(rows, steps, a, lda, rest, c + column, ldc);
      default:
        return;
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels
