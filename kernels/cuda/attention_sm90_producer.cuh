// The producer of the sm_90a attention kernel: one warp that takes work items, walks their tiles
// and loads them, see attention_sm90.cu. It has 32 registers, hence 32-bit ranges.
#pragma once

#include "kernels/cuda/attention_sm90.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)

namespace longdoc::kernels::cuda {
namespace {

// What warpgroup `group` does with a tile.
template <bool kGathered>
__device__ __forceinline__ int32_t ClassOf(const ItemRange& range, int group, int32_t tile,
                                           int32_t side) {
  const int32_t first = range.first_row + 64 * group;
  const int32_t rows = Least(64, range.rows - 64 * group);
  if (rows <= 0 || tile < 0) return kSkipTile;
  const int32_t last = first + rows - 1;
  const int32_t key = tile * range.tile_keys, last_key = key + range.tile_keys - 1;
  if (kGathered) {
    return side != kTileDiagonal && last_key < range.tokens ? kSideTile : kGeneralTile;
  }
  if (range.listed && !IsListed(range, first < range.split ? 0 : 1, tile)) return kSkipTile;
  if (range.causal && key > last) return kSkipTile;
  if (range.radius >= 0 && first >= range.globals && key >= range.globals &&
      (last_key < first - range.radius || key > last + range.radius)) {
    return kSkipTile;
  }
  const bool one_side = last_key <= first || key >= last;
  return one_side && IsFull(range, first, rows, tile) ? kSideTile : kGeneralTile;
}

// Copies an item and what is known of its rows to shared memory; by the whole warp.
template <int kDim, bool kGathered>
__device__ void StageItem(const AttentionParams& p, const AttentionItem& source, int slot, int lane,
                          Sm90Shared<kDim>* shared) {
  static_assert(sizeof(AttentionItem) % 4 == 0, "copied by words");
  const uint32_t* from = reinterpret_cast<const uint32_t*>(&source);
  uint32_t* to = reinterpret_cast<uint32_t*>(&shared->items[slot]);
  for (int i = lane; i < static_cast<int>(sizeof(AttentionItem) / 4); i += 32) to[i] = from[i];
  if (kGathered || source.rule != LoopRule::kNone) {
    for (int row = lane; row < Sm90Shape<kDim>::kRows; row += 32) {
      shared->rows[slot][row] = MakeRowBound(p, source, row);
    }
  }
  if (lane == 0) {
    shared->ranges[slot] = Narrowed(source.range);
    shared->live[slot] = 1;
  }
  __syncwarp();
}

// Positions of a tile's keys, and their distances from the key next to the rows; by the whole warp.
template <int kDim>
__device__ __forceinline__ void StagePositions(const AttentionParams& p, const AttentionItem& item,
                                               int32_t tile, int32_t side, int stage, int lane,
                                               Sm90Shared<kDim>* shared) {
  constexpr int kKeys = Sm90Shape<kDim>::kKeys;
  const int32_t* keys = p.k_positions + item.k_begin + int64_t{tile} * kKeys;
  const int32_t last = shared->tiles[stage].keys - 1;
  const int32_t edge = keys[side == kTileLeft ? last : 0];
  for (int i = lane; i < kKeys; i += 32) {
    const int32_t position = keys[Least<int32_t>(i, last)];
    shared->positions[stage][i] = position;
    const int32_t apart = side == kTileLeft ? edge - position : position - edge;
    shared->distances[stage][i] = static_cast<float>(apart);
  }
}

// Ends the sides that all warpgroups have ended; by the whole warp. They write meanwhile: what one
// lane has read counts for all, which must walk the same way.
template <int kDim>
__device__ void EndSides(const Sm90Shared<kDim>& shared, int number, BasicTileWalk<int32_t>* walk) {
  int32_t ended = kTileLeft | kTileRight;
  for (int g = 0; g < Sm90Shape<kDim>::kGroups; ++g) {
    const int32_t flags = shared.ended[g];
    ended &= flags >> 2 == number ? flags & 3 : 0;
  }
  ended = __shfl_sync(0xffffffff, ended, 0);
  if (ended & kTileLeft) EndSide(kTileLeft, walk);
  if (ended & kTileRight) EndSide(kTileRight, walk);
}

// 64-column chunks of `rows` rows into `to`.
template <int kDim>
__device__ void LoadRows(unsigned char* to, const CUtensorMap* map, uint64_t* barrier, int rows,
                         int head, int first_row) {
#pragma unroll
  for (int c = 0; c < Sm90Shape<kDim>::kChunks; ++c) {
    TmaLoad3D(to + c * rows * 128, map, barrier, 64 * c, head, first_row);
  }
}

// All tiles of the item in `slot`, and the stage that ends it.
template <int kDim, bool kGathered>
__device__ void LoadTiles(const AttentionParams& p, const CUtensorMap* k_map,
                          const CUtensorMap* v_map, int slot, int number, int lane,
                          Ring<Sm90Shape<kDim>::kStages>* ring, Sm90Shared<kDim>* shared) {
  using Shape = Sm90Shape<kDim>;
  const AttentionItem& item = shared->items[slot];
  const ItemRange& range = shared->ranges[slot];
  BasicTileWalk<int32_t> walk = StartWalk(range);
  int32_t tile = 0;
  bool first = true;
  while (tile >= 0) {
    const int stage = ring->stage;
    BarrierWait(&shared->k_empty[stage], ring->parity ^ 1);
    if (item.rule != LoopRule::kNone) EndSides(*shared, number, &walk);
    int32_t side = kTileDiagonal;
    tile = NextTile(range, &walk, &side);
    const int first_key = static_cast<int>(item.k_begin) + tile * Shape::kKeys;
    StagedTile& staged = shared->tiles[stage];
    if (lane < Shape::kGroups) {
      staged.classes[lane] = ClassOf<kGathered>(range, lane, tile, side);
    }
    if (lane == 0) {
      staged.tile = tile;
      staged.side = side;
      staged.keys = Least(+Shape::kKeys, range.tokens - tile * Shape::kKeys);
      staged.used = 0;
      if (tile >= 0) staged.test = MakeSideTest<kGathered>(p, item, tile, side);
    }
    __syncwarp();
    if (kGathered && tile >= 0) {
      StagePositions(p, item, tile, side, stage, lane, shared);
      __syncwarp();
    }
    if (lane == 0) {
      if (tile >= 0) {
        BarrierArriveExpect(&shared->k_full[stage], Shape::kTileBytes);
        LoadRows<kDim>(shared->k[stage], k_map, &shared->k_full[stage], Shape::kKeys, item.kv_head,
                       first_key);
      } else {
        BarrierArrive(&shared->k_full[stage]);
      }
    }
    BarrierWait(&shared->v_empty[stage], ring->parity ^ 1);
    if (lane == 0) {
      if (tile >= 0) {
        BarrierArriveExpect(&shared->v_full[stage], Shape::kTileBytes);
        LoadRows<kDim>(shared->v[stage], v_map, &shared->v_full[stage], Shape::kKeys, item.kv_head,
                       first_key);
      } else {
        BarrierArrive(&shared->v_full[stage]);
      }
    }
    if (first && lane == 0) shared->next_item = TakeItem(p);  // early: it is a long way
    first = false;
    ring->Advance();
  }
}

template <int kDim, bool kGathered>
__device__ void Produce(const AttentionParams& p, const CUtensorMap* q_map,
                        const CUtensorMap* k_map, const CUtensorMap* v_map, int lane,
                        Sm90Shared<kDim>* shared) {
  using Shape = Sm90Shape<kDim>;
  Ring<Shape::kStages> ring;
  int number = 0;  // of items in this block
  if (lane == 0) shared->next_item = TakeItem(p);
  for (;;) {
    __syncwarp();
    const int64_t work = shared->next_item;
    if (work >= p.items) break;
    const AttentionItem& source = p.work[work];
    if (source.range.rows == 0) {
      __syncwarp();
      if (lane == 0) shared->next_item = TakeItem(p);
      continue;
    }
    const int slot = number & 1;
    BarrierWait(&shared->q_empty[slot], ((number >> 1) & 1) ^ 1);
    StageItem<kDim, kGathered>(p, source, slot, lane, shared);
    if (lane == 0) {
      BarrierArriveExpect(&shared->q_full[slot], Shape::kQueryBytes);
      LoadRows<kDim>(shared->q[slot], q_map, &shared->q_full[slot], Shape::kRows, source.head,
                     static_cast<int>(source.q_begin));
    }
    LoadTiles<kDim, kGathered>(p, k_map, v_map, slot, number, lane, &ring, shared);
    ++number;
  }
  const int slot = number & 1;
  BarrierWait(&shared->q_empty[slot], ((number >> 1) & 1) ^ 1);
  if (lane == 0) {
    shared->live[slot] = 0;
    BarrierArrive(&shared->q_full[slot]);
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda

#endif
