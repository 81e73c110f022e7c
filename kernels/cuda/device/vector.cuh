// Eight elements at a time: 16-byte loads and stores of the 16-bit formats, two for fp32.
#pragma once

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {

// Elements of one vector access.
constexpr int kVector = 8;

// `p` is 16-byte aligned in all of these.
__device__ __forceinline__ void Load8(const float* p, float (&v)[8]) {
  const float4 lo = *reinterpret_cast<const float4*>(p);
  const float4 hi = *reinterpret_cast<const float4*>(p + 4);
  v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w;
  v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}

template <typename T>
__device__ __forceinline__ void Load8(const T* p, float (&v)[8]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = ToFloat(T{static_cast<uint16_t>(words[i] & 0xffff)});
    v[2 * i + 1] = ToFloat(T{static_cast<uint16_t>(words[i] >> 16)});
  }
}

__device__ __forceinline__ void Store8(float* p, const float (&v)[8]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

template <typename T>
__device__ __forceinline__ void Store8(T* p, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(p) = make_uint4(Pack2<T>(v[0], v[1]), Pack2<T>(v[2], v[3]),
                                            Pack2<T>(v[4], v[5]), Pack2<T>(v[6], v[7]));
}

// Whether rows of `stride` elements of T from `base` can be read eight elements at a time.
template <typename T>
bool VectorRows(const T* base, int64_t stride) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 &&
         stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

}  // namespace longdoc::kernels::cuda
