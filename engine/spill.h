// What is kept of documents in device memory, keys and values or token vectors, and moves to host
// memory when the device needs the room: the least recently used first, never one in use. They come
// back when they are used again.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/cross_kv.h"
#include "engine/memory_pool.h"

namespace longdoc {

class Backend;

// Keeps a document on the device while it lives.
class KeptMemoryUse {
 public:
  KeptMemoryUse() = default;
  KeptMemoryUse(KeptMemoryUse&& other) noexcept { *this = std::move(other); }
  KeptMemoryUse& operator=(KeptMemoryUse&& other) noexcept {
    std::swap(spill_, other.spill_);
    std::swap(document_, other.document_);
    return *this;
  }
  ~KeptMemoryUse();

 private:
  friend class MemorySpill;
  MemorySpill* spill_ = nullptr;
  const KeptMemory* document_ = nullptr;
};

// Thread-safe. One of a backend; outlives the documents.
class MemorySpill {
 public:
  // Copies by `backend` between its `device` memory and `host` memory.
  MemorySpill(Backend& backend, MemoryPool& device, MemoryPool& host)
      : backend_(backend), device_(device), host_(host) {}

  // From now on the document may move; it is forgotten when it goes.
  void Add(const KeptMemory& document);
  // Brings the document back if it must. RESOURCE_EXHAUSTED when the device has no room for it even
  // without all others that are not in use.
  absl::StatusOr<KeptMemoryUse> Use(const KeptMemory& document);
  // Moves the least recently used document that fits to host memory; false when there is none.
  bool SpillOne();
  SpillStats stats() const;

 private:
  friend class KeptMemoryUse;
  friend struct KeptMemory;
  void EndUse(const KeptMemory& document);
  void Forget(const KeptMemory& document);
  absl::Status BringBack(const KeptMemory& document);
  absl::Status MoveToHost(const KeptMemory& document);

  Backend& backend_;
  MemoryPool& device_;
  MemoryPool& host_;
  mutable std::mutex mutex_;
  std::list<const KeptMemory*> idle_;  // on the device and not in use, least recently used first
  SpillStats stats_;
};

}  // namespace longdoc
