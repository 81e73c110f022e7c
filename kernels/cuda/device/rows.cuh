// Rows of numbers: accesses of one to eight elements, and sums over the threads that share a row or
// a block.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "kernels/cuda/device/vector.cuh"
#include "kernels/types.h"

namespace longdoc::kernels::cuda {
namespace {  // NOLINT: internal linkage

// ---- N consecutive elements of T (float, Bf16, Fp16) as floats ---------------------------------
// ------------------------------------ N is 1, or 4 or 8 where p is aligned to the N elements
// (fp32: to 16 bytes).

template <class T, int N>
__device__ __forceinline__ void LoadVector(const T* p, float (&v)[N]) {
  static_assert(N == 1 || N == 4 || N == 8, "one or two accesses of 16 bytes, or one element");
  if constexpr (N == 1) {
    v[0] = ToFloat(*p);
  } else if constexpr (N == 8) {
    Load8(p, v);
  } else if constexpr (sizeof(T) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(p);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
  } else {
    const uint2 raw = *reinterpret_cast<const uint2*>(p);
    v[0] = ToFloat(T{static_cast<uint16_t>(raw.x & 0xffff)});
    v[1] = ToFloat(T{static_cast<uint16_t>(raw.x >> 16)});
    v[2] = ToFloat(T{static_cast<uint16_t>(raw.y & 0xffff)});
    v[3] = ToFloat(T{static_cast<uint16_t>(raw.y >> 16)});
  }
}

template <class T, int N>
__device__ __forceinline__ void StoreVector(T* p, const float (&v)[N]) {
  static_assert(N == 1 || N == 4 || N == 8, "one or two accesses of 16 bytes, or one element");
  if constexpr (N == 1) {
    *p = FromFloat<T>(v[0]);
  } else if constexpr (N == 8) {
    Store8(p, v);
  } else if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  } else {
    *reinterpret_cast<uint2*>(p) = make_uint2(Pack2<T>(v[0], v[1]), Pack2<T>(v[2], v[3]));
  }
}

// ---- sums; the order of additions depends on the shape of the launch alone ---------------------

// Every thread of the kTeam (a power of two up to a warp) consecutive threads gets their sum.
template <int kTeam, class T>
__device__ inline T TeamSum(T value) {
#pragma unroll
  for (int step = kTeam / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, step);
  }
  return value;
}

// Every thread of a block of kThreads gets the sums of kCount numbers; a block-wide barrier.
template <int kThreads, int kCount, class T>
__device__ inline void BlockSum(T (&values)[kCount]) {
  constexpr int kWarps = kThreads / 32;  // a power of two
  __shared__ T parts[kWarps * kCount];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  __syncthreads();  // the readers of an earlier call are done
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = TeamSum<32>(values[i]);
    if (threadIdx.x % 32 == 0) parts[warp * kCount + i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = TeamSum<kWarps>(parts[static_cast<int>(threadIdx.x) % kWarps * kCount + i]);
  }
}

// The sum of the values of lower threads of the block, and of all of them in *total.
template <int kThreads>
__device__ inline uint32_t BlockScan(uint32_t value, uint32_t* total) {
  constexpr int kWarps = kThreads / 32;
  __shared__ uint32_t parts[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  uint32_t upto = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t lower = __shfl_up_sync(0xffffffffu, upto, step);
    if (lane >= step) upto += lower;
  }
  __syncthreads();
  if (lane == 31) parts[warp] = upto;
  __syncthreads();
  uint32_t before = upto - value;
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += parts[w];
    *total += parts[w];
  }
  return before;
}

// Host: blocks for `count` items; the grid's x dimension ends at 2^31 − 1.
inline dim3 GridOf(int64_t count, int64_t per_block) {
  return dim3(static_cast<unsigned>(CeilDiv(count, per_block)));
}

}  // namespace
}  // namespace longdoc::kernels::cuda
