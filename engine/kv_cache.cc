#include "engine/kv_cache.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace longdoc {

absl::StatusOr<std::shared_ptr<KvPagePool::Page>> KvPagePool::Allocate(int64_t bytes) {
  const int64_t before = bytes_.fetch_add(bytes);
  if (before + bytes > limit_) {
    bytes_ -= bytes;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the decoder's cache is full: a page of %d bytes does not fit beside %d of %d bytes", bytes,
        before, limit_));
  }
  absl::StatusOr<Buffer> memory = memory_.Allocate(bytes, /*zeroed=*/true);
  if (!memory.ok()) {
    bytes_ -= bytes;
    return memory.status();
  }
  return std::make_shared<Page>(*this, *std::move(memory));
}

void KvSequence::SetPage(int64_t index, std::shared_ptr<KvPagePool::Page> page) {
  const size_t i = static_cast<size_t>(index);
  if (i == pages_.size()) {
    pages_.emplace_back();
    for (auto& table : tables_) table.push_back(nullptr);
  }
  for (size_t l = 0; l < tables_.size(); ++l) {
    tables_[l][i] = page->data() + static_cast<int64_t>(l) * shape_.layer_bytes();
  }
  pages_[i] = std::move(page);
}

// Nobody else can take hold of a page that only this sequence holds, so the count is exact where it
// matters.
absl::Status KvSequence::OwnLastPage() {
  if (tokens_ % kKvPageTokens == 0 || pages_[KvPages(tokens_) - 1].use_count() == 1) {
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::shared_ptr<KvPagePool::Page> copy, pool_->Allocate(shape_.page_bytes()));
  const int64_t last = KvPages(tokens_) - 1;
  pool_->memory().Copy(copy->data(), pages_[last]->data(), shape_.page_bytes());
  SetPage(last, std::move(copy));
  return absl::OkStatus();
}

absl::Status KvSequence::Extend(int64_t tokens) {
  LD_CHECK(tokens >= 0);
  if (tokens == 0) return absl::OkStatus();
  RETURN_IF_ERROR(OwnLastPage());
  while (pages() < KvPages(tokens_ + tokens)) {
    ASSIGN_OR_RETURN(std::shared_ptr<KvPagePool::Page> page, pool_->Allocate(shape_.page_bytes()));
    SetPage(pages(), std::move(page));
  }
  tokens_ += tokens;
  return absl::OkStatus();
}

void KvSequence::SharePrefix(const KvSequence& other, int64_t pages) {
  LD_CHECK(pages_.empty() && pages * kKvPageTokens <= other.tokens_);
  for (int64_t i = 0; i < pages; ++i) SetPage(i, other.pages_[i]);
  tokens_ = pages * kKvPageTokens;
}

KvSequence KvSequence::Fork() const {
  KvSequence fork(*this);
  fork.pages_.resize(KvPages(tokens_));  // spare pages stay here
  for (auto& table : fork.tables_) table.resize(fork.pages_.size());
  return fork;
}

void* KvSequence::Block(int64_t layer, int64_t position) const {
  const int64_t page = position / kKvPageTokens;
  const int64_t block = position % kKvPageTokens / kernels::kKeyBlock;
  return pages_[page]->data() + layer * shape_.layer_bytes() +
         block * kernels::MqaBlockBytes(shape_.head_dim, shape_.storage);
}

kernels::MqaKeys KvSequence::Keys(int64_t layer) const {
  kernels::MqaKeys keys;
  keys.keys = tokens_;
  keys.head_dim = shape_.head_dim;
  keys.storage = shape_.storage;
  keys.pages = tables_[layer].data();
  keys.page_blocks = kKvPageBlocks;
  return keys;
}

}  // namespace longdoc
