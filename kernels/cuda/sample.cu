// The next token from logits: greedy, or drawn after temperature, top-k and top-p. The rules, ties
// included, are those of engine/sampler.cc.
//
// Tokens are ordered from likely to unlikely by (logit, lower id first). Both truncations keep a
// first part of that order, which is found without sorting: the order is cut into 2048 buckets, the
// one is found in which the wanted count or weight is reached, and that one is cut again. The first
// buckets are equal steps between the largest and the smallest logit, so that even a vocabulary's
// crowded middle spreads; then come digits of the logit's bits and of the id, which are unique.
//
// Weights are integers: multiples of a power of two, the largest being that power. So sums and
// comparisons depend on no order, and atomic additions are deterministic.
//
// Cost: three launches (greedy: one). 4·V bytes of logits are read twice, 8·V of weights written;
// then one thread block a row reads logits and weights, from L2, twice for each truncation and once
// to draw.
#include <cfloat>
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/running_sum.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBuckets = 2048;  // 11 bits; two of a thread
constexpr int kListed = 4096;   // tokens of one bucket that are kept in a list

struct RowState {
  float top, low;  // largest and least finite logit
  float max;       // top · scale
  int32_t best;    // the likeliest token; -1: logits are not finite
  double log_sum;  // ln of the sum of e^(logit · scale - max)
};

struct Params {
  SampleArgs args;
  RowState* states = nullptr;   // [rows]
  uint64_t* weights = nullptr;  // [rows, V]
  int32_t weight_bits = 0;      // the largest weight is 2^weight_bits
  int32_t id_bits = 0;          // of the largest id
};

// Ascends as logits descend; both zeros are equal.
__device__ uint32_t DescendingKey(float logit) {
  const uint32_t bits = BitsOf(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u);
}

// Ascends from likely to unlikely, and is unique.
__device__ uint64_t OrderKey(float logit, int64_t id) {
  return static_cast<uint64_t>(DescendingKey(logit)) << 32 | static_cast<uint64_t>(id);
}

template <class T>
__device__ T WarpMin(T x) {
  for (int step = 16; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, x, step);
    if (other < x) x = other;
  }
  return x;
}

// The largest, the least and the sum of a row, and its greedy token.
__global__ void __launch_bounds__(kThreads) SampleStats(const Params p) {
  __shared__ uint64_t shared_best[kWarps];
  __shared__ float shared_low[kWarps], shared_max[kWarps], shared_sum[kWarps];
  const int64_t row = blockIdx.x;
  const SampleArgs& args = p.args;
  const float* logits = args.logits + row * args.vocabulary;
  uint64_t best = ~uint64_t{0};
  float low = INFINITY;
  RunningSum sum;
#pragma unroll 4
  for (int64_t v = threadIdx.x; v < args.vocabulary; v += kThreads) {
    const float logit = logits[v];
    const uint64_t key = OrderKey(logit, v);
    if (key < best) best = key;
    if (logit > -INFINITY) low = fminf(low, logit);
    sum.Add(__fmul_rn(logit, args.scale));  // never fused with what follows
  }
  best = WarpMin(best);
  low = WarpMin(low);
  sum.JoinWarp();
  if (threadIdx.x % 32 == 0) {
    shared_best[threadIdx.x / 32] = best;
    shared_low[threadIdx.x / 32] = low;
    shared_max[threadIdx.x / 32] = sum.max;
    shared_sum[threadIdx.x / 32] = sum.sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) {
    if (shared_best[w] < best) best = shared_best[w];
    low = fminf(low, shared_low[w]);
    sum.Join(shared_max[w], shared_sum[w]);
  }
  RowState state;
  state.best = static_cast<int32_t>(best & 0xffffffffu);
  state.top = logits[state.best];
  state.low = low;
  state.max = __fmul_rn(state.top, args.scale);
  state.log_sum = log(static_cast<double>(sum.sum));
  if (!(fabsf(state.max) <= FLT_MAX && sum.sum <= FLT_MAX)) state.best = -1;  // or NaN
  p.states[row] = state;
  args.tokens[row] = state.best;  // what greedy choice wants
  if (args.log_probs != nullptr) {
    args.log_probs[row] = state.best < 0 ? NAN : static_cast<float>(-state.log_sum);
  }
}

// weights[v] = e^((logit · scale - max) / temperature), in units of 2^-weight_bits.
__global__ void __launch_bounds__(256) SampleWeights(const Params p, int64_t row_begin) {
  const int64_t row = row_begin + blockIdx.y;
  const int64_t v = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  const RowState& state = p.states[row];
  if (v >= p.args.vocabulary || state.best < 0) return;
  const float scaled = __fmul_rn(p.args.logits[row * p.args.vocabulary + v], p.args.scale);
  const double above = static_cast<double>(scaled) - static_cast<double>(state.max);
  const double weight = exp(above / static_cast<double>(p.args.temperature));
  p.weights[row * p.args.vocabulary + v] =
      static_cast<uint64_t>(weight * static_cast<double>(uint64_t{1} << p.weight_bits) + 0.5);
}

// A row of logits with weights, and the part of the order that is still kept.
struct Row {
  const float* logits;
  const uint64_t* weights;
  int32_t size, id_bits;
  float top, per_bucket;  // a token's first bucket: (top - logit) · per_bucket
  // The last token kept: up to `key` in `bucket`, everything in lower buckets.
  uint32_t bucket = kBuckets;
  uint64_t key = 0;

  // Never falls as logits fall; NaN (infinite times 0) goes last.
  __device__ uint32_t Bucket(float logit) const {
    const float at = (top - logit) * per_bucket;
    return at < kBuckets - 1 ? static_cast<uint32_t>(at) : kBuckets - 1;
  }
  __device__ bool Kept(uint32_t token_bucket, uint64_t token_key) const {
    return token_bucket < bucket || (token_bucket == bucket && token_key <= key);
  }
  __device__ bool Kept(int32_t v) const {
    return bucket == kBuckets || Kept(Bucket(logits[v]), OrderKey(logits[v], v));
  }
};

struct Shared {
  uint32_t count[kBuckets];                // tokens
  uint32_t low[kBuckets], high[kBuckets];  // halves of their weight
  int32_t list[kListed];
  uint32_t listed;
  uint64_t warp_sums[kWarps];
  // The bucket in which the wanted measure is reached, what lies before, its tokens.
  uint32_t found, found_count;
  uint64_t before;
  int32_t token;
};

// 64-bit addition in shared memory by two native ones.
__device__ void AddWeight(Shared& s, uint32_t bucket, uint64_t weight) {
  const uint32_t low = static_cast<uint32_t>(weight);
  const uint32_t old = atomicAdd(&s.low[bucket], low);
  const uint32_t carry = old + low < old ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + carry;
  if (high != 0) atomicAdd(&s.high[bucket], high);
}

__device__ uint64_t WarpScan(uint64_t x, int lane) {  // the sum of this lane's and lower lanes'
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, x, step);
    if (lane >= step) x += other;
  }
  return x;
}

// Into s.found: the bucket in which `before` plus the buckets' counts or weights reach `wanted`.
template <bool kWeigh>
__device__ void FindBucket(Shared& s, uint64_t before, uint64_t wanted) {
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  uint64_t measure[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int b = thread * 2 + i;
    measure[i] = kWeigh ? static_cast<uint64_t>(s.high[b]) << 32 | s.low[b] : s.count[b];
  }
  const uint64_t upto = WarpScan(measure[0] + measure[1], lane);
  if (lane == 31) s.warp_sums[warp] = upto;
  __syncthreads();
  uint64_t reached = before + upto - measure[0] - measure[1];
  for (int w = 0; w < warp; ++w) reached += s.warp_sums[w];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (reached < wanted && wanted <= reached + measure[i]) {
      s.found = thread * 2 + i;
      s.found_count = s.count[thread * 2 + i];
      s.before = reached;
    }
    reached += measure[i];
  }
  __syncthreads();
}

// Calls f(token, logit) for the tokens of this thread; four loads are on their way at once.
template <class F>
__device__ void ForTokens(const Row& row, const F& f) {
  constexpr int kAhead = 4;
  for (int first = threadIdx.x; first < row.size; first += kAhead * kThreads) {
    float logits[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = first + i * kThreads;
      logits[i] = v < row.size ? row.logits[v] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int v = first + i * kThreads;
      if (v < row.size) f(v, logits[i]);
    }
  }
}

// Cuts the row after the first tokens of the order whose count, or weight, is at least `wanted`,
// which is not 0 and not more than there is.
template <bool kWeigh>
__device__ void Truncate(Row& row, uint64_t wanted, Shared& s) {
  const int thread = threadIdx.x;
  uint32_t bucket = kBuckets;     // of the first digit; all of them yet
  uint64_t prefix = 0, mask = 0;  // the digits of the key that are known
  uint64_t before = 0;            // measure of what comes before them
  int shift = 64;                 // lowest known bit
  bool listed = false;
  for (;;) {
    const bool first = bucket == kBuckets;
    // The key's digits: 11, 11 and 10 bits of the logit, then up to 11 at a time of the id.
    const int top_bit = shift == 32 ? row.id_bits : shift;
    const int next = max(top_bit - 11, shift > 32 ? 32 : 0);
    for (int b = thread; b < kBuckets; b += kThreads) s.count[b] = s.low[b] = s.high[b] = 0;
    if (thread == 0 && !listed) s.listed = 0;
    __syncthreads();
    const auto add = [&](int v, float logit) {
      const uint32_t token_bucket = row.Bucket(logit);
      const uint64_t key = OrderKey(logit, v);
      if (!row.Kept(token_bucket, key)) return;
      if (!first && (token_bucket != bucket || ((key ^ prefix) & mask) != 0)) return;
      const uint32_t digit =
          first ? token_bucket
                : static_cast<uint32_t>(key >> next & ((uint64_t{1} << (top_bit - next)) - 1));
      atomicAdd(&s.count[digit], 1u);
      if (kWeigh) AddWeight(s, digit, row.weights[v]);
    };
    if (listed) {
      for (uint32_t i = thread; i < s.listed; i += kThreads) add(s.list[i], row.logits[s.list[i]]);
    } else {
      ForTokens(row, add);
    }
    __syncthreads();
    FindBucket<kWeigh>(s, before, wanted);
    const uint32_t tokens = s.found_count;
    before = s.before;
    if (first) {
      bucket = s.found;
    } else {
      prefix |= static_cast<uint64_t>(s.found) << next;
      mask = ~uint64_t{0} << next;
      shift = next;
    }
    if (tokens == 1) break;
    if (!listed && tokens <= kListed) {
      listed = true;
      ForTokens(row, [&](int v, float logit) {
        const uint64_t key = OrderKey(logit, v);
        if (row.Bucket(logit) != bucket || ((key ^ prefix) & mask) != 0) return;
        if (row.Kept(bucket, key)) s.list[atomicAdd(&s.listed, 1u)] = v;  // in any order
      });
    }
    __syncthreads();  // s.found has been read, the list is complete
  }
  // All that is left to know of the last token kept, unless an earlier cut goes through its bucket.
  const uint64_t key = prefix | ~mask;
  if (bucket < row.bucket || key < row.key) {
    row.bucket = bucket;
    row.key = key;
  }
  __syncthreads();
}

// The tokens of a warp, `segment` consecutive ones.
__device__ int32_t SegmentOf(const Row& row) { return (row.size + kThreads - 1) / kThreads * 32; }

// The weight of all kept tokens; that of every warp's segment is left in s.warp_sums.
__device__ uint64_t KeptWeight(const Row& row, Shared& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = SegmentOf(row);
  const int end = min((warp + 1) * segment, row.size);
  uint64_t sum = 0;
#pragma unroll 4
  for (int v = warp * segment + lane; v < end; v += 32) {
    if (row.Kept(v)) sum += row.weights[v];
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  __syncthreads();  // earlier readers are done
  if (lane == 0) s.warp_sums[warp] = sum;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) total += s.warp_sums[w];
  return total;
}

// The first kept token, by id, at which the sum of weights exceeds `target`; s.warp_sums is theirs.
__device__ void FindToken(const Row& row, uint64_t target, Shared& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = SegmentOf(row);
  uint64_t below = 0;
  for (int w = 0; w < warp; ++w) below += s.warp_sums[w];
  if (target < below || target >= below + s.warp_sums[warp]) return;
  for (int first = warp * segment;; first += 32) {
    const int v = first + lane;
    const uint64_t weight = v < row.size && row.Kept(v) ? row.weights[v] : 0;
    const uint64_t upto = below + WarpScan(weight, lane);
    const uint32_t beyond = __ballot_sync(0xffffffffu, upto > target);
    if (beyond != 0) {
      if (lane == 0) s.token = first + __ffs(static_cast<int>(beyond)) - 1;
      return;
    }
    below = __shfl_sync(0xffffffffu, upto, 31);
  }
}

__global__ void __launch_bounds__(kThreads) SampleDraw(const Params p) {
  __shared__ Shared s;
  const int64_t row_index = blockIdx.x;
  const SampleArgs& args = p.args;
  const RowState& state = p.states[row_index];
  if (state.best < 0) return;
  Row row;
  row.logits = args.logits + row_index * args.vocabulary;
  row.weights = p.weights + row_index * args.vocabulary;
  row.size = static_cast<int32_t>(args.vocabulary);
  row.id_bits = p.id_bits;
  row.top = state.top;
  const float span = state.top - state.low;
  row.per_bucket = span > 0 ? (kBuckets - 1) / span : 0.0f;

  if (args.top_k > 0 && args.top_k < args.vocabulary) {
    Truncate<false>(row, static_cast<uint64_t>(args.top_k), s);
  }
  if (args.top_p < 1) {
    const double total = static_cast<double>(KeptWeight(row, s));
    const double wanted = ceil(static_cast<double>(args.top_p) * total);
    Truncate<true>(row, wanted < 1 ? 1 : static_cast<uint64_t>(wanted), s);
  }
  const uint64_t total = KeptWeight(row, s);
  const uint64_t target =
      static_cast<uint64_t>(args.uniform[row_index] * static_cast<double>(total));
  if (threadIdx.x == 0) s.token = row.size;
  __syncthreads();
  if (target < total) {
    FindToken(row, target, s);
  } else {  // by rounding alone: the first of the likeliest
    for (int v = threadIdx.x; v < row.size; v += kThreads) {
      if (row.Kept(v) && row.weights[v] == uint64_t{1} << p.weight_bits) atomicMin(&s.token, v);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  args.tokens[row_index] = s.token;
  if (args.log_probs != nullptr) {
    const double scaled = static_cast<double>(__fmul_rn(row.logits[s.token], args.scale));
    args.log_probs[row_index] =
        static_cast<float>(scaled - static_cast<double>(state.max) - state.log_sum);
  }
}

}  // namespace

int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocabulary) {
  return rows * (RoundUp(sizeof(RowState), 16) + vocabulary * 8);
}

cudaError_t Sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (args.vocabulary <= 0 || args.vocabulary > 0x7fffffff || args.rows > 0x7fffffff ||
      !(args.scale > 0) || !(args.temperature >= 0) || args.top_k < 0 || !(args.top_p >= 0)) {
    return cudaErrorInvalidValue;
  }
  Params p;
  p.args = args;
  p.states = static_cast<RowState*>(args.workspace);
  p.weights = reinterpret_cast<uint64_t*>(p.states + args.rows);
  while (p.id_bits < 32 && (args.vocabulary - 1) >> p.id_bits != 0) ++p.id_bits;
  p.weight_bits = 62 - p.id_bits;
  const dim3 rows(static_cast<unsigned>(args.rows));
  cudaError_t error = Launch(SampleStats, rows, dim3(kThreads), 0, stream, p);
  if (error != cudaSuccess || args.temperature == 0) return error;
  constexpr int64_t kMaxGridY = 65535;
  const unsigned pieces = static_cast<unsigned>(CeilDiv(args.vocabulary, 256));
  for (int64_t begin = 0; begin < args.rows; begin += kMaxGridY) {
    const int64_t count = args.rows - begin < kMaxGridY ? args.rows - begin : kMaxGridY;
    error = Launch(SampleWeights, dim3(pieces, static_cast<unsigned>(count)), dim3(256), 0, stream,
                   p, begin);
    if (error != cudaSuccess) return error;
  }
  return Launch(SampleDraw, rows, dim3(kThreads), 0, stream, p);
}

}  // namespace longdoc::kernels::cuda
