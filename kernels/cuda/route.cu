// Route (routing.h): the k highest of n scores in ascending order of index, and their soft top-k
// weights. Formulas and the proof of convergence: cpu/route.cc; the choice is the same bit for bit.
//
// Seven short steps in stream order, no block ever waits for another. Scores (0.4 MB at 100,000)
// are read from memory once and from L2 after that:
//   clear      the histograms
//   count 0-2  histogram of the keys' next 11 bits, among those that share the pivot's bits so far;
//              every block first finds those bits itself, from the histogram before (8 KB)
//   tally      the pivot; per block: keys above it, keys equal to it, sum of e^(s − c) below it
//   choose     every block adds up the tallies before it, and so knows where its chosen go
//   weigh      one block solves for the threshold by Newton's method and scales the weights
// Each is a few microseconds of latency; nothing waits for memory bandwidth until n is millions. A
// short text takes all steps in one launch of one block instead. Every sum is in double and in an
// order that n and k fix.
#include <cstdint>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/functions.cuh"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/rows.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 256;      // of a block of many
constexpr int kAllThreads = 1024;  // of a block that works alone
constexpr int kItems = 4;          // consecutive scores of a thread in one tile
constexpr int64_t kMaxShort = 2 * kAllThreads * kItems;  // scores of one block alone
constexpr int kMaxBlocks = 1024;  // what a block adds up in `choose` is bounded by it
constexpr int kBins = 2048;
constexpr int kPasses = 3;

// Where a pass's digit begins. The last one overlaps the one before by a bit, the same in all
// candidates.
__host__ __device__ constexpr int Shift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }

// What is known of the k-th largest key after some digits.
struct Pivot {
  uint32_t key;      // its digits so far
  uint32_t wanted;   // its rank among the keys that share them, from 1
  uint32_t equal;    // how many share them
  uint32_t numbers;  // scores that are not NaN (from the first digit on)
};

struct Workspace {
  uint32_t histograms[kPasses][kBins];
  Pivot pivots[kPasses];  // [i]: after digit i; written by block 0 of the step that finds it
  double above[kMaxBlocks], equal[kMaxBlocks], below[kMaxBlocks];  // tallies
};

struct RouteParams {
  int64_t n, k;
  const float* scores;
  int32_t* indices;
  float* weights;
  Workspace* workspace;
  int64_t chunk;  // scores of a block, a multiple of its tile: threads · kItems
  bool aligned;   // scores on 16 bytes
};

// Larger key = larger score; zeros of either sign are equal, every NaN is 0, below all numbers.
__device__ __forceinline__ uint32_t KeyOf(float score) {
  const uint32_t bits = BitsOf(score + 0.0f);  // −0 + 0 is +0
  const uint32_t flip = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
  return score == score ? bits ^ flip : 0;
}

__device__ __forceinline__ float ScoreOf(uint32_t key) {
  return FloatOf((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// f(first index, scores, how many of the kItems exist) for every tile of the block's part, by all
// threads of the block together.
template <int kBlock, class F>
__device__ __forceinline__ void ForTiles(const RouteParams& p, const F& f) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * p.chunk;
  const int64_t end = begin + p.chunk < p.n ? begin + p.chunk : p.n;
  for (int64_t tile = begin; tile < end; tile += kBlock * kItems) {
    const int64_t first = tile + static_cast<int64_t>(threadIdx.x) * kItems;
    float scores[kItems] = {};
    int count = 0;
    if (p.aligned && first + kItems <= end) {
      LoadVector(p.scores + first, scores);
      count = kItems;
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (first + i >= end) continue;
        scores[i] = p.scores[first + i];
        count = i + 1;
      }
    }
    f(first, scores, count);
  }
}

// The pivot with the digit of one more pass, for all threads of the block. `last` is the pivot
// before it; `histogram` counts the digits of all keys that share its bits.
template <int kBlock>
__device__ inline Pivot FindDigit(const uint32_t* histogram, const Pivot& last, int pass) {
  constexpr int kPart = kBins / kBlock;  // bins of a thread, the highest to thread 0
  const int top = kBins - kPart * static_cast<int>(threadIdx.x) - 1;
  uint32_t bins[kPart], sum = 0, total;
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    bins[i] = histogram[top - i];
    sum += bins[i];
  }
  uint32_t before = BlockScan<kBlock>(sum, &total);
  __shared__ uint32_t found[3];
  if (before < last.wanted && last.wanted - before <= sum) {  // one thread
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      if (before < last.wanted && last.wanted - before <= bins[i]) {
        found[0] = static_cast<uint32_t>(top - i);
        found[1] = last.wanted - before;
        found[2] = bins[i];
      }
      before += bins[i];
    }
  }
  __syncthreads();
  const Pivot pivot = {last.key | found[0] << Shift(pass), found[1], found[2], last.numbers};
  __syncthreads();  // `found` may be written again
  return pivot;
}

// The pivot after `passes` digits, of which all but the last were found by the step before.
template <int kBlock>
__device__ inline Pivot FindPivot(const RouteParams& p, int passes) {
  const uint32_t n = static_cast<uint32_t>(p.n);
  Pivot pivot = {0, static_cast<uint32_t>(p.k), n, n};
  if (passes == 0) return pivot;
  const int pass = passes - 1;
  const uint32_t* histogram = p.workspace->histograms[pass];
  if (pass > 0) {
    pivot = p.workspace->pivots[pass - 1];
  } else {
    pivot.numbers -= histogram[0];  // keys below 2^21: no number has one
  }
  pivot = FindDigit<kBlock>(histogram, pivot, pass);
  if (blockIdx.x == 0 && threadIdx.x == 0) p.workspace->pivots[pass] = pivot;
  return pivot;
}

template <int kBlock>
__device__ inline void CountDigits(const RouteParams& p, int pass) {
  __shared__ uint32_t bins[kBins];
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kBlock) bins[i] = 0;
  const Pivot pivot = FindPivot<kBlock>(p, pass);
  const int shift = Shift(pass), known = pass == 0 ? 0 : Shift(pass - 1);
  __syncthreads();
  ForTiles<kBlock>(p, [&](int64_t, const float(&scores)[kItems], int count) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = KeyOf(scores[i]);
      const bool candidate = pass == 0 || (key ^ pivot.key) >> known == 0;
      if (i < count && candidate) atomicAdd(&bins[key >> shift & (kBins - 1)], 1u);
    }
  });
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kBlock) {
    if (bins[i] != 0) atomicAdd(&p.workspace->histograms[pass][i], bins[i]);
  }
}

template <int kBlock>
__device__ inline void Tally(const RouteParams& p) {
  const Pivot pivot = FindPivot<kBlock>(p, kPasses);
  const float centre = ScoreOf(pivot.key);
  double sums[3] = {};  // above, equal, below
  ForTiles<kBlock>(p, [&](int64_t, const float(&scores)[kItems], int count) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (i >= count) continue;
      const uint32_t key = KeyOf(scores[i]);
      sums[0] += key > pivot.key ? 1.0 : 0.0;
      sums[1] += key == pivot.key ? 1.0 : 0.0;
      if (scores[i] < centre) sums[2] += Exp<Lane>(scores[i] - centre);
    }
  });
  BlockSum<kBlock>(sums);
  if (threadIdx.x == 0) {
    p.workspace->above[blockIdx.x] = sums[0];
    p.workspace->equal[blockIdx.x] = sums[1];
    p.workspace->below[blockIdx.x] = sums[2];
  }
}

// No sum can exceed k: every number is clipped to 1.
__device__ __forceinline__ bool AllClipped(const RouteParams& p, const Pivot& pivot) {
  return p.k >= static_cast<int64_t>(pivot.numbers);
}

// e^(s − c) with the rounding error of s − c taken along; at most e^40, which stands for any larger
// value.
__device__ inline float ExpAbove(float score, float centre) {
  const float x = __fsub_rn(score, centre);
  if (x >= 40.0f) return Exp<Lane>(40.0f);
  const float back = __fsub_rn(score, x);
  const float low = __fadd_rn(__fsub_rn(score, __fadd_rn(x, back)), __fsub_rn(back, centre));
  return Exp<Lane>(x, low);
}

template <int kBlock>
__device__ inline void Choose(const RouteParams& p) {
  const Pivot pivot = p.workspace->pivots[kPasses - 1];
  const float centre = ScoreOf(pivot.key);
  double before[2] = {};  // above and equal, in the blocks before this one: exact integers
  for (unsigned b = threadIdx.x; b < blockIdx.x; b += kBlock) {
    before[0] += p.workspace->above[b];
    before[1] += p.workspace->equal[b];
  }
  BlockSum<kBlock>(before);
  uint32_t above = static_cast<uint32_t>(before[0]), equal = static_cast<uint32_t>(before[1]);
  ForTiles<kBlock>(p, [&](int64_t first, const float(&scores)[kItems], int count) {
    // Both counts of a tile in one scan: they are below 2^16.
    uint32_t own = 0, total;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = KeyOf(scores[i]);
      if (i < count && key > pivot.key) own += 1u << 16;
      if (i < count && key == pivot.key) own += 1u;
    }
    const uint32_t lower = BlockScan<kBlock>(own, &total);
    uint32_t a = above + (lower >> 16), e = equal + (lower & 0xffff);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = KeyOf(scores[i]);
      const bool is_above = key > pivot.key, is_equal = key == pivot.key;
      if (i < count && (is_above || (is_equal && e < pivot.wanted))) {
        const uint32_t at = a + (e < pivot.wanted ? e : pivot.wanted);
        p.indices[at] = static_cast<int32_t>(first + i);
        p.weights[at] =
            AllClipped(p, pivot) ? (key != 0 ? 1.0f : 0.0f) : ExpAbove(scores[i], centre);
      }
      if (i < count) {
        a += is_above ? 1 : 0;
        e += is_equal ? 1 : 0;
      }
    }
    above += total >> 16;
    equal += total & 0xffff;
  });
}

// f(x) = sum over chosen of min(1, e·x) + rest·x = k from the left: every step clips more of the
// chosen, or ends. One block; the chosen lie in L1 and L2.
__device__ inline void Weigh(const RouteParams& p, int blocks) {
  const Pivot pivot = p.workspace->pivots[kPasses - 1];
  if (AllClipped(p, pivot)) return;
  double rest[1] = {};
  for (int b = static_cast<int>(threadIdx.x); b < blocks; b += kAllThreads) {
    rest[0] += p.workspace->below[b];
  }
  BlockSum<kAllThreads>(rest);
  rest[0] += static_cast<double>(pivot.equal - pivot.wanted);
  double x = 0, last_count = static_cast<double>(p.k) + 1;
  while (true) {
    double sums[2] = {};  // e and number of the chosen that x does not clip
#pragma unroll 4
    for (int64_t r = threadIdx.x; r < p.k; r += kAllThreads) {
      const double e = p.weights[r];
      if (e * x < 1) {
        sums[0] += e;
        sums[1] += 1;
      }
    }
    BlockSum<kAllThreads>(sums);
    // 0: rounding alone, the last ones are just at 1. Counts only fall, or x has been found.
    if (sums[1] == 0 || sums[1] >= last_count) break;
    last_count = sums[1];
    x = sums[1] / (sums[0] + rest[0]);
  }
  for (int64_t r = threadIdx.x; r < p.k; r += kAllThreads) {
    const double weight = p.weights[r] * x;
    p.weights[r] = weight < 1 ? static_cast<float>(weight) : 1.0f;
  }
}

// ---- launches
// ------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads) CountKernel(RouteParams p, int pass) {
  CountDigits<kThreads>(p, pass);
}
__global__ void __launch_bounds__(kThreads) TallyKernel(RouteParams p) { Tally<kThreads>(p); }
__global__ void __launch_bounds__(kThreads) ChooseKernel(RouteParams p) { Choose<kThreads>(p); }
__global__ void __launch_bounds__(kAllThreads) WeighKernel(RouteParams p, int blocks) {
  Weigh(p, blocks);
}

// All steps by one block; what one leaves in memory the next sees after a barrier.
__global__ void __launch_bounds__(kAllThreads) RouteShort(RouteParams p) {
  uint32_t* bins = p.workspace->histograms[0];
  for (int i = static_cast<int>(threadIdx.x); i < kPasses * kBins; i += kAllThreads) bins[i] = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    __syncthreads();
    CountDigits<kAllThreads>(p, pass);
  }
  __syncthreads();
  Tally<kAllThreads>(p);
  __syncthreads();
  Choose<kAllThreads>(p);
  __syncthreads();
  Weigh(p, 1);
}

cudaError_t RouteLong(const RouteParams& p, cudaStream_t stream) {
  const dim3 grid = GridOf(p.n, p.chunk), block(kThreads);
  cudaError_t error =
      cudaMemsetAsync(p.workspace->histograms, 0, sizeof(Workspace::histograms), stream);
  for (int pass = 0; pass < kPasses && error == cudaSuccess; ++pass) {
    error = Launch(CountKernel, grid, block, 0, stream, p, pass);
  }
  if (error == cudaSuccess) error = Launch(TallyKernel, grid, block, 0, stream, p);
  if (error == cudaSuccess) error = Launch(ChooseKernel, grid, block, 0, stream, p);
  if (error != cudaSuccess) return error;
  return Launch(WeighKernel, dim3(1), dim3(kAllThreads), 0, stream, p, static_cast<int>(grid.x));
}

}  // namespace

int64_t RouteWorkspaceBytes(int64_t) { return sizeof(Workspace); }

cudaError_t Route(const RouteArgs& args, cudaStream_t stream) {
  if (args.k < 0 || args.k > args.n || args.n > 0x7fffffff) return cudaErrorInvalidValue;
  if (args.k == 0) return cudaSuccess;
  RouteParams p = {};
  p.n = args.n;
  p.k = args.k;
  p.scores = args.scores;
  p.indices = args.indices;
  p.weights = args.weights;
  p.workspace = static_cast<Workspace*>(args.scratch);
  p.aligned = VectorRows(args.scores, 0);
  if (args.n <= kMaxShort) {
    p.chunk = kMaxShort;
    return Launch(RouteShort, dim3(1), dim3(kAllThreads), 0, stream, p);
  }
  p.chunk = RoundUp(CeilDiv(args.n, kMaxBlocks), kThreads * kItems);
  return RouteLong(p, stream);
}

}  // namespace longdoc::kernels::cuda
