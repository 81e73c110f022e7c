// A problem of multi-query attention, on the device and by the reference.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/mqa_case.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {

using kernels::testing::MqaTensors;
using kernels::testing::RoundTo;

// Cut into parts and stored by the device as it likes; in 16 bits.
struct MqaCase : kernels::testing::MqaCase {
  MqaCase() { storage = DType::kBF16; }
};

// In fp32: the tensors are rounded already.
inline std::vector<float> RunReference(const MqaCase& c, const MqaTensors& t) {
  const int64_t blocks = CeilDiv(c.keys, kKeyBlock);
  std::vector<float> memory(blocks * kKeyBlock * 2 * c.dim);
  for (int64_t b = 0; b < blocks; ++b) {
    MqaStoreArgs store;
    store.rows = std::min(kKeyBlock, c.keys - b * kKeyBlock);
    store.head_dim = c.dim;
    store.keys = t.k.data() + b * kKeyBlock * c.dim;
    store.values = t.v.data() + b * kKeyBlock * c.dim;
    store.stride = c.dim;
    store.block = memory.data() + b * kKeyBlock * 2 * c.dim;
    reference::MqaStore(store);
  }
  std::vector<float> out(c.rows * c.dim), max(c.rows), sum(c.rows);
  MqaPartialArgs args;
  args.keys.keys = c.keys;
  args.keys.head_dim = c.dim;
  args.keys.blocks = memory.data();
  args.block_end = blocks;
  args.scale = ScaleOf(c);
  args.rows = c.rows;
  args.q = t.q.data();
  args.slopes = c.causal ? t.slopes.data() : nullptr;
  args.positions = c.causal ? t.positions.data() : nullptr;
  args.out = out.data();
  args.max = max.data();
  args.sum = sum.data();
  reference::MqaPartial(args);
  MqaMergeArgs merge;
  merge.parts = 1;
  merge.rows = c.rows;
  merge.head_dim = c.dim;
  merge.partial_out = out.data();
  merge.partial_max = max.data();
  merge.partial_sum = sum.data();
  std::vector<float> merged(c.rows * c.dim);
  merge.out = merged.data();
  reference::MqaMerge(merge);
  return merged;
}

// Key blocks in device memory, contiguous or in pages that lie in another order. What is not
// stored is NaN.
class DeviceKeys {
 public:
  DeviceKeys(const MqaCase& c, const MqaTensors& t)
      : page_blocks_(c.page_blocks > 0 ? c.page_blocks : CeilDiv(c.keys, kKeyBlock) + 1),
        pages_(CeilDiv(c.keys, page_blocks_ * kKeyBlock)),
        page_bytes_(page_blocks_ * MqaBlockBytes(c.dim, c.storage)),
        memory_(pages_ * page_bytes_),
        table_(pages_) {
    std::vector<const void*> table;
    for (int64_t page = 0; page < pages_; ++page)
      table.push_back(memory_.data() + page * page_bytes_);
    std::shuffle(table.begin(), table.end(), std::mt19937(99));
    if (pages_ > 0) {
      EXPECT_OK(
          cudaMemcpy(table_.data(), table.data(), pages_ * sizeof(void*), cudaMemcpyHostToDevice));
    }
    keys_.keys = c.keys;
    keys_.head_dim = c.dim;
    keys_.storage = c.storage;
    keys_.page_blocks = page_blocks_;
    if (c.page_blocks > 0) {
      keys_.pages = table_.data();
    } else {
      keys_.blocks = memory_.data();
    }
    Store(c, t, table);
  }

  const MqaKeys& keys() const { return keys_; }

 private:
  void Store(const MqaCase& c, const MqaTensors& t, const std::vector<const void*>& table) {
    const DeviceArray<float> k(t.k), v(t.v);
    const int64_t page_keys = page_blocks_ * kKeyBlock;
    for (int64_t page = 0; page < pages_; ++page) {
      const int64_t begin = page * page_keys;
      MqaStoreArgs args;
      args.rows = std::min(page_keys, c.keys - begin);
      args.head_dim = c.dim;
      args.storage = c.storage;
      args.keys = k.data() + begin * c.dim;
      args.values = v.data() + begin * c.dim;
      args.stride = c.dim;
      args.block = const_cast<void*>(table[page]);
      EXPECT_OK(MqaStore(args, nullptr));
    }
  }

  const int64_t page_blocks_, pages_, page_bytes_;
  DeviceArray<uint8_t> memory_;
  DeviceArray<const void*> table_;
  MqaKeys keys_;
};

// The output's elements as floats.
inline std::vector<float> Floats(DType type, const DeviceArray<uint8_t>& memory) {
  const std::vector<uint8_t> bytes = memory.Download();
  std::vector<float> out(bytes.size() / SizeOf(type));
  for (size_t i = 0; i < out.size(); ++i) out[i] = reference::LoadAs(type, bytes.data(), i);
  return out;
}

// `keys` may differ from the case's (fewer keys of the same blocks).
inline std::vector<float> Attend(const MqaCase& c, const MqaTensors& t, const MqaKeys& keys) {
  const DeviceArray<float> q(t.q), slopes(t.slopes);
  const DeviceArray<int32_t> positions(t.positions);
  const DeviceArray<uint8_t> out(c.rows * c.dim * static_cast<int64_t>(SizeOf(c.out_type)));
  MqaArgs args;
  args.partial.keys = keys;
  args.partial.scale = ScaleOf(c);
  args.partial.rows = c.rows;
  args.partial.q = q.data();
  args.partial.slopes = c.causal ? slopes.data() : nullptr;
  args.partial.positions = c.causal ? positions.data() : nullptr;
  args.out_type = c.out_type;
  args.out = out.data();
  const DeviceArray<uint8_t> workspace(MqaWorkspaceBytes(args));
  args.workspace = workspace.data();
  EXPECT_OK(Mqa(args, nullptr));
  return Floats(c.out_type, out);
}

inline std::vector<float> RunDevice(const MqaCase& c, const MqaTensors& t) {
  const DeviceKeys keys(c, t);
  return Attend(c, t, keys.keys());
}

// Weights are rounded to the storage type; relative to the largest value.
inline double MqaTolerance(const MqaCase& c) {
  return (c.storage == DType::kBF16 ? kernels::testing::kBf16 : 0x1p-11) +
         kernels::testing::kAttentionF32;
}

inline bool ExpectMqa(const std::vector<float>& out, const MqaCase& c, const MqaTensors& t) {
  return EXPECT_CLOSE(out, RunReference(c, t), MqaTolerance(c), std::max(1.0, MaxAbs(t.v)));
}

}  // namespace longdoc::kernels::cuda::parity
