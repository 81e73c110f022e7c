// bf16 and fp16 to float.
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

inline float Widen(uint16_t bits, bool bf16) {
  static const HalfTable table;
  return bf16 ? ToFloat(Bf16{bits}) : table.values[bits];
}

}  // namespace longdoc::kernels::cuda::emulation
