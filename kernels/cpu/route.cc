// Route (routing.h): one implementation for every instruction set, compiled for the baseline CPU,
// so that all choose the same tokens with the same weights. Each step is a few passes over n.
//
// Selection: scores become unsigned keys of the same order; three histogram passes (11, 11, 10
// bits) find the k-th largest key, one ordered scan writes the chosen.
//
// Soft top-k: with c the k-th largest score, x = e^(t+c) solves
//   f(x) = sum over chosen of min(1, e_i·x) + rest·x = k,   e_i = e^(s_i − c) >= 1,
// `rest` = the sum of e^(s_i − c) <= 1 over those not chosen, which are never clipped (else f > k).
// f is concave and piecewise linear, so Newton's method from the left only grows x and never passes
// the root; each step clips some more of the chosen, or ends. An entry with
// s_i − c > ln(n − k + 1) is certainly clipped, hence no exponential can overflow that counts.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/simd_portable.h"
#include "kernels/cpu/tables.h"
#include "kernels/routing.h"

namespace longdoc::kernels {
namespace {

using S = SimdPortable;
typedef double Wide __attribute__((vector_size(32)));  // as many lanes as S::Vec

inline double SumOf(const Wide& v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// Larger key = larger score; zeros of either sign are equal, every NaN is 0, below all numbers.
inline uint32_t KeyOf(float score) {
  const float positive_zero = score + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &positive_zero, sizeof(bits));
  const uint32_t flip = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u;
  return score == score ? bits ^ flip : 0;
}

inline float ScoreOf(uint32_t key) {
  const uint32_t bits = (key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key;
  float score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

struct Pivot {
  uint32_t key = 0;    // the k-th largest
  int64_t wanted = 0;  // how many of the keys equal to it are chosen
  int64_t equal = 0;   // how many there are
};

// Counts the digit (key >> shift) & mask of keys [0, n). Two histograms in turn: equal digits one
// after the other would wait for each other's store.
struct Histogram {
  static constexpr int kBins = 2048;
  uint32_t even[kBins], odd[kBins];

  void Count(const uint32_t* keys, int64_t n, int shift) {
    std::memset(this, 0, sizeof(*this));
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) {
      ++even[(keys[i] >> shift) & (kBins - 1)];
      ++odd[(keys[i + 1] >> shift) & (kBins - 1)];
    }
    if (i < n) ++even[(keys[i] >> shift) & (kBins - 1)];
  }
  // The digit of the `wanted`-th largest; `wanted` is then counted within that digit.
  uint32_t Find(int64_t* wanted, int64_t* in_bin) const {
    int bin = kBins - 1;
    for (;; --bin) {
      *in_bin = int64_t{even[bin]} + odd[bin];
      if (*wanted <= *in_bin) return static_cast<uint32_t>(bin);
      *wanted -= *in_bin;
    }
  }
};

// The k-th largest of keys [0, n), 0 < k <= n. `candidates` has room for n.
Pivot SelectPivot(const uint32_t* keys, int64_t n, int64_t k, uint32_t* candidates) {
  Histogram histogram;
  Pivot pivot;
  pivot.wanted = k;
  const uint32_t* from = keys;
  int64_t count = n;
  for (int shift : {21, 10, 0}) {
    // The last digit overlaps the one before by a bit, which is the same in all candidates.
    histogram.Count(from, count, shift);
    int64_t in_bin;
    const uint32_t digit = histogram.Find(&pivot.wanted, &in_bin);
    pivot.key |= digit << shift;
    pivot.equal = in_bin;
    if (shift == 0) break;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {  // in place from the second round on
      const uint32_t key = from[i];
      candidates[kept] = key;
      kept += static_cast<int64_t>(((key >> shift) & (Histogram::kBins - 1)) == digit);
    }
    from = candidates;
    count = kept;
  }
  return pivot;
}

// Writes the k chosen indices in ascending order: keys equal to the pivot only while there are ties
// to take.
void WriteChosen(const uint32_t* keys, int64_t k, const Pivot& pivot, int32_t* indices) {
  int64_t i = 0, count = 0;
  for (int64_t ties = pivot.wanted; ties > 0; ++i) {
    indices[count] = static_cast<int32_t>(i);
    count += static_cast<int64_t>(keys[i] >= pivot.key);
    ties -= static_cast<int64_t>(keys[i] == pivot.key);
  }
  for (; count < k; ++i) {
    indices[count] = static_cast<int32_t>(i);
    count += static_cast<int64_t>(keys[i] > pivot.key);
  }
}

// Sum of e^(s − c) over the scores s < c.
double SumBelow(const float* scores, int64_t n, float c) {
  using Vec = S::Vec;
  const Vec centre = S::Set1(c), zero = S::Set1(0.0f);
  Wide sum = {};
  for (int64_t i = 0; i < n; i += S::kLanes) {
    Vec s = centre;
    if (i + S::kLanes <= n) {
      s = S::Load(scores + i);
    } else {
      std::memcpy(&s, scores + i, static_cast<size_t>(n - i) * sizeof(float));
    }
    const Vec e = S::Select(S::Lt(s, centre), Exp<S>(S::Sub(s, centre)), zero);
    sum += __builtin_convertvector(e, Wide);
  }
  return SumOf(sum);
}

// weights[r] = e^(s − c) of the chosen, with the rounding error of s − c taken along; at most e^40,
// which stands for any larger value.
void ExpOfChosen(const float* scores, const int32_t* indices, int64_t k, float c, float* weights) {
  using Vec = S::Vec;
  const Vec centre = S::Set1(c), limit = S::Set1(40.0f);
  for (int64_t r = 0; r < k; r += S::kLanes) {
    const int64_t count = std::min<int64_t>(k - r, S::kLanes);
    float gathered[S::kLanes] = {};
    for (int64_t l = 0; l < count; ++l) gathered[l] = scores[indices[r + l]];
    const Vec s = S::Load(gathered);
    const Vec x = S::Sub(s, centre);
    const Vec back = S::Sub(s, x);
    const Vec low = S::Add(S::Sub(s, S::Add(x, back)), S::Sub(back, centre));
    const S::Mask clipped = S::Ge(x, limit);
    const Vec e = Exp<S>(S::Select(clipped, limit, x), S::Select(clipped, S::Set1(0.0f), low));
    S::Store(gathered, e);
    std::memcpy(weights + r, gathered, static_cast<size_t>(count) * sizeof(float));
  }
}

// The root x of f (see above) for e [k] and 0 < k; `active` has room for k rounded up to kLanes.
double Solve(const float* e, int64_t k, double rest, float* active) {
  std::memcpy(active, e, static_cast<size_t>(k) * sizeof(float));
  for (int64_t count = k;;) {
    for (int64_t i = count; i % S::kLanes != 0; ++i) active[i] = 0;
    Wide sum = {};
    for (int64_t i = 0; i < count; i += S::kLanes) {
      sum += __builtin_convertvector(S::Load(active + i), Wide);
    }
    const double x = static_cast<double>(count) / (SumOf(sum) + rest);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float value = active[i];
      active[kept] = value;
      kept += static_cast<int64_t>(value * x < 1);
    }
    if (kept == count || kept == 0) return x;  // 0: rounding alone, the last ones are just at 1
    count = kept;
  }
}

}  // namespace

int64_t RouteScratchBytes(int64_t n) {
  return 2 * RoundUp(n * static_cast<int64_t>(sizeof(uint32_t)), 64);
}

void Route(const RouteArgs& args) {
  if (args.k == 0) return;
  uint32_t* keys = static_cast<uint32_t*>(args.scratch);
  void* second = static_cast<char*>(args.scratch) + RouteScratchBytes(args.n) / 2;
  int64_t numbers = 0;
  for (int64_t i = 0; i < args.n; ++i) {
    keys[i] = KeyOf(args.scores[i]);
    numbers += static_cast<int64_t>(keys[i] != 0);
  }
  const Pivot pivot = SelectPivot(keys, args.n, args.k, static_cast<uint32_t*>(second));
  WriteChosen(keys, args.k, pivot, args.indices);
  if (args.k >= numbers) {  // the sum cannot exceed k: every number is clipped
    for (int64_t r = 0; r < args.k; ++r) args.weights[r] = keys[args.indices[r]] != 0 ? 1.0f : 0.0f;
    return;
  }
  const float c = ScoreOf(pivot.key);
  const double rest =
      SumBelow(args.scores, args.n, c) + static_cast<double>(pivot.equal - pivot.wanted);
  ExpOfChosen(args.scores, args.indices, args.k, c, args.weights);
  const double x = Solve(args.weights, args.k, rest, static_cast<float*>(second));
  for (int64_t r = 0; r < args.k; ++r) {
    args.weights[r] = static_cast<float>(std::min(1.0, args.weights[r] * x));
  }
}

}  // namespace longdoc::kernels
