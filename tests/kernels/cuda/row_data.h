// Inputs and comparisons of the parity tests of rows, routing and products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/reference/convert.h"
#include "kernels/types.h"
#include "tests/kernels/attention_data.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/random_floats.h"

namespace longdoc::kernels::cuda::parity {

using kernels::testing::MaxAbs;
using kernels::testing::RandomFloats;

inline std::vector<uint16_t> ToBf16(const std::vector<float>& x) {
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = reference::RoundToBf16(x[i]);
  return out;
}

inline std::vector<float> FromBf16(const std::vector<uint16_t>& x) {
  std::vector<float> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = reference::Bf16Value(x[i]);
  return out;
}

// Infinite where one is NaN and the other is not, or sizes differ.
inline double MaxDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double max = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (a[i] == b[i]) continue;  // infinities, too
    const double distance = std::abs(static_cast<double>(a[i]) - b[i]);
    max = std::isnan(distance) ? std::numeric_limits<double>::infinity() : std::max(max, distance);
  }
  return max;
}

// Whether `rounded` holds exact[i] rounded to bf16, NaN for NaN.
inline bool IsRounded(const std::vector<uint16_t>& rounded, const std::vector<float>& exact) {
  if (rounded.size() != exact.size()) return false;
  for (size_t i = 0; i < exact.size(); ++i) {
    const float value = reference::Bf16Value(rounded[i]);
    if (std::isnan(exact[i]) ? !std::isnan(value)
                             : value != reference::Bf16Value(reference::RoundToBf16(exact[i]))) {
      return false;
    }
  }
  return true;
}

// `values` shifted by `shift` elements in device memory: 0 is aligned for vector accesses, odd
// shifts are not.
template <class T>
class ShiftedArray {
 public:
  ShiftedArray(std::vector<T> values, int64_t shift)
      : shift_(shift), array_(Prepend(std::move(values), shift)) {}
  T* data() { return array_.data() + shift_; }
  std::vector<T> Download() {
    const std::vector<T> all = array_.Download();
    return std::vector<T>(all.begin() + shift_, all.end());
  }

 private:
  static std::vector<T> Prepend(std::vector<T> values, int64_t shift) {
    values.insert(values.begin(), shift, T());
    return values;
  }
  const int64_t shift_;
  DeviceArray<T> array_;
};

}  // namespace longdoc::kernels::cuda::parity
