// What a decoder needs of an encoded document: its keys and values, projected once per layer.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "engine/memory_pool.h"
#include "engine/tensor.h"
#include "kernels/decode.h"

namespace longdoc {

class CrossKvSpill;  // spill.h

// Of documents on a device that can move to host memory; all 0 where memory is the host's.
struct SpillStats {
  int64_t device_bytes = 0, host_bytes = 0;  // of documents in each place
  int64_t spilled = 0, returned = 0;         // counters, of moves
};

// Immutable once the encode is done, but for where it is. Device memory; the backend outlives it.
struct CrossKv {
  CrossKv() = default;
  CrossKv(const CrossKv&) = delete;
  CrossKv& operator=(const CrossKv&) = delete;
  ~CrossKv();

  int64_t tokens = 0;
  int32_t head_dim = 0;
  DType storage = DType::kBF16;
  // Per decoder layer: ceil(tokens / kKeyBlock) blocks, zero-filled tail. In host memory while
  // spilled; not to be looked at without a CrossKvUse, where the backend spills (spill.h).
  mutable std::vector<Buffer> layers;

  int64_t bytes() const {
    if (spill != nullptr) return added_bytes;
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

 private:
  friend class CrossKvSpill;
  mutable CrossKvSpill* spill = nullptr;  // set before the document is shared
  mutable int64_t added_bytes = 0;        // likewise
  // Guarded by the mutex of `spill`, as `layers` is while nobody uses them.
  mutable bool spilled = false;
  mutable int64_t uses = 0;
  mutable std::list<const CrossKv*>::iterator idle{};  // its place there while nobody uses it
  mutable std::mutex moving;                           // held while it is brought back
};

}  // namespace longdoc
