// Large buffers for documents: mapped, on huge pages, a few kept for reuse, every byte counted.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

namespace longdoc {

class MemoryPool;

// Owns a piece of a pool's memory; gives it back when destroyed. Movable. The pool outlives it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { Reset(); }

  void Reset();
  void* data() const { return data_; }  // 4096-byte aligned; null when empty
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  friend class MemoryPool;
  MemoryPool* pool_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;     // as asked for
  int64_t capacity_ = 0;  // as mapped
};

// Thread-safe. First touch of 4 KiB pages costs several times more than of huge ones, so blocks are
// rounded and advised accordingly, and up to `retained_bytes` of freed blocks stay mapped.
class MemoryPool {
 public:
  explicit MemoryPool(int64_t retained_bytes) : retained_limit_(retained_bytes) {}
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // At least `bytes` (0 gives an empty buffer), filled with zeros if `zeroed`, else with anything.
  // RESOURCE_EXHAUSTED when the system refuses.
  absl::StatusOr<Buffer> Allocate(int64_t bytes, bool zeroed);

  int64_t allocated_bytes() const;  // in live buffers
  int64_t peak_bytes() const;       // largest value of the above so far
  int64_t retained_bytes() const;   // free, but still mapped

 private:
  friend class Buffer;
  struct Block {
    void* data;
    int64_t capacity;
  };
  void Free(void* data, int64_t bytes, int64_t capacity);

  const int64_t retained_limit_;
  mutable std::mutex mutex_;
  std::vector<Block> free_;
  int64_t allocated_ = 0, peak_ = 0, retained_ = 0;
};

}  // namespace longdoc
