// Compiled with -mavx512f; nothing else may go into this file.
#include <immintrin.h>

#include "service/tools/bench/peak.h"

namespace longdoc::tools {

int64_t FmaLoopAvx512(int64_t iterations, float* sink) {
  constexpr int kChains = 16;
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.5f);
  __m512 acc[kChains];
  for (__m512& v : acc) v = b;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_fmadd_ps(acc[j], a, b);
  }
  float lanes[16];
  for (const __m512& v : acc) {
    _mm512_storeu_ps(lanes, v);
    *sink += lanes[0];
  }
  return iterations * kChains * 16 * 2;
}

}  // namespace longdoc::tools
