#include "engine/memory_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "kernels/types.h"

namespace longdoc {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;

class HostMemory final : public MemorySource {
 public:
  int64_t Capacity(int64_t bytes) const override {
    return kernels::RoundUp(bytes, bytes >= kHugePage ? kHugePage : kPage);
  }
  void* Map(int64_t capacity) override {
    void* data =
        mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    if (capacity >= kHugePage) madvise(data, capacity, MADV_HUGEPAGE);
    return data;
  }
  void Unmap(void* data, int64_t capacity) override { munmap(data, capacity); }
  void Zero(void* data, int64_t bytes) override { std::memset(data, 0, bytes); }
  bool fresh_is_zero() const override { return true; }
  const char* name() const override { return "memory"; }
};

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

MemoryPool::MemoryPool(int64_t retained_bytes)
    : MemoryPool(std::make_unique<HostMemory>(), {.retained_bytes = retained_bytes}) {}

MemoryPool::MemoryPool(std::unique_ptr<MemorySource> source, const MemoryPoolOptions& options)
    : source_(std::move(source)), options_(options) {}

void MemorySource::Copy(void* to, const void* from, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

MemoryPool::~MemoryPool() {
  for (const Block& block : free_) source_->Unmap(block.data, block.capacity);
}

absl::StatusOr<Buffer> MemoryPool::Allocate(int64_t bytes, bool zeroed) {
  Buffer buffer;
  if (bytes <= 0) return buffer;
  const int64_t capacity = source_->Capacity(bytes);
  Block block = TakeKept(capacity);
  const bool fresh = block.data == nullptr;
  if (fresh) {
    absl::StatusOr<Block> mapped = MapNew(capacity);
    while (!mapped.ok() && reclaim_ && reclaim_()) mapped = MapNew(capacity);
    if (!mapped.ok()) return mapped.status();
    block = *mapped;
  }
  buffer.pool_ = this;
  buffer.data_ = block.data;
  buffer.bytes_ = bytes;
  buffer.capacity_ = block.capacity;
  if (zeroed && !(fresh && source_->fresh_is_zero())) source_->Zero(buffer.data_, bytes);
  std::lock_guard lock(mutex_);
  allocated_ += bytes;
  peak_ = std::max(peak_, allocated_);
  return buffer;
}

// Best fit, but never a block that would waste too much.
MemoryPool::Block MemoryPool::TakeKept(int64_t capacity) {
  std::lock_guard lock(mutex_);
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->capacity < capacity || it->capacity / options_.slack > capacity) continue;
    if (best == free_.end() || it->capacity < best->capacity) best = it;
  }
  if (best == free_.end()) return {};
  const Block block = *best;
  retained_ -= block.capacity;
  free_.erase(best);
  return block;
}

absl::StatusOr<MemoryPool::Block> MemoryPool::MapNew(int64_t capacity) {
  const int64_t limit = options_.limit_bytes;
  void* data = MapWithin(capacity, limit);
  if (data == nullptr) {  // once more, without what is kept
    std::vector<Block> kept;
    {
      std::lock_guard lock(mutex_);
      kept.swap(free_);
      for (const Block& block : kept) mapped_ -= block.capacity;
      retained_ = 0;
    }
    for (const Block& block : kept) source_->Unmap(block.data, block.capacity);
    if (!kept.empty()) data = MapWithin(capacity, limit);
  }
  if (data != nullptr) return Block{data, capacity};
  std::string text =
      absl::StrFormat("the system refused %d bytes of %s", capacity, source_->name());
  std::lock_guard lock(mutex_);
  if (limit > 0 && mapped_ + capacity > limit) {
    text = absl::StrFormat("%d bytes of %s do not fit beside %d of %d bytes", capacity,
                           source_->name(), mapped_, limit);
  }
  return WithReason(absl::ResourceExhaustedError(text), "OUT_OF_MEMORY");
}

// Null beyond the limit, or when the source refuses.
void* MemoryPool::MapWithin(int64_t capacity, int64_t limit) {
  {
    std::lock_guard lock(mutex_);
    if (limit > 0 && mapped_ + capacity > limit) return nullptr;
    mapped_ += capacity;
  }
  void* data = source_->Map(capacity);
  if (data == nullptr) {
    std::lock_guard lock(mutex_);
    mapped_ -= capacity;
  }
  return data;
}

void MemoryPool::Free(void* data, int64_t bytes, int64_t capacity) {
  {
    std::lock_guard lock(mutex_);
    allocated_ -= bytes;
    if (retained_ + capacity <= options_.retained_bytes) {
      retained_ += capacity;
      free_.push_back({data, capacity});
      return;
    }
    mapped_ -= capacity;
  }
  source_->Unmap(data, capacity);
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
