// bf16 and fp16 to float, and the products of small tiles.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/platform.h"

namespace longdoc::kernels::cuda::emulation {

// fp16 by a table: the arithmetic costs more than all else in a product.
struct HalfTable {
  HalfTable() : values(new float[65536]) {
    for (uint32_t i = 0; i < 65536; ++i) values[i] = ToFloat(Fp16{static_cast<uint16_t>(i)});
  }
  float* const values;  // lives as long as the process
};

inline const float* HalfValues() {
  static const HalfTable table;
  return table.values;
}

// Converts `count` numbers of 16 bits.
inline void Widen(const uint16_t* bits, int count, bool bf16, float* out) {
  if (bf16) {
    for (int i = 0; i < count; ++i) out[i] = ToFloat(Bf16{bits[i]});
  } else {
    const float* half = HalfValues();
    for (int i = 0; i < count; ++i) out[i] = half[bits[i]];
  }
}

// The two numbers of a register.
inline void WidenPair(uint32_t pair, bool bf16, float* out) {
  const uint16_t bits[2] = {static_cast<uint16_t>(pair), static_cast<uint16_t>(pair >> 16)};
  Widen(bits, 2, bf16, out);
}

// d [16, n] += a [16, 16] * b [16, n]; n a multiple of 8, rows of d and b `stride` apart.
void MultiplyAdd(const float (*a)[16], const float* b, float* d, int n, int stride);

}  // namespace longdoc::kernels::cuda::emulation
