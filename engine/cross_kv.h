// What a decoder needs of an encoded document: its keys and values, projected once per layer.
#pragma once

#include <cstdint>

#include "engine/kept_memory.h"
#include "engine/tensor.h"
#include "kernels/decode.h"

namespace longdoc {

// Of documents on a device that can move to host memory; all 0 where memory is the host's.
struct SpillStats {
  int64_t device_bytes = 0, host_bytes = 0;  // of documents in each place
  int64_t host_limit_bytes = 0;              // most that host memory may hold of them; 0: no limit
  int64_t spilled = 0, returned = 0;         // counters, of moves
};

// Device memory. Per decoder layer: ceil(tokens / kKeyBlock) blocks, zero-filled tail.
struct CrossKv : KeptMemory {
  int64_t tokens = 0;
  int32_t head_dim = 0;
  DType storage = DType::kBF16;

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
