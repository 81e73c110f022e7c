// Keys and values of decoder self-attention, in pages that sequences with a common prefix share.
//
//   page:  kKvPageTokens tokens × every decoder layer; layer l's blocks follow layer l − 1's
//
// A page belongs to all sequences that hold it and is freed with the last of them. Only whole pages
// are ever shared by two writers' futures: a sequence that grows into a partial page which another
// one holds, too, gets a copy of its own first.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/memory_pool.h"
#include "engine/tensor.h"
#include "kernels/decode.h"

namespace longdoc {

inline constexpr int64_t kKvPageBlocks = 2;
inline constexpr int64_t kKvPageTokens = kKvPageBlocks * kernels::kKeyBlock;

constexpr int64_t KvPages(int64_t tokens) { return kernels::CeilDiv(tokens, kKvPageTokens); }

struct KvShape {
  int64_t layers = 0;
  int32_t head_dim = 0;
  DType storage = DType::kF32;

  int64_t layer_bytes() const {  // of one layer in a page
    return kKvPageBlocks * kernels::MqaBlockBytes(head_dim, storage);
  }
  int64_t page_bytes() const { return layers * layer_bytes(); }
};

// Counts pages against a limit; thread-safe. Outlives its pages, and `memory` outlives it.
class KvPagePool {
 public:
  class Page {
   public:
    Page(KvPagePool& pool, Buffer memory) : pool_(pool), memory_(std::move(memory)) {}
    Page(const Page&) = delete;
    Page& operator=(const Page&) = delete;
    ~Page() { pool_.bytes_ -= memory_.bytes(); }
    char* data() const { return memory_.as<char>(); }

   private:
    KvPagePool& pool_;
    Buffer memory_;
  };

  KvPagePool(MemoryPool& memory, int64_t limit_bytes) : memory_(memory), limit_(limit_bytes) {}
  KvPagePool(const KvPagePool&) = delete;
  KvPagePool& operator=(const KvPagePool&) = delete;

  // A page filled with zeros. RESOURCE_EXHAUSTED beyond the limit, or when the system refuses.
  absl::StatusOr<std::shared_ptr<Page>> Allocate(int64_t bytes);

  MemoryPool& memory() { return memory_; }
  int64_t bytes() const { return bytes_; }  // in live pages; a shared one counts once
  int64_t limit_bytes() const { return limit_; }

 private:
  MemoryPool& memory_;
  const int64_t limit_;
  std::atomic<int64_t> bytes_{0};
};

// The pages of one sequence, in order. Movable; confined to its owner, but what it points to may be
// read by many threads, and written by many at different positions, while it does not grow.
class KvSequence {
 public:
  KvSequence(KvPagePool& pool, const KvShape& shape)
      : pool_(&pool), shape_(shape), tables_(static_cast<size_t>(shape.layers)) {}
  KvSequence(KvSequence&&) = default;
  KvSequence& operator=(KvSequence&&) = default;

  int64_t tokens() const { return tokens_; }
  int64_t pages() const { return static_cast<int64_t>(pages_.size()); }

  // Makes room for `tokens` more positions. On failure nothing has changed but spare pages.
  absl::Status Extend(int64_t tokens);
  // Begins this, which is empty, with the first `pages` pages of `other`, all of them full there.
  void SharePrefix(const KvSequence& other, int64_t pages);
  // Another sequence that continues from here; both share every page until they grow.
  KvSequence Fork() const;

  // The block of `layer` that holds `position`, for MqaStore.
  void* Block(int64_t layer, int64_t position) const;
  // Valid until this grows or goes.
  kernels::MqaKeys Keys(int64_t layer) const;
  const void* page(int64_t index) const { return pages_[index]->data(); }

 private:
  KvSequence(const KvSequence&) = default;
  absl::Status OwnLastPage();
  void SetPage(int64_t index, std::shared_ptr<KvPagePool::Page> page);

  KvPagePool* pool_;
  KvShape shape_;
  int64_t tokens_ = 0;
  std::vector<std::shared_ptr<KvPagePool::Page>> pages_;
  std::vector<std::vector<const void*>> tables_;  // [layers][pages]
};

}  // namespace longdoc
