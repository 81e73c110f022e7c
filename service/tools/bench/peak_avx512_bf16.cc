// Compiled with -mavx512f -mavx512bf16; nothing else may go into this file.
#include <immintrin.h>

#include "service/tools/bench/peak.h"

namespace longdoc::tools {

int64_t Bf16LoopAvx512(int64_t iterations, float* sink) {
  constexpr int kChains = 16;
  // 0x3C00 is 2^-7 in bf16: the sums stay finite.
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3C00);
  __m512 acc[kChains];
  for (__m512& v : acc) v = _mm512_setzero_ps();
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], a, a);
  }
  float lanes[16];
  for (const __m512& v : acc) {
    _mm512_storeu_ps(lanes, v);
    *sink += lanes[0];
  }
  return iterations * kChains * 32 * 2;
}

}  // namespace longdoc::tools
