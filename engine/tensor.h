// A non-owning, read-only, dense row-major tensor.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/types.h"

namespace longdoc {

using kernels::DType;

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;

  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return n;
  }
  int64_t bytes() const { return num_elements() * static_cast<int64_t>(kernels::SizeOf(dtype)); }
};

}  // namespace longdoc
