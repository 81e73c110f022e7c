// Multi-query attention on the CPU: key blocks as a document or a cache keeps them, and the run of
// a table or of the reference over them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu_kernels.h"
#include "kernels/decode.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/mqa_case.h"
#include "tests/kernels/test_data.h"

namespace longdoc::kernels::testing {

// The functions under test: those of a table, or the reference.
struct MqaFunctions {
  void (*store)(const MqaStoreArgs& args);
  int64_t (*scratch_bytes)(int64_t rows, int32_t head_dim);
  void (*partial)(const MqaPartialArgs& args);
  void (*merge)(const MqaMergeArgs& args);
};

inline MqaFunctions Of(const CpuKernels& kernels) {
  return {kernels.MqaStore, kernels.MqaScratchBytes, kernels.MqaPartial, kernels.MqaMerge};
}

inline MqaFunctions Reference() {
  return {reference::MqaStore, [](int64_t, int32_t) -> int64_t { return 0; }, reference::MqaPartial,
          reference::MqaMerge};
}

// Key blocks in pages of `page_blocks`, in an order that is not that of the keys.
class KeyStore {
 public:
  KeyStore(const MqaFunctions& functions, const MqaCase& c, const MqaTensors& t)
      : block_bytes_(MqaBlockBytes(c.dim, c.storage)) {
    const int64_t blocks = CeilDiv(c.keys, kKeyBlock);
    const int64_t page_blocks = c.page_blocks > 0 ? c.page_blocks : std::max<int64_t>(blocks, 1);
    const int64_t pages = CeilDiv(blocks, page_blocks);
    memory_ = std::make_unique<Buffer>(pages * page_blocks * block_bytes_, 0);
    std::vector<int64_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(99));
    for (int64_t page : order) {
      pages_.push_back(static_cast<char*>(memory_->get()) + page * page_blocks * block_bytes_);
    }
    keys_.keys = c.keys;
    keys_.head_dim = c.dim;
    keys_.storage = c.storage;
    if (c.page_blocks > 0) {
      keys_.pages = pages_.data();
      keys_.page_blocks = page_blocks;
    } else {
      keys_.blocks = memory_->get();
    }
    Store(functions, c, t);
    EXPECT_TRUE(memory_->GuardIntact());
  }

  const MqaKeys& keys() const { return keys_; }
  void* Block(int64_t b) const {
    if (keys_.pages == nullptr) return static_cast<char*>(memory_->get()) + b * block_bytes_;
    return const_cast<char*>(static_cast<const char*>(pages_[b / keys_.page_blocks])) +
           b % keys_.page_blocks * block_bytes_;
  }

 private:
  // Pieces of store_rows, cut at block borders; keys and values side by side with a gap.
  void Store(const MqaFunctions& functions, const MqaCase& c, const MqaTensors& t) {
    const int64_t stride = 2 * c.dim + 5;
    std::vector<float> rows(kKeyBlock * stride);
    for (int64_t begin = 0; begin < c.keys;) {
      const int64_t first = begin % kKeyBlock;
      const int64_t count = std::min({c.store_rows, kKeyBlock - first, c.keys - begin});
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(t.k.data() + (begin + r) * c.dim, c.dim, rows.data() + r * stride);
        std::copy_n(t.v.data() + (begin + r) * c.dim, c.dim, rows.data() + r * stride + c.dim);
      }
      MqaStoreArgs args;
      args.first = first;
      args.rows = count;
      args.head_dim = c.dim;
      args.storage = c.storage;
      args.keys = rows.data();
      args.values = rows.data() + c.dim;
      args.stride = stride;
      args.block = Block(begin / kKeyBlock);
      functions.store(args);
      begin += count;
    }
  }

  const int64_t block_bytes_;
  std::unique_ptr<Buffer> memory_;
  std::vector<const void*> pages_;
  MqaKeys keys_;
};

// All parts and their merge. `keys` may differ from the case's (fewer keys of the same blocks).
inline std::vector<float> Attend(const MqaFunctions& functions, const MqaCase& c,
                                 const MqaTensors& t, const MqaKeys& keys) {
  const int64_t blocks = CeilDiv(keys.keys, kKeyBlock);
  std::vector<float> out(c.parts * c.rows * c.dim, NAN), max(c.parts * c.rows, NAN), sum = max;
  const Buffer scratch(functions.scratch_bytes(c.rows, c.dim), 0xff);
  for (int64_t p = 0; p < c.parts; ++p) {
    MqaPartialArgs args;
    args.keys = keys;
    args.block_begin = blocks * p / c.parts;
    args.block_end = blocks * (p + 1) / c.parts;
    args.scale = ScaleOf(c);
    args.rows = c.rows;
    args.q = t.q.data();
    args.slopes = c.causal ? t.slopes.data() : nullptr;
    args.positions = c.causal ? t.positions.data() : nullptr;
    args.out = out.data() + p * c.rows * c.dim;
    args.max = max.data() + p * c.rows;
    args.sum = sum.data() + p * c.rows;
    args.scratch = scratch.get();
    functions.partial(args);
  }
  EXPECT_TRUE(scratch.GuardIntact());
  std::vector<float> merged(c.rows * c.dim, NAN);
  std::vector<uint16_t> bf16(c.rows * c.dim);
  MqaMergeArgs args;
  args.parts = c.parts;
  args.rows = c.rows;
  args.head_dim = c.dim;
  args.partial_out = out.data();
  args.partial_max = max.data();
  args.partial_sum = sum.data();
  args.out_type = c.out_type;
  args.out = c.out_type == DType::kF32 ? static_cast<void*>(merged.data()) : bf16.data();
  functions.merge(args);
  if (c.out_type == DType::kBF16)
    std::transform(bf16.begin(), bf16.end(), merged.begin(), FromBf16);
  return merged;
}

inline std::vector<float> RunMqa(const MqaFunctions& functions, const MqaCase& c,
                                 const MqaTensors& t) {
  const KeyStore store(functions, c, t);
  return Attend(functions, c, t, store.keys());
}

}  // namespace longdoc::kernels::testing
