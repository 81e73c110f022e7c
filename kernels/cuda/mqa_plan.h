// How multi-query attention is spread over a device. Plain host code.
#pragma once

#include <cstdint>

namespace longdoc::kernels::cuda {

// The kernel of few rows (one 16-row tile; its warps split the keys) or of many (tiles of 64 or 128
// rows; its warps split the rows).
struct MqaPlan {
  int32_t row_tile = 16;  // 16, 64 or 128
  int64_t row_tiles = 0;  // of one sequence
  int64_t splits = 1;     // of the keys of every sequence
};

// `max_rows` query rows of each of `sequences` against up to `keys` keys, on `multiprocessors`.
//
// Minimises  waves · (blocks of a split + 4) + (splits > 1 ? 4 + splits / 32 : 0)  in units of one
// key block (0.45 us of a multiprocessor's share of 4.8 TB/s at head dim 64): a thread block costs
// about 2 us to start and end, the merge as much, and every split adds partial results to be
// written and read. A wave is one thread block per multiprocessor: a second one there would only
// share its bandwidth. No split is empty when every sequence has `keys` keys.
MqaPlan PlanMqa(int64_t max_rows, int64_t sequences, int64_t keys, int32_t multiprocessors);

}  // namespace longdoc::kernels::cuda
