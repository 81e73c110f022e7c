#include "kernels/cuda/mqa_plan.h"

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/types.h"

namespace longdoc::kernels::cuda {
namespace {

constexpr int64_t kBlockOverhead = 4;    // of a thread block, in key blocks
constexpr int64_t kMergeOverhead = 4;    // of the merge
constexpr int64_t kSplitsPerBlock = 32;  // splits whose partial results cost one key block
constexpr int64_t kMaxWaves = 8;         // beyond, splitting gains less than 1/8

}  // namespace

MqaPlan PlanMqa(int64_t max_rows, int64_t sequences, int64_t keys, int32_t multiprocessors) {
  MqaPlan plan;
  plan.row_tile = max_rows <= 16 ? 16 : max_rows <= 64 ? 64 : 128;
  plan.row_tiles = CeilDiv(max_rows, plan.row_tile);
  const int64_t tiles = std::max<int64_t>(plan.row_tiles * sequences, 1);
  const int64_t blocks = CeilDiv(keys, kKeyBlock);
  int64_t best = CeilDiv(tiles, multiprocessors) * (blocks + kBlockOverhead);  // unsplit
  // Of all splits with as many waves, the most have the least to do.
  for (int64_t waves = 1; waves <= kMaxWaves; ++waves) {
    const int64_t most = std::min(waves * multiprocessors / tiles, blocks);
    if (most < 2) continue;
    const int64_t each = CeilDiv(blocks, most);
    const int64_t splits = CeilDiv(blocks, each);
    const int64_t cost = CeilDiv(tiles * splits, multiprocessors) * (each + kBlockOverhead) +
                         kMergeOverhead + splits / kSplitsPerBlock;
    if (cost < best) {
      best = cost;
      plan.splits = splits;
    }
  }
  return plan;
}

}  // namespace longdoc::kernels::cuda
