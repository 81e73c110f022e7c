#include "numbers.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

// kWidth columns at a time in registers. Sums run in the order of k on every CPU.
template <int kWidth>
inline __attribute__((always_inline)) void Columns(const float (*a)[16], const float* b, float* d,
                                                   int stride) {
  for (int r = 0; r < 16; ++r) {
    float sum[kWidth];
    for (int c = 0; c < kWidth; ++c) sum[c] = d[r * stride + c];
    for (int k = 0; k < 16; ++k) {
      for (int c = 0; c < kWidth; ++c) sum[c] += a[r][k] * b[k * stride + c];
    }
    for (int c = 0; c < kWidth; ++c) d[r * stride + c] = sum[c];
  }
}

inline __attribute__((always_inline)) void Multiply(const float (*a)[16], const float* b, float* d,
                                                    int n, int stride) {
  int c = 0;
  for (; c + 32 <= n; c += 32) Columns<32>(a, b + c, d + c, stride);
  for (; c < n; c += 8) Columns<8>(a, b + c, d + c, stride);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void MultiplyAvx2(const float (*a)[16], const float* b, float* d,
                                                  int n, int stride) {
  Multiply(a, b, d, n, stride);
}
#endif

}  // namespace

void MultiplyAdd(const float (*a)[16], const float* b, float* d, int n, int stride) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) return MultiplyAvx2(a, b, d, n, stride);
#endif
  Multiply(a, b, d, n, stride);
}

}  // namespace longdoc::kernels::cuda::emulation
