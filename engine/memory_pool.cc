#include "engine/memory_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/types.h"

namespace longdoc {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;

int64_t Capacity(int64_t bytes) {
  return kernels::RoundUp(bytes, bytes >= kHugePage ? kHugePage : kPage);
}

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Reset();
    pool_ = std::exchange(other.pool_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
  }
  return *this;
}

void Buffer::Reset() {
  if (data_ != nullptr) pool_->Free(data_, bytes_, capacity_);
  pool_ = nullptr;
  data_ = nullptr;
  bytes_ = capacity_ = 0;
}

MemoryPool::~MemoryPool() {
  for (const Block& block : free_) munmap(block.data, block.capacity);
}

absl::StatusOr<Buffer> MemoryPool::Allocate(int64_t bytes, bool zeroed) {
  Buffer buffer;
  if (bytes <= 0) return buffer;
  const int64_t capacity = Capacity(bytes);
  bool fresh = false;
  {
    std::lock_guard lock(mutex_);
    // Best fit among the free blocks, but never one more than twice as large.
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->capacity < capacity || it->capacity > 2 * capacity) continue;
      if (best == free_.end() || it->capacity < best->capacity) best = it;
    }
    if (best != free_.end()) {
      buffer.data_ = best->data;
      buffer.capacity_ = best->capacity;
      retained_ -= best->capacity;
      free_.erase(best);
    }
  }
  if (buffer.data_ == nullptr) {
    void* data =
        mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the system refused %d bytes of memory", capacity));
    }
    if (capacity >= kHugePage) madvise(data, capacity, MADV_HUGEPAGE);
    buffer.data_ = data;
    buffer.capacity_ = capacity;
    fresh = true;
  }
  buffer.pool_ = this;
  buffer.bytes_ = bytes;
  if (zeroed && !fresh) std::memset(buffer.data_, 0, bytes);
  std::lock_guard lock(mutex_);
  allocated_ += bytes;
  peak_ = std::max(peak_, allocated_);
  return buffer;
}

void MemoryPool::Free(void* data, int64_t bytes, int64_t capacity) {
  {
    std::lock_guard lock(mutex_);
    allocated_ -= bytes;
    if (retained_ + capacity <= retained_limit_) {
      retained_ += capacity;
      free_.push_back({data, capacity});
      return;
    }
  }
  munmap(data, capacity);
}

int64_t MemoryPool::allocated_bytes() const {
  std::lock_guard lock(mutex_);
  return allocated_;
}
int64_t MemoryPool::peak_bytes() const {
  std::lock_guard lock(mutex_);
  return peak_;
}
int64_t MemoryPool::retained_bytes() const {
  std::lock_guard lock(mutex_);
  return retained_;
}

}  // namespace longdoc
