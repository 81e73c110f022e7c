// Attention forward with mma.sync and cp.async, for sm_80 and, as PTX, every later architecture.
//
// A block of warps takes one item: a tile of 128 queries of one head against tiles of 64 keys, in
// the order of kernels/ranges.h. Every warp owns kRowTiles·16 rows from beginning to end, so that
// softmax needs no other warp. K and V of the next tile are copied while the current one is
// computed: two stages, one block-wide barrier per tile.
//
// Registers are the limit, at 255 a thread: state that is the same for all threads lies in shared
// memory, and addresses are made from few invariants by exclusive-or.
#pragma once

#include "kernels/cuda/attention_sm80_tile.cuh"

namespace longdoc::kernels::cuda {
namespace {  // NOLINT: internal linkage

// Sides that have ended.
constexpr int32_t kLeftBit = 1, kRightBit = 2;

// A TileWalk in half the registers: tiles of a sequence on the device fit 32 bits.
struct NarrowWalk {
  int32_t diagonal, left, right;
  bool right_is_next;

  __device__ __forceinline__ explicit NarrowWalk(const TileWalk& walk) { Set(walk); }
  __device__ __forceinline__ void Set(const TileWalk& walk) {
    diagonal = static_cast<int32_t>(walk.diagonal);
    left = static_cast<int32_t>(walk.left);
    right = static_cast<int32_t>(walk.right);
    right_is_next = walk.right_is_next;
  }
  // The next tile, after ending the sides in `ended`; −1 at the end.
  __device__ __forceinline__ int32_t Next(const KeyRange& range, int32_t ended, int32_t* side) {
    TileWalk walk = {diagonal, left, right, right_is_next};
    if ((ended & kLeftBit) != 0) EndSide(kTileLeft, &walk);
    if ((ended & kRightBit) != 0) EndSide(kTileRight, &walk);
    const int64_t tile = NextTile(range, &walk, side);
    Set(walk);
    return static_cast<int32_t>(tile);
  }
};

// Whether every row of the warp may leave out the tested tile and all beyond it.
template <class S>
__device__ __forceinline__ bool WarpMayEnd(const Sm80Shared<S>& shared, const WarpRows<S>& rows,
                                           const SideTest& test, int side) {
  bool may = true;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const RowBound& bound = BoundOf(shared, RowOf(m, h));
      const float sum = QuadSum(rows.sum[m][h]);
      may = may && MayEndSide<S::kGathered>(shared.item, test, side, bound, rows.max[m][h], sum);
    }
  }
  return __all_sync(0xffffffffu, may) != 0;
}

// Where the tile lies for the warp; false when the warp has nothing to do with it.
template <class S>
__device__ __forceinline__ bool PlaceWarpTile(const AttentionParams& p, Sm80Shared<S>* block,
                                              const WarpRows<S>& rows, const int32_t* positions,
                                              int32_t walk_side, WarpTile* at) {
  const Sm80Shared<S>& shared = *block;
  const KeyRange& range = shared.item.range;
  at->columns = static_cast<int>(Min(S::kKeys, range.tokens - int64_t{at->tile} * S::kKeys));
  int32_t first_key, last_key, first_row, last_row;
  if (S::kGathered) {
    first_key = positions[0];
    last_key = positions[S::kKeys - 1];
    first_row = BoundOf(shared, 0).place;
    last_row = BoundOf(shared, RowCount(shared) - 1).place;
  } else {
    first_key = at->tile * S::kKeys;
    last_key = first_key + S::kKeys - 1;
    first_row = static_cast<int32_t>(range.first_row) + FirstRow<S>();
    last_row = first_row + RowCount(shared) - 1;
  }
  at->side = last_key <= first_row ? kTileLeft : first_key >= last_row ? kTileRight : kTileDiagonal;
  at->offset = static_cast<float>(first_key - first_row);
  at->edge = at->side == kTileLeft ? last_key : first_key;
  at->masked = false;
  if (S::kGathered) {
    // The diagonal of a wide tile of queries is far from some of its warps.
    if (shared.item.rule != LoopRule::kC || walk_side != kTileDiagonal ||
        at->side == kTileDiagonal) {
      return true;
    }
    const SideTest test = MakeSideTest<S::kGathered>(p, shared.item, at->tile, at->side);
    return !WarpMayEnd<S>(shared, rows, test, at->side);
  }
  at->masked = !IsFull(range, first_row, RowCount(shared), at->tile);
  return !at->masked || PlaceMask<S>(block, at->tile);
}

template <class S>
__device__ __forceinline__ void VisitTile(const AttentionParams& p, const Sm80Shared<S>& shared,
                                          int stage, const WarpTile& at, WarpRows<S>* rows) {
  float s[S::kRowTiles][8][4], reference[S::kRowTiles][2];
  MultiplyKeys<S>(*rows, shared.k[stage], s);
  const float scale = p.scale * kLog2E;
  if (S::kGathered) {
    AddGatheredBias<S>(shared, scale, at, shared.positions[stage], s);
  } else {
    AddBias<S>(shared.item, scale, at, s);
    if (at.masked) ApplyMask<S>(shared, s);
  }
  MoveMaxima<S>(shared, at, s, rows, reference);
  MultiplyValues<S>(shared.v[stage], s, reference, rows);
}

// The copies of a tile into a stage, and the position of the key that this thread will put there.
template <class S>
__device__ __forceinline__ int32_t LoadTile(const AttentionParams& p, Sm80Shared<S>* shared,
                                            int stage, int32_t tile) {
  const AttentionItem& item = shared->item;
  const int64_t first = int64_t{tile} * S::kKeys, count = item.range.tokens - first;
  const int64_t row = item.k_begin + first, column = int64_t{item.kv_head} * p.head_dim;
  CopyRows<S, S::kKeys>(shared->k[stage],
                        static_cast<const typename S::T*>(p.k) + row * p.k_stride + column,
                        p.k_stride, count, p.head_dim);
  CopyRows<S, S::kKeys>(shared->v[stage],
                        static_cast<const typename S::T*>(p.v) + row * p.v_stride + column,
                        p.v_stride, count, p.head_dim);
  if (!S::kGathered || threadIdx.x >= S::kKeys) return 0;
  return p.k_positions[row + Min(threadIdx.x, count - 1)];
}

// Takes the next item that is not empty into shared memory; false at the end of the work.
template <class S>
__device__ __forceinline__ bool NextItem(const AttentionParams& p, Sm80Shared<S>* shared) {
  static_assert(sizeof(AttentionItem) % 8 == 0, "copied by words");
  constexpr int kWords = sizeof(AttentionItem) / 8;
  const int thread = static_cast<int>(threadIdx.x);
  do {
    __syncthreads();  // everyone is done with the last item
    if (thread == 0) shared->order = TakeItem(p);
    __syncthreads();
    const int64_t order = shared->order;
    if (order >= p.items) return false;
    if (thread < kWords) {
      reinterpret_cast<int64_t*>(&shared->item)[thread] =
          reinterpret_cast<const int64_t*>(p.work + order)[thread];
    }
    __syncthreads();
  } while (shared->item.range.rows == 0);
  return true;
}

template <class S>
__device__ __forceinline__ void StartRows(const AttentionParams& p, Sm80Shared<S>* shared,
                                          WarpRows<S>* rows) {
  static_assert(sizeof(RowBound) <= S::kRowBytes, "bounds lie where queries were");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  unsigned char* queries = shared->q + FirstRow<S>() * S::kRowBytes;
  const int start = FragmentStart<S>();
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int d = 0; d < S::kDim / 16; ++d) {
      LoadMatrixX4(rows->q[m][d], queries + m * 16 * S::kRowBytes + (start ^ d * 32));
    }
#pragma unroll
    for (int d = 0; d < S::kDim / 8; ++d) {
#pragma unroll
      for (int e = 0; e < 4; ++e) rows->o[m][d][e] = 0;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows->max[m][h] = kNoScore;
      rows->sum[m][h] = 0;
    }
  }
  __syncwarp();
  if (lane < S::kWarpRows) {
    reinterpret_cast<RowBound*>(queries)[lane] =
        MakeRowBound(p, shared->item, FirstRow<S>() + lane);
  }
  __syncwarp();
}

// The walk over one item's tiles; `rows` of this warp. Returns the tiles that any warp used.
template <class S>
__device__ __forceinline__ int32_t WalkItem(const AttentionParams& p, Sm80Shared<S>* shared,
                                            WarpRows<S>* rows) {
  const AttentionItem& item = shared->item;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int32_t ended = RowCount(*shared) > 0 ? 0 : kLeftBit | kRightBit;  // of this warp
  NarrowWalk walk(StartWalk(item.range));
  int32_t side = kTileDiagonal;
  WarpTile at;
  at.tile = walk.Next(item.range, 0, &side);
  int32_t position = 0;
  if (at.tile >= 0) position = LoadTile<S>(p, shared, 0, at.tile);
  CopyAsyncCommit();
  SideTest test = MakeSideTest<S::kGathered>(p, item, at.tile, at.tile < 0 ? kTileDiagonal : side);
  CopyAsyncWait<0>();
  __syncthreads();
  StartRows<S>(p, shared, rows);
  int32_t used = 0;
  for (int stage = 0; at.tile >= 0; stage ^= 1) {
    const int32_t bit = side == kTileLeft ? kLeftBit : side == kTileRight ? kRightBit : 0;
    if (bit != 0 && (ended & bit) == 0 && item.rule != LoopRule::kNone &&
        WarpMayEnd<S>(*shared, *rows, test, side)) {
      ended |= bit;
    }
    if (lane == 0) shared->ended[stage][warp] = ended;
    if (S::kGathered && threadIdx.x < S::kKeys) shared->positions[stage][threadIdx.x] = position;
    CopyAsyncWait<0>();
    __syncthreads();
    int32_t all_ended = kLeftBit | kRightBit;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) all_ended &= shared->ended[stage][w];
    if ((all_ended & bit) == 0) ++used;
    const int32_t walk_side = side;
    const int32_t next = walk.Next(item.range, all_ended, &side);
    if (next >= 0) {
      position = LoadTile<S>(p, shared, stage ^ 1, next);
      test = MakeSideTest<S::kGathered>(p, item, next, side);
    }
    CopyAsyncCommit();
    if ((ended & bit) == 0 && RowCount(*shared) > 0 &&
        PlaceWarpTile<S>(p, shared, *rows, shared->positions[stage], walk_side, &at)) {
      VisitTile<S>(p, *shared, stage, at, rows);
    }
    at.tile = next;
  }
  return used;
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    Sm80Kernel(const AttentionParams p) {
  auto* shared = reinterpret_cast<Sm80Shared<S>*>(DynamicShared());
  WarpRows<S> rows;
  while (NextItem<S>(p, shared)) {
    const AttentionItem& item = shared->item;
    CopyRows<S, S::kQueries>(shared->q,
                             static_cast<const typename S::T*>(p.q) + item.q_begin * p.q_stride +
                                 int64_t{item.head} * p.head_dim,
                             p.q_stride, item.range.rows, p.head_dim);
    const int32_t used = WalkItem<S>(p, shared, &rows);
    if (threadIdx.x == 0) AddTilesComputed(p, item, used);
    StoreRows<S>(p, *shared, rows);
  }
}

template <class S>
cudaError_t LaunchSm80Kernel(const AttentionParams& p, int multiprocessors, cudaStream_t stream) {
  // Persistent blocks, as many as stay resident; fewer when there is less work.
  const int64_t blocks = Min(p.items, int64_t{multiprocessors} * S::kBlocksPerSm);
  return Launch(Sm80Kernel<S>, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads),
                sizeof(Sm80Shared<S>), stream, p);
}

template <typename T>
cudaError_t LaunchSm80(const AttentionParams& p, int multiprocessors, cudaStream_t stream) {
  const int slot = (p.head_dim <= 32 ? 0 : p.head_dim <= 64 ? 2 : 4) + (p.gathered ? 1 : 0);
  constexpr cudaError_t (*kLaunches[])(const AttentionParams&, int, cudaStream_t) = {
      LaunchSm80Kernel<Sm80Shape<T, 32, false>>,  LaunchSm80Kernel<Sm80Shape<T, 32, true>>,
      LaunchSm80Kernel<Sm80Shape<T, 64, false>>,  LaunchSm80Kernel<Sm80Shape<T, 64, true>>,
      LaunchSm80Kernel<Sm80Shape<T, 128, false>>, LaunchSm80Kernel<Sm80Shape<T, 128, true>>,
  };
  return kLaunches[slot](p, multiprocessors, stream);
}

}  // namespace
}  // namespace longdoc::kernels::cuda
