// What a decoder needs of an encoded document: its keys and values, projected once per layer.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/memory_pool.h"
#include "engine/tensor.h"
#include "kernels/decode.h"

namespace longdoc {

// Immutable once the encode is done. Device memory; the backend outlives it.
struct CrossKv {
  int64_t tokens = 0;
  int32_t head_dim = 0;
  DType storage = DType::kBF16;
  std::vector<Buffer>
      layers;  // per decoder layer: ceil(tokens / kKeyBlock) blocks, zero-filled tail

  int64_t bytes() const {
    int64_t sum = 0;
    for (const Buffer& b : layers) sum += b.bytes();
    return sum;
  }
  kernels::MqaKeys Keys(size_t layer) const {
    kernels::MqaKeys keys;
    keys.keys = tokens;
    keys.head_dim = head_dim;
    keys.storage = storage;
    keys.blocks = layers[layer].data();
    return keys;
  }
};

}  // namespace longdoc
