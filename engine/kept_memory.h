// Memory of the backend that a document keeps for as long as it is kept. Where the backend's memory
// is a device's, it may be in host memory while nobody uses it (spill.h).
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "engine/memory_pool.h"

namespace longdoc {

class MemorySpill;  // spill.h

// Immutable once the encode is done, but for where it is. The backend outlives it.
struct KeptMemory {
  KeptMemory() = default;
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
  ~KeptMemory();

  // What there is of it, by layer where there are several. In host memory while spilled; not to be
  // looked at without a KeptMemoryUse, where the backend spills.
  mutable std::vector<Buffer> layers;

  int64_t bytes() const {
    if (spill != nullptr) return added_bytes;
    int64_t sum = 0;
    for (const Buffer& b : layers) sum += b.bytes();
    return sum;
  }

 private:
  friend class MemorySpill;
  mutable MemorySpill* spill = nullptr;  // set before the document is shared
  mutable int64_t added_bytes = 0;       // likewise
  // Guarded by the mutex of `spill`, as `layers` is while nobody uses them.
  mutable bool spilled = false;
  mutable int64_t uses = 0;
  mutable std::list<const KeptMemory*>::iterator idle{};  // its place there while nobody uses it
  mutable std::mutex moving;                              // held while it is brought back
};

}  // namespace longdoc
