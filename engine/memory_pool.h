// Large buffers for documents: a few kept for reuse, every byte counted, against a limit where
// there is one. On the host they are mapped on huge pages; devices bring a source of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
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
  void* data() const {
    return data_;
  }  // 4096-byte (of a device: 256-byte) aligned; null when empty
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

// Where a pool's blocks come from. Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // What a request is rounded up to, so that freed blocks fit the next one.
  virtual int64_t Capacity(int64_t bytes) const = 0;
  // Null when refused.
  virtual void* Map(int64_t capacity) = 0;
  virtual void Unmap(void* data, int64_t capacity) = 0;
  virtual void Zero(void* data, int64_t bytes) = 0;
  // Within this memory. Of the host, unless a source says otherwise.
  virtual void Copy(void* to, const void* from, int64_t bytes);
  virtual bool fresh_is_zero() const = 0;
  virtual const char* name() const = 0;  // "memory", for messages
};

struct MemoryPoolOptions {
  int64_t retained_bytes = 0;  // freed blocks that stay mapped
  int64_t limit_bytes = 0;     // of all that is mapped; 0: what the source gives
  int64_t slack = 2;           // a kept block serves requests of at least 1/slack of its size
};

// Thread-safe. First touch of 4 KiB pages costs several times more than of huge ones, so blocks are
// rounded and advised accordingly, and up to `retained_bytes` of freed blocks stay mapped.
class MemoryPool {
 public:
  explicit MemoryPool(int64_t retained_bytes);  // of the host
  MemoryPool(std::unique_ptr<MemorySource> source, const MemoryPoolOptions& options);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // At least `bytes` (0 gives an empty buffer), filled with zeros if `zeroed`, else with anything.
  // Blocks that are kept are given up before anything is refused. RESOURCE_EXHAUSTED
  // (OUT_OF_MEMORY) beyond the limit, or when the source refuses.
  absl::StatusOr<Buffer> Allocate(int64_t bytes, bool zeroed);
  // Asked when nothing is left: frees some of the live buffers, or says false. Set before any use;
  // called without locks, by the thread that allocates.
  void SetReclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }
  // Between two pieces of this pool's memory.
  void Copy(void* to, const void* from, int64_t bytes) { source_->Copy(to, from, bytes); }

  int64_t allocated_bytes() const;  // in live buffers
  int64_t peak_bytes() const;       // largest value of the above so far
  int64_t retained_bytes() const;   // free, but still mapped
  int64_t limit_bytes() const { return options_.limit_bytes; }

 private:
  friend class Buffer;
  struct Block {
    void* data = nullptr;
    int64_t capacity = 0;
  };
  Block TakeKept(int64_t capacity);
  absl::StatusOr<Block> MapNew(int64_t capacity);
  void* MapWithin(int64_t capacity, int64_t limit);
  void Free(void* data, int64_t bytes, int64_t capacity);

  const std::unique_ptr<MemorySource> source_;
  const MemoryPoolOptions options_;
  std::function<bool()> reclaim_;
  mutable std::mutex mutex_;
  std::vector<Block> free_;
  int64_t allocated_ = 0, peak_ = 0, retained_ = 0;
  int64_t mapped_ = 0;  // live, kept, and being mapped
};

}  // namespace longdoc
