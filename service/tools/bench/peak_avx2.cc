// Compiled with -mavx2 -mfma; nothing else may go into this file.
#include <immintrin.h>

#include "service/tools/bench/peak.h"

namespace longdoc::tools {

int64_t FmaLoopAvx2(int64_t iterations, float* sink) {
  constexpr int kChains = 12;  // two units, a latency of four: eight at least, and 16 registers
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.5f);
  __m256 acc[kChains];
  for (__m256& v : acc) v = b;
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = _mm256_fmadd_ps(acc[j], a, b);
  }
  float lanes[8];
  for (const __m256& v : acc) {
    _mm256_storeu_ps(lanes, v);
    *sink += lanes[0];
  }
  return iterations * kChains * 8 * 2;
}

}  // namespace longdoc::tools
