// bf16 and fp16 to float and back, bit by bit. Private to the reference.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/types.h"

namespace longdoc::kernels::reference {

inline float Bf16Value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

inline float F16Value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double magnitude;
  if (exponent == 31) {
    magnitude = fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                              : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    magnitude = std::ldexp(fraction, -24);
  } else {
    magnitude = std::ldexp(1024 + fraction, exponent - 25);
  }
  return static_cast<float>((bits & 0x8000) != 0 ? -magnitude : magnitude);
}

// To nearest even; NaN stays NaN.
inline uint16_t RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// To nearest even; NaN stays NaN.
inline uint16_t RoundToF16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520) return static_cast<uint16_t>(sign | 0x7c00);
  int exponent = -99;
  if (magnitude > 0) std::frexp(magnitude, &exponent);
  const int unit = exponent - 11 > -24 ? exponent - 11 : -24;  // 11 significant bits
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  return static_cast<uint16_t>(sign | (units + (unit + 24) * 1024));
}

// Element i of an array of `type`.
inline float LoadAs(DType type, const void* base, int64_t i) {
  switch (type) {
    case DType::kF32:
      return static_cast<const float*>(base)[i];
    case DType::kBF16:
      return Bf16Value(static_cast<const uint16_t*>(base)[i]);
    case DType::kF16:
      return F16Value(static_cast<const uint16_t*>(base)[i]);
  }
  return 0;
}

inline void StoreAs(DType type, void* base, int64_t i, float value) {
  switch (type) {
    case DType::kF32:
      static_cast<float*>(base)[i] = value;
      return;
    case DType::kBF16:
      static_cast<uint16_t*>(base)[i] = RoundToBf16(value);
      return;
    case DType::kF16:
      static_cast<uint16_t*>(base)[i] = RoundToF16(value);
      return;
  }
}

}  // namespace longdoc::kernels::reference
