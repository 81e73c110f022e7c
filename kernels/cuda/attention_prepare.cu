// Before the forward kernels: key centres and norms, sums over positions, the rows' own norms, and
// from them the work items. All norms are those of the stored 16-bit values. The proofs are in
// docs/attention.md, the scalar rules in kernels/ranges.h.
//
// Keys and values are read once, queries once, all in 16-byte pieces: little beside the attention
// itself. Problems in which nothing can be skipped only get their items.
#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/vector.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kScanThreads = 256;
// A centre is the mean of this many keys, evenly spread; any vector is sound.
constexpr int64_t kCentreSamples = 1024;

__device__ inline float Infinity() { return __int_as_float(0x7f800000); }

// The sequence that owns a slot: the last one whose first slot is not beyond it.
__device__ inline int64_t SequenceOfSlot(const int64_t* cu, int64_t sequences, int64_t tile,
                                         int64_t slot) {
  int64_t low = 0, high = sequences - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cu[middle] / tile + middle <= slot) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// How a warp reads rows of head_dim elements: eight to a lane, `group` lanes (a power of two) to a
// row, `rows` rows at a time.
struct RowLanes {
  int group, rows;
  int row, column;  // of this lane
  bool active;      // head dims that are no power of two leave lanes idle
};

__device__ inline RowLanes MakeRowLanes(int head_dim) {
  const int lane = static_cast<int>(threadIdx.x) % 32, chunks = head_dim / kVector;
  int group = 2;
  while (group < chunks) group *= 2;
  return {group, 32 / group, lane / group, lane % group * kVector, lane % group < chunks};
}

__device__ inline float GroupSum(float x, int group) {
  for (int step = group / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ inline float WarpMax(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

// What sums of `dim` squares in fp32 and the root may have lost.
__device__ inline float Inflate(int dim) { return 1.0f + static_cast<float>(dim) * 0x1p-22f; }

// ---- once per call ------------------------------------------------------------------------------

// One block: the counter, the order of heads, and where block lists begin.
__global__ void __launch_bounds__(kScanThreads) InitKernel(AttentionParams p) {
  __shared__ int64_t parts[kScanThreads];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) *p.next_item = 0;
  for (int32_t h = thread; h < p.heads; h += kScanThreads) {
    int32_t rank = 0;  // the flattest slopes reach farthest and go first
    for (int32_t other = 0; other < p.heads; ++other) {
      const float a = p.slopes[other], b = p.slopes[h];
      if (a < b || (a == b && other < h)) ++rank;
    }
    p.head_order[rank] = h;
  }
  if (p.mask.block_row_offsets == nullptr) return;
  const int64_t share = CeilDiv(p.num_sequences, kScanThreads);
  const int64_t begin = Min(thread * share, p.num_sequences);
  const int64_t end = Min(begin + share, p.num_sequences);
  int64_t rows = 0;
  for (int64_t s = begin; s < end; ++s) {
    p.list_rows[s] = rows;
    rows += CeilDiv(p.cu_q[s + 1] - p.cu_q[s], p.mask.block_tokens);
  }
  parts[thread] = rows;
  __syncthreads();
  int64_t before = 0;
  for (int t = 0; t < thread; ++t) before += parts[t];
  for (int64_t s = begin; s < end; ++s) p.list_rows[s] += before;
}

// ---- keys ---------------------------------------------------------------------------------------

// A block per (sequence, kv head): the mean of a sample of its keys.
template <typename T>
__global__ void __launch_bounds__(kThreads) CentreKernel(AttentionParams p) {
  __shared__ float sums[kThreads * kVector];
  const int64_t sequence = blockIdx.x / p.kv_heads, kv_head = blockIdx.x % p.kv_heads;
  const int64_t begin = p.cu_k[sequence], keys = p.cu_k[sequence + 1] - begin;
  if (keys <= kShortSequence) return;
  const int chunks = p.head_dim / kVector, groups = kThreads / chunks;
  const int group = static_cast<int>(threadIdx.x) / chunks;
  const int column = static_cast<int>(threadIdx.x) % chunks * kVector;
  const int64_t samples = Min(keys, kCentreSamples);
  const T* base = static_cast<const T*>(p.k) + kv_head * p.head_dim + column;
  float sum[kVector] = {};
  for (int64_t i = group; group < groups && i < samples; i += groups) {
    float x[kVector];
    Load8(base + (begin + i * keys / samples) * p.k_stride, x);
    for (int e = 0; e < kVector; ++e) sum[e] += x[e];
  }
  for (int e = 0; e < kVector; ++e) sums[threadIdx.x * kVector + e] = sum[e];
  __syncthreads();
  const int dim = static_cast<int>(threadIdx.x);
  if (dim >= p.head_dim) return;
  float total = 0;
  for (int g = 0; g < groups; ++g) total += sums[g * p.head_dim + dim];
  p.centres[blockIdx.x * int64_t{p.head_dim} + dim] = total / static_cast<float>(samples);
}

// A warp per (kv head, key tile): the longest key, centred (into right_norms, for MaximaKernel) and
// as it is. Infinity when a key or value is not finite, or a square overflows.
template <typename T>
__global__ void __launch_bounds__(kThreads) KeyNormKernel(AttentionParams p) {
  const int64_t unit = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (unit >= p.key_slots * p.kv_heads) return;
  // Neighbouring warps take the heads of the same tokens.
  const int64_t slot = unit / p.kv_heads, kv_head = unit % p.kv_heads;
  const int64_t sequence = SequenceOfSlot(p.cu_k, p.num_sequences, p.tile.keys, slot);
  const int64_t begin = p.cu_k[sequence], keys = p.cu_k[sequence + 1] - begin;
  const int64_t first = (slot - begin / p.tile.keys - sequence) * p.tile.keys;
  if (keys <= kShortSequence || first >= keys) return;
  const int64_t count = Min(p.tile.keys, keys - first);
  const RowLanes lanes = MakeRowLanes(p.head_dim);
  float centre[kVector] = {};
  if (lanes.active) {
    Load8(p.centres + (sequence * p.kv_heads + kv_head) * p.head_dim + lanes.column, centre);
  }
  const int64_t column = kv_head * p.head_dim + lanes.column;
  float raw_max = 0, centred_max = 0, poison = 0;
  for (int64_t r = 0; r < count; r += lanes.rows) {
    const int64_t row = begin + first + r + lanes.row;
    float raw = 0, centred = 0;
    if (lanes.active && r + lanes.row < count) {
      float k[kVector], v[kVector];
      Load8(static_cast<const T*>(p.k) + row * p.k_stride + column, k);
      Load8(static_cast<const T*>(p.v) + row * p.v_stride + column, v);
      for (int e = 0; e < kVector; ++e) {
        raw = fmaf(k[e], k[e], raw);
        const float difference = k[e] - centre[e];
        centred = fmaf(difference, difference, centred);
        poison = fmaf(v[e], 0.0f, poison);
      }
    }
    raw = GroupSum(raw, lanes.group);
    poison = fmaf(raw, 0.0f, poison);
    raw_max = fmaxf(raw_max, raw);
    centred_max = fmaxf(centred_max, GroupSum(centred, lanes.group));
  }
  poison = GroupSum(poison, 32);
  const float inflate = Inflate(p.head_dim);
  raw_max = sqrtf(WarpMax(raw_max)) * inflate;
  centred_max = sqrtf(WarpMax(centred_max)) * inflate;
  if (threadIdx.x % 32 != 0) return;
  const int64_t at = kv_head * p.key_slots + slot;
  p.right_norms[at] = poison == 0.0f ? centred_max : Infinity();
  p.raw_norms[at] = poison == 0.0f ? raw_max : Infinity();
}

// A block per (sequence, kv head): running maxima of the norms from both ends.
__global__ void __launch_bounds__(kScanThreads) MaximaKernel(AttentionParams p) {
  __shared__ float tops[kScanThreads], raw_tops[kScanThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t sequence = blockIdx.x / p.kv_heads, kv_head = blockIdx.x % p.kv_heads;
  const int64_t first = p.cu_k[sequence], keys = p.cu_k[sequence + 1] - first;
  if (keys <= kShortSequence) return;
  const int64_t tiles = CeilDiv(keys, p.tile.keys), share = CeilDiv(tiles, kScanThreads);
  const int64_t at = kv_head * p.key_slots + first / p.tile.keys + sequence;
  float *right = p.right_norms + at, *left = p.left_norms + at;
  const int64_t begin = Min(thread * share, tiles), end = Min(begin + share, tiles);
  float top = 0, raw = 0;
  for (int64_t t = begin; t < end; ++t) {
    top = fmaxf(top, right[t]);
    raw = fmaxf(raw, p.raw_norms[at + t]);
  }
  tops[thread] = top;
  raw_tops[thread] = raw;
  __syncthreads();
  float from_left = 0, from_right = 0;
  for (int t = 0; t < thread; ++t) from_left = fmaxf(from_left, tops[t]);
  for (int t = thread + 1; t < kScanThreads; ++t) from_right = fmaxf(from_right, tops[t]);
  for (int64_t t = begin; t < end; ++t) left[t] = from_left = fmaxf(from_left, right[t]);
  for (int64_t t = end - 1; t >= begin; --t) right[t] = from_right = fmaxf(from_right, right[t]);
  if (thread != 0) return;
  for (int t = 1; t < kScanThreads; ++t) raw = fmaxf(raw, raw_tops[t]);
  p.key_bounds[blockIdx.x] = {from_right, raw};
}

// A block per (sequence, head, direction): x_j = 1 + e^(−slope·gap)·x_(j−1) over the positions of
// the keys, in double. Every thread composes the steps of its share, then begins where the shares
// before it end.
__global__ void __launch_bounds__(kScanThreads) PositionSumKernel(AttentionParams p) {
  __shared__ double factors[kScanThreads], sums[kScanThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t pair = blockIdx.x / 2, sequence = pair / p.heads, head = pair % p.heads;
  const bool left = blockIdx.x % 2 == 0;
  const int64_t begin = p.cu_k[sequence], keys = p.cu_k[sequence + 1] - begin;
  const double slope = p.slopes[head];
  if (keys <= kShortSequence || !(slope > 0)) return;
  const int32_t* positions = p.k_positions + begin;
  float* out = (left ? p.left_sums : p.right_sums) + head * p.total_k + begin;
  const auto index = [&](int64_t j) { return left ? j : keys - 1 - j; };  // the j-th of the walk
  const auto decay = [&](int64_t j) {
    if (j == 0) return 0.0;
    const int64_t gap = int64_t{positions[index(j)]} - positions[index(j - 1)];
    return exp(-slope * static_cast<double>(gap < 0 ? -gap : gap));
  };
  const int64_t share = CeilDiv(keys, kScanThreads);
  const int64_t first = Min(thread * share, keys), last = Min(first + share, keys);
  double factor = 1, sum = 0;
  for (int64_t j = first; j < last; ++j) {
    const double by = decay(j);
    factor *= by;
    sum = 1 + by * sum;
  }
  factors[thread] = factor;
  sums[thread] = sum;
  __syncthreads();
  sum = 0;
  for (int t = 0; t < thread; ++t) sum = sums[t] + factors[t] * sum;
  for (int64_t j = first; j < last; ++j) {
    sum = 1 + decay(j) * sum;
    out[index(j)] = static_cast<float>(sum);
  }
}

// ---- queries and items --------------------------------------------------------------------------

// Norms of the tile's queries; returns the largest to every thread.
template <typename T>
__device__ inline float MeasureRows(const AttentionParams& p, const AttentionItem& item,
                                    int64_t rows) {
  __shared__ float tops[kWarps], poisons[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const RowLanes lanes = MakeRowLanes(p.head_dim);
  float centre[kVector] = {};
  if (lanes.active) {
    const int64_t record = item.sequence * int64_t{p.kv_heads} + item.kv_head;
    Load8(p.centres + record * p.head_dim + lanes.column, centre);
  }
  const float by = fabsf(p.scale) * Inflate(p.head_dim) * kLog2E;
  float top = 0, poison = 0;
  for (int64_t r = warp * lanes.rows; r < rows; r += kWarps * lanes.rows) {
    const int64_t row = r + lanes.row;
    float square = 0, dot = 0;
    if (lanes.active && row < rows) {
      float q[kVector];
      Load8(static_cast<const T*>(p.q) + (item.q_begin + row) * p.q_stride +
                int64_t{item.head} * p.head_dim + lanes.column,
            q);
      for (int e = 0; e < kVector; ++e) {
        square = fmaf(q[e], q[e], square);
        dot = fmaf(q[e], centre[e], dot);
      }
    }
    const float norm = sqrtf(GroupSum(square, lanes.group)) * by;
    dot = GroupSum(dot, lanes.group) * (p.scale * kLog2E);
    if (row < rows && lanes.column == 0) {
      p.row_norms[item.head * p.total_q + item.q_begin + row] = {norm, dot};
    }
    top = fmaxf(top, norm);
    poison += norm * 0.0f + dot * 0.0f;
  }
  top = WarpMax(top);
  poison = GroupSum(poison, 32);
  if (threadIdx.x % 32 == 0) {
    tops[warp] = top;
    poisons[warp] = poison;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    top = fmaxf(top, tops[w]);
    poison += poisons[w];
  }
  return poison == 0.0f ? top : Infinity();
}

// The rows of a gathered tile among the keys: RowLimit of each, and the nearest keys of the first
// and the last row. `bounded`: rule C applies, and row_norms are there.
__device__ inline void PlaceTile(const AttentionParams& p, const AttentionItem& item, int64_t keys,
                                 int64_t rows, bool bounded, float key_norm, int64_t* first_key,
                                 int64_t* last_key) {
  __shared__ int64_t ends[2];
  const int32_t* positions = p.k_positions + item.k_begin;
  const bool masses = bounded && item.rule == LoopRule::kC;
  const float* left = masses ? p.left_sums + item.sums : nullptr;
  const float* right = masses ? p.right_sums + item.sums : nullptr;
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) {
    const int32_t row = p.q_positions[item.q_begin + r];
    const int64_t after = LastAtMost(positions, positions + keys, row) + 1 - positions;
    const RowPlace place = PlaceRow(positions, keys, row, after, p.slopes[item.head], left, right);
    if (r == 0) ends[0] = place.nearest_key;
    if (r == rows - 1) ends[1] = place.nearest_key;
    const int64_t at = item.head * p.total_q + item.q_begin + r;
    float limit = -3.0e38f;
    if (bounded) {
      limit = place.log_mass * kLog2E - p.row_norms[at].norm * key_norm - item.rule_constant;
    }
    p.row_limits[at] = {place.nearest, limit};
  }
  __syncthreads();
  *first_key = ends[0];
  *last_key = ends[1];
}

__device__ inline void CountTile(const AttentionParams& p, const AttentionItem& item, float bound) {
  if (p.stats == nullptr) return;
  AttentionStats* stats = p.stats + item.sequence;
  atomicAdd(reinterpret_cast<unsigned long long*>(&stats->tiles_dense),
            static_cast<unsigned long long>(item.range.dense_tiles));
  // Bounds are not negative: their bits ascend as they do.
  atomicMax(reinterpret_cast<int*>(&stats->max_bound), __float_as_int(bound));
}

// A block per item.
template <typename T>
__global__ void __launch_bounds__(kThreads) ItemKernel(AttentionParams p) {
  const int64_t order = blockIdx.x, height = p.tile.queries;
  int64_t slot = order % p.query_slots;
  if (p.mask.causal) slot = p.query_slots - 1 - slot;  // later rows see more keys
  const int64_t s = SequenceOfSlot(p.cu_q, p.num_sequences, height, slot);
  const int64_t q_begin = p.cu_q[s], queries = p.cu_q[s + 1] - q_begin;
  const int64_t first_row = (slot - q_begin / height - s) * height;
  AttentionItem item = {};
  if (first_row >= queries) {
    if (threadIdx.x == 0) p.work[order] = item;
    return;
  }
  const int64_t rows = Min(height, queries - first_row);
  const int64_t keys = p.cu_k[s + 1] - p.cu_k[s];
  item.sequence = static_cast<int32_t>(s);
  item.head = p.head_order[order / p.query_slots];
  item.kv_head = static_cast<int32_t>(int64_t{item.head} * p.kv_heads / p.heads);
  item.q_begin = q_begin + first_row;
  item.k_begin = p.cu_k[s];
  const float slope = p.slopes[item.head];
  item.slope = slope * kLog2E;
  item.norms = item.kv_head * p.key_slots + item.k_begin / p.tile.keys + s;
  item.sums = item.head * p.total_k + item.k_begin;

  float bound = 0, key_norm = 0;
  bool finite = false;
  if (p.norms && keys > kShortSequence) {
    const KeyBound keys_bound = p.key_bounds[s * p.kv_heads + item.kv_head];
    // Rounding of fp32 dot products, with margin; it scales with the norms before centring.
    item.slack_norm = keys_bound.raw_norm * static_cast<float>(p.head_dim) * 0x1p-20f;
    key_norm = keys_bound.centred_norm + item.slack_norm;
    bound = MeasureRows<T>(p, item, rows) * key_norm * (1 / kLog2E) * (1 + 0x1p-20f);
    finite = bound <= 3.0e38f;
    if (!finite) bound = Infinity();
  }
  if (finite && slope > 0) {
    const bool exact = p.skip == SkipMode::kExact;
    item.rule = p.gathered ? (exact ? LoopRule::kExactMax : LoopRule::kC)
                           : (exact ? LoopRule::kNone : LoopRule::kB);
    const float constant = exact        ? static_cast<float>(kExactSpread)
                           : p.gathered ? RuleCConstant(p.epsilon)
                                        : RuleBConstant(slope, p.epsilon);
    item.rule_constant = constant * kLog2E;
  }
  if (p.gathered) {
    int64_t first_key = 0, last_key = 0;
    if (keys > 0) {
      __syncthreads();  // row_norms of all rows
      PlaceTile(p, item, keys, rows, item.rule != LoopRule::kNone, key_norm, &first_key, &last_key);
    }
    item.range = GatheredRange(keys, first_row, rows, p.tile.keys, first_key, last_key);
  } else {
    const int64_t list_row = p.mask.block_row_offsets == nullptr ? 0 : p.list_rows[s];
    item.range = MaskedRange(p.mask, keys, first_row, rows, p.tile.keys, list_row);
    if (finite) LimitByDistance(DistanceOfSpread(p.spread, slope, bound), &item.range);
  }
  if (threadIdx.x != 0) return;
  p.work[order] = item;
  CountTile(p, item, bound);
}

template <typename T>
cudaError_t Prepare(const AttentionParams& p, cudaStream_t stream) {
  const dim3 block(kThreads), scan(kScanThreads);
  const auto grid = [](int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); };
  cudaError_t error = Launch(InitKernel, grid(1), scan, 0, stream, p);
  const int64_t records = p.num_sequences * p.kv_heads;
  if (error == cudaSuccess && p.norms) {
    error = Launch(CentreKernel<T>, grid(records), block, 0, stream, p);
    const int64_t units = p.key_slots * p.kv_heads;
    if (error == cudaSuccess) {
      error = Launch(KeyNormKernel<T>, grid(CeilDiv(units, kWarps)), block, 0, stream, p);
    }
    if (error == cudaSuccess) error = Launch(MaximaKernel, grid(records), scan, 0, stream, p);
  }
  if (error == cudaSuccess && p.norms && p.gathered && p.skip == SkipMode::kTolerance) {
    const int64_t blocks = 2 * p.num_sequences * p.heads;
    error = Launch(PositionSumKernel, grid(blocks), scan, 0, stream, p);
  }
  if (error != cudaSuccess) return error;
  return Launch(ItemKernel<T>, grid(p.items), block, 0, stream, p);
}

}  // namespace

cudaError_t PrepareAttention(const AttentionParams& params, cudaStream_t stream) {
  return params.type == DType::kBF16 ? Prepare<Bf16>(params, stream)
                                     : Prepare<Fp16>(params, stream);
}

}  // namespace longdoc::kernels::cuda
