// FlashAttention forward for Hopper: TMA loads, wgmma products, specialised warps, persistent
// blocks.
//
// A block has one producer warp and two or three consumer warpgroups of 64 query rows each. The
// producer takes work items by the launch's counter, walks their key tiles (kernels/ranges.h) and
// fills a ring of K and V stages; with every stage it says which tile it holds and what each
// warpgroup should do with it. A stage without a tile ends the item. Queries have two buffers, so
// that the next item's arrive while this one's tiles are computed.
//
// A consumer warpgroup issues the scores of tile j and right behind them the product of tile j −
// 1's weights and values, whose end it awaits only after the softmax of tile j. Warpgroups take
// turns in issuing (named barriers), so that one's softmax runs under another's products. Rules B
// and C are asked before every tile; a warpgroup whose rows have all ended a side skips what still
// arrives of it, and the producer stops loading the side when all warpgroups have ended it.
//
// Queries are read by TMA before anything of the item is written, and no other item uses those
// rows; so the output may overwrite them.
#include "kernels/cuda/attention_sm90.cuh"
#include "kernels/cuda/attention_sm90_producer.cuh"

namespace longdoc::kernels::cuda {
namespace {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)

// Named barriers; 0 is __syncthreads.
constexpr int kTurnBarrier = 1;   // + group: the group may issue its products
constexpr int kGroupBarrier = 4;  // + group: the group's own threads

// ---- consumers ----------------------------------------------------------------------------------

// A consumer thread's place. Read anew wherever it is needed, since registers are short.
__device__ __forceinline__ int Thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int Lane() { return Thread() % 32; }
__device__ __forceinline__ int Group() { return Thread() / 128 - 1; }  // consumers of the block
__device__ __forceinline__ int Warp() { return Thread() / 32 % 4; }    // of the group
__device__ __forceinline__ bool IsLeader() { return Thread() % 128 == 0; }  // of the group
// A warp's arrival at a barrier, after what all its lanes have read.
__device__ __forceinline__ void WarpArrive(uint64_t* barrier) {
  __syncwarp();
  if (Lane() == 0) BarrierArrive(barrier);
}
// The first of the thread's two rows within the tile of queries; the other is 8 below.
__device__ __forceinline__ int FirstRow() { return (Thread() / 32 - 4) * 16 + Lane() / 4; }
__device__ __forceinline__ int FirstColumn() { return Lane() % 4 * 2; }

// s = the group's queries · the stage's keys, issued.
template <class T, int kDim>
__device__ __forceinline__ void IssueScores(const Sm90Shared<kDim>& shared, int slot, int group,
                                            int stage, float (&s)[kScores]) {
  using Shape = Sm90Shape<kDim>;
  const uint64_t q = SharedDescriptor(shared.q[slot] + group * 64 * 128, 0, 1024);
  const uint64_t k = SharedDescriptor(shared.k[stage], 0, 1024);
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int chunk = i / 4, inside = i % 4 * 32;  // bytes, in units of 16 below
    WgmmaSS<T, Shape::kKeys, false>(s, q + ((chunk * Shape::kRows * 128 + inside) >> 4),
                                    k + ((chunk * Shape::kKeys * 128 + inside) >> 4), i > 0);
  }
}

// o += weights · the stage's values, issued.
template <class T, int kDim>
__device__ __forceinline__ void IssueOutput(const Sm90Shared<kDim>& shared, int stage,
                                            const uint32_t (&weights)[8][4], float (&o)[kDim / 2]) {
  using Shape = Sm90Shape<kDim>;
  const uint64_t v = SharedDescriptor(shared.v[stage], Shape::kKeys * 128, 1024);
#pragma unroll
  for (int i = 0; i < Shape::kKeys / 16; ++i) {
    WgmmaRS<T, kDim, true>(o, weights[i], v + ((i * 16 * 128) >> 4), true);
  }
}

// Values behind the sequence's last key belong to another document: they become 0, lest NaN times a
// weight of 0 reach the output. Every group writes the same.
template <int kDim>
__device__ __forceinline__ void ClearValues(unsigned char* v, int keys) {
  using Shape = Sm90Shape<kDim>;
  const int words = (Shape::kKeys - keys) * 8;  // of 16 bytes, in a chunk
  for (int i = Warp() * 32 + Lane(); i < words * Shape::kChunks; i += 128) {
    const int chunk = i / words, word = i % words;
    *reinterpret_cast<uint4*>(v + chunk * Shape::kKeys * 128 + keys * 128 + word * 16) =
        make_uint4(0, 0, 0, 0);
  }
  FenceProxyAsync();
  NamedBarrierSync(kGroupBarrier + Group(), 128);
}

// Whether the warp's rows may end the side at the staged tile.
template <bool kGathered>
__device__ __forceinline__ bool WarpMayEnd(const AttentionItem& item, const StagedTile& staged,
                                           const RowBound* bounds, const RowState& rows) {
  bool may = true;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const RowBound bound = bounds[FirstRow() + 8 * r];
    may = MayEndSide<kGathered>(item, staged.test, staged.side, bound, rows.reference[r],
                                QuadSum(rows.sum[r])) &&
          may;
  }
  return __all_sync(0xffffffff, may);
}

// Whether all of the warp's rows have a reference, so that scores can be taken relative to it.
__device__ __forceinline__ bool AllRowsBegun(const AttentionItem& item, const RowState& rows) {
  bool begun = true;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    begun = begun && (FirstRow() + 8 * r >= item.range.rows || rows.reference[r] > -1e30f);
  }
  return __all_sync(0xffffffff, begun);
}

// The tile that a group computes, out of its stage.
struct Tile {
  int stage;
  int32_t tile, side, keys;
  bool side_tile;
};

// Scores become weights. Returns whether `factor` is to be applied to the old output.
template <int kDim, bool kGathered>
__device__ __forceinline__ bool Softmax(const Sm90Shared<kDim>& shared, int slot, const Tile& tile,
                                        bool begun, float scale, float (&s)[kScores],
                                        RowState* rows, float (&factor)[2]) {
  constexpr int kKeys = Sm90Shape<kDim>::kKeys;
  const AttentionItem& item = shared.items[slot];
  const float slope = item.slope;
  const RowBound* bounds = shared.rows[slot];
  const ItemRange& range = shared.ranges[slot];
  // The thread's first row, counted from the tile's first key.
  const int32_t row = range.first_row - tile.tile * kKeys + FirstRow();
  if (Uniform(tile.side_tile && begun)) {
    const bool left = kGathered ? tile.side == kTileLeft : row > 0;
    const float signed_slope = left && !kGathered ? slope : -slope;
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (kGathered) {
        const RowBound& bound = bounds[FirstRow() + 8 * r];
        const int32_t edge = shared.positions[tile.stage][left ? kKeys - 1 : 0];
        const int32_t apart = (left ? bound.place - edge : edge - bound.place) - bound.nearest;
        base[r] = fmaf(-slope, static_cast<float>(apart), -rows->reference[r]);
      } else {
        const float apart = static_cast<float>(FirstColumn() - row - 8 * r);
        base[r] = fmaf(signed_slope, apart, -rows->reference[r]);
      }
    }
    return WeighSide<kGathered>(s, scale, signed_slope, base,
                                shared.distances[tile.stage] + FirstColumn(), rows, factor);
  }
  const auto view = [&](int r) {
    BasicTileColumns<int32_t> columns = {0, tile.keys, 0};
    RowView result = {0, -slope * static_cast<float>(row + 8 * r - FirstColumn()), 0, 0};
    if (kGathered) {
      result.place = bounds[FirstRow() + 8 * r].place;
      result.nearest = bounds[FirstRow() + 8 * r].nearest;
    } else {
      columns = VisibleColumns(range, range.first_row + FirstRow() + 8 * r, tile.tile, true);
    }
    result.seen = (ColumnsBefore(columns.end - FirstColumn()) &
                   ~ColumnsBefore(columns.begin - FirstColumn())) |
                  ColumnsBefore(columns.prefix - FirstColumn());
    return result;
  };
  const int32_t* positions = shared.positions[tile.stage] + FirstColumn();
  const RowView views[2] = {view(0), view(1)};
  ScoreGeneral<kGathered>(s, scale, slope, views, positions);
  WeighGeneral(s, rows, factor);
  return true;
}

// Normalises, rounds and writes the rows of a warp, and their log-sums.
template <class T, int kDim, bool kGathered>
__device__ __forceinline__ void StoreOutput(const AttentionParams& p, const AttentionItem& item,
                                            const RowBound* bounds, const RowState& rows,
                                            const float (&o)[kDim / 2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = FirstRow() + 8 * r;
    const bool valid = row < item.range.rows;
    const float sum = QuadSum(rows.sum[r]);
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    const int64_t token = item.q_begin + row;
    if (valid && p.lse != nullptr && Lane() % 4 == 0) {
      float log = rows.reference[r] + log2f(sum);
      if (kGathered) log = fmaf(-item.slope, static_cast<float>(bounds[row].nearest), log);
      p.lse[item.head * p.total_q + token] = sum == 0.0f ? -INFINITY : log / kLog2E;
    }
    T* out = static_cast<T*>(p.o) + token * p.o_stride + item.head * kDim + Lane() % 4 * 8;
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 4) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = o[4 * (n + i) + 2 * r], b = o[4 * (n + i) + 2 * r + 1];
        // Adding 0 turns −0 into +0.
        words[i] = Pack2<T>(fmaf(a, inverse, 0.0f), fmaf(b, inverse, 0.0f));
      }
      TransposeQuad(words, Lane());
      if (valid) {
        *reinterpret_cast<uint4*>(out + 8 * n) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

constexpr int32_t kBothSides = kTileLeft | kTileRight;
constexpr int32_t kBegun = 4;  // all rows of the warp have a reference

// What a consumer keeps while it computes an item.
template <int kDim>
struct ItemState {
  int group;         // of the thread, known to be the same in all lanes
  int slot, number;  // of the item: its buffer, its number in this block
  int32_t flags;     // sides that the group has ended, and kBegun
  RowState rows;
  float o[kDim / 2];  // not normalised
};

// Waits for the next stage and for the group's turn. Returns whether the group computes the tile:
// here rules B and C are asked.
template <int kDim, bool kGathered>
__device__ __forceinline__ bool AwaitTile(const Ring<Sm90Shape<kDim>::kStages>& ring,
                                          Sm90Shared<kDim>* shared, ItemState<kDim>* state) {
  BarrierWait(&shared->k_full[ring.stage], ring.parity);
  const AttentionItem& item = shared->items[state->slot];
  const StagedTile& staged = shared->tiles[ring.stage];
  const int32_t side = staged.side;
  const bool sees = staged.classes[state->group] != kSkipTile && (state->flags & side) == 0;
  const bool ask = item.rule != LoopRule::kNone && sees && side != kTileDiagonal;
  int32_t* votes = shared->votes[ring.stage % 2][state->group];
  if (ask) {
    const bool may = WarpMayEnd<kGathered>(item, staged, shared->rows[state->slot], state->rows);
    if (Lane() == 0) votes[Warp()] = may ? 1 : 0;
  }
  NamedBarrierSync(kTurnBarrier + state->group, 256);
  if (!Uniform(ask && (votes[0] & votes[1] & votes[2] & votes[3]) != 0)) return Uniform(sees);
  state->flags |= side;
  if (IsLeader()) shared->ended[state->group] = state->number << 2 | (state->flags & kBothSides);
  return false;
}

__device__ __forceinline__ void PassTurn(int groups, int group) {
  NamedBarrierArrive(kTurnBarrier + (group + 1 == groups ? 0 : group + 1), 256);
}

// The tile at `ring`, for which it is the group's turn: its scores become weights, for a product
// that is issued later. `pending`: such a product waits since the tile before.
template <class T, int kDim, bool kGathered>
__device__ __forceinline__ void ComputeTile(const AttentionParams& p,
                                            const Ring<Sm90Shape<kDim>::kStages>& ring,
                                            Sm90Shared<kDim>* shared, bool pending,
                                            ItemState<kDim>* state, uint32_t (&weights)[8][4]) {
  using Shape = Sm90Shape<kDim>;
  const int stage = ring.stage;
  const Ring<Shape::kStages> last = ring.Before();
  float s[kScores];
  WgmmaFence();
  IssueScores<T, kDim>(*shared, state->slot, state->group, stage, s);
  WgmmaCommit();
  if (pending) {
    BarrierWait(&shared->v_full[last.stage], last.parity);
    WgmmaFence();
    IssueOutput<T, kDim>(*shared, last.stage, weights, state->o);
    WgmmaCommit();
  } else {
    WgmmaFence();
    WgmmaCommit();  // an empty group: both ways lead to the same number
  }
  PassTurn(Shape::kGroups, state->group);
  StagedTile& staged = shared->tiles[stage];
  const Tile tile = {stage, staged.tile, staged.side, staged.keys,
                     staged.classes[state->group] == kSideTile};
  if (IsLeader() && p.stats != nullptr && atomicExch(&staged.used, 1) == 0)
    ++shared->used[state->group];
  // Gathered positions leave no registers for weights in use: there the other groups alone overlap.
  constexpr bool kOverlap = !(kGathered && kDim == 64);
  WgmmaWait<kOverlap ? 1 : 0>();
  PinRegisters(s);
  if (!kGathered) WarpArrive(&shared->k_empty[stage]);
  float factor[2];
  const bool moved =
      Softmax<kDim, kGathered>(*shared, state->slot, tile, (state->flags & kBegun) != 0,
                               p.scale * kLog2E, s, &state->rows, factor);
  if (kGathered) WarpArrive(&shared->k_empty[stage]);
  WgmmaWait<0>();
  PinRegisters(state->o);
  if (pending) WarpArrive(&shared->v_empty[last.stage]);
  if (moved) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) state->o[i] *= factor[i % 4 / 2];
    // References begin in general tiles, which say that all have moved.
    if (AllRowsBegun(shared->items[state->slot], state->rows)) state->flags |= kBegun;
  }
  PackWeights<T>(s, weights);
  if (Uniform(tile.keys < Shape::kKeys)) {
    BarrierWait(&shared->v_full[stage], ring.parity);
    ClearValues<kDim>(shared->v[stage], tile.keys);
  }
}

// All tiles of an item.
template <class T, int kDim, bool kGathered>
__device__ __forceinline__ void ComputeItem(const AttentionParams& p,
                                            Ring<Sm90Shape<kDim>::kStages>* ring,
                                            Sm90Shared<kDim>* shared, ItemState<kDim>* state) {
  using Shape = Sm90Shape<kDim>;
  uint32_t weights[8][4];
  bool pending = false, end = false;
  for (; !end; ring->Advance()) {
    if (AwaitTile<kDim, kGathered>(*ring, shared, state)) {
      ComputeTile<T, kDim, kGathered>(p, *ring, shared, pending, state, weights);
      pending = true;
      continue;
    }
    // A stage that is not for this group, or the item's end.
    PassTurn(Shape::kGroups, state->group);
    if (pending) {
      const Ring<Shape::kStages> last = ring->Before();
      BarrierWait(&shared->v_full[last.stage], last.parity);
      WgmmaFence();
      IssueOutput<T, kDim>(*shared, last.stage, weights, state->o);
      WgmmaCommit();
      WgmmaWait<0>();
      PinRegisters(state->o);
      WarpArrive(&shared->v_empty[last.stage]);
      pending = false;
    }
    end = Uniform(shared->tiles[ring->stage].tile < 0);
    BarrierWait(&shared->v_full[ring->stage], ring->parity);
    WarpArrive(&shared->k_empty[ring->stage]);
    WarpArrive(&shared->v_empty[ring->stage]);
  }
}

template <class T, int kDim, bool kGathered>
__device__ void Consume(const AttentionParams& p, Sm90Shared<kDim>* shared) {
  using Shape = Sm90Shape<kDim>;
  const int group = __shfl_sync(0xffffffff, Group(), 0);
  if (group == Shape::kGroups - 1) NamedBarrierArrive(kTurnBarrier, 256);
  Ring<Shape::kStages> ring;
  for (int number = 0;; ++number) {
    const int slot = number & 1;
    BarrierWait(&shared->q_full[slot], number >> 1 & 1);
    if (Uniform(shared->live[slot] == 0)) break;
    const AttentionItem& item = shared->items[slot];
    ItemState<kDim> state;
    state.group = group;
    state.slot = slot;
    state.number = number;
    state.flags = item.range.rows > 64 * group ? 0 : kBothSides;
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) state.o[i] = 0;
    if (IsLeader()) {
      shared->ended[group] = number << 2 | state.flags;
      shared->used[group] = 0;
    }
    ComputeItem<T, kDim, kGathered>(p, &ring, shared, &state);
    if (IsLeader()) AddTilesComputed(p, item, shared->used[group]);
    StoreOutput<T, kDim, kGathered>(p, item, shared->rows[slot], state.rows, state.o);
    WarpArrive(&shared->q_empty[slot]);
  }
  if (group == 0) NamedBarrierSync(kTurnBarrier, 256);  // the last turn is nobody's
}

template <int kDim>
__device__ void InitBarriers(Sm90Shared<kDim>* shared) {
  using Shape = Sm90Shape<kDim>;
  constexpr int kWarps = 4 * Shape::kGroups;
  for (int i = 0; i < 2; ++i) {
    BarrierInit(&shared->q_full[i], 1);
    BarrierInit(&shared->q_empty[i], kWarps);
  }
  for (int i = 0; i < Shape::kStages; ++i) {
    BarrierInit(&shared->k_full[i], 1);
    BarrierInit(&shared->k_empty[i], kWarps);
    BarrierInit(&shared->v_full[i], 1);
    BarrierInit(&shared->v_empty[i], kWarps);
  }
  for (int g = 0; g < Shape::kGroups; ++g) shared->ended[g] = -1;
  BarrierInitFence();
}

#endif

template <class T, int kDim, bool kGathered>
__global__ void __launch_bounds__(Sm90Shape<kDim>::kThreads, 1)
    AttentionSm90Kernel(const __grid_constant__ AttentionParams p,
                        const __grid_constant__ CUtensorMap q_map,
                        const __grid_constant__ CUtensorMap k_map,
                        const __grid_constant__ CUtensorMap v_map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)
  using Shape = Sm90Shape<kDim>;
  auto* shared = reinterpret_cast<Sm90Shared<kDim>*>(DynamicShared());
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    PrefetchTensorMap(&q_map);
    PrefetchTensorMap(&k_map);
    PrefetchTensorMap(&v_map);
    InitBarriers<kDim>(shared);
  }
  __syncthreads();
  if (thread < 128) {
    RegistersDecrease<Shape::kProducerRegisters>();
    if (thread < 32) Produce<kDim, kGathered>(p, &q_map, &k_map, &v_map, thread, shared);
  } else {
    RegistersIncrease<Shape::kConsumerRegisters>();
    Consume<T, kDim, kGathered>(p, shared);
  }
#endif
}

// A packed tensor [tokens, heads, kDim], in boxes of `rows` tokens of one head and 64 columns.
template <class T, int kDim>
cudaError_t MakeMap(const void* data, int64_t tokens, int64_t heads, int64_t stride, int rows,
                    CUtensorMap* map) {
  const uint64_t dims[3] = {kDim, static_cast<uint64_t>(heads), static_cast<uint64_t>(tokens)};
  const uint64_t strides[2] = {kDim * sizeof(T), static_cast<uint64_t>(stride) * sizeof(T)};
  const uint32_t box[3] = {64, 1, static_cast<uint32_t>(rows)};
  return MakeTensorMap<T>(map, data, 3, dims, strides, box);
}

template <class T, int kDim, bool kGathered>
cudaError_t LaunchShape(const AttentionParams& p, int multiprocessors, cudaStream_t stream) {
  using Shape = Sm90Shape<kDim>;
  CUtensorMap q_map, k_map, v_map;
  cudaError_t error = MakeMap<T, kDim>(p.q, p.total_q, p.heads, p.q_stride, Shape::kRows, &q_map);
  // Without any key, nothing is loaded by the other two.
  k_map = v_map = q_map;
  if (error == cudaSuccess && p.total_k > 0) {
    error = MakeMap<T, kDim>(p.k, p.total_k, p.kv_heads, p.k_stride, Shape::kKeys, &k_map);
  }
  if (error == cudaSuccess && p.total_k > 0) {
    error = MakeMap<T, kDim>(p.v, p.total_k, p.kv_heads, p.v_stride, Shape::kKeys, &v_map);
  }
  if (error != cudaSuccess) return error;
  const int64_t blocks = Min(p.items, multiprocessors);
  return Launch(AttentionSm90Kernel<T, kDim, kGathered>, dim3(static_cast<unsigned>(blocks)),
                dim3(Shape::kThreads), sizeof(Sm90Shared<kDim>), stream, p, q_map, k_map, v_map);
}

template <class T>
cudaError_t LaunchType(const AttentionParams& p, int multiprocessors, cudaStream_t stream) {
  if (p.head_dim == 64) {
    return p.gathered ? LaunchShape<T, 64, true>(p, multiprocessors, stream)
                      : LaunchShape<T, 64, false>(p, multiprocessors, stream);
  }
  return p.gathered ? LaunchShape<T, 128, true>(p, multiprocessors, stream)
                    : LaunchShape<T, 128, false>(p, multiprocessors, stream);
}

}  // namespace

cudaError_t LaunchAttentionSm90(const AttentionParams& params, int multiprocessors,
                                cudaStream_t stream) {
  if (params.items == 0 || params.total_q == 0) return cudaSuccess;
  if (params.head_dim != 64 && params.head_dim != 128) return cudaErrorInvalidValue;
  return params.type == DType::kBF16 ? LaunchType<Bf16>(params, multiprocessors, stream)
                                     : LaunchType<Fp16>(params, multiprocessors, stream);
}

}  // namespace longdoc::kernels::cuda
