// Warp-level instructions of sm_80 and later: exponential, packing, matrix product, matrix loads
// and asynchronous copies. Collective ones are called by all 32 lanes of a warp together.
//
// Fragments, for lane l with g = l / 4 and t = l % 4 (element pairs, the lower column in the low
// half of a register):
//   a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8)     of A [16, 16]
//   b[0] (2t, g), b[1] (2t + 8, g), pairs down the rows                        of B [16, 8]
//   d[0], d[1] (g, 2t), (g, 2t + 1); d[2], d[3] the same of row g + 8          of D [16, 8]
#pragma once

#include <type_traits>

#include "kernels/cuda/device/platform.h"

namespace longdoc::kernels::cuda {

// 2^x to about 2 ulp; results below the normal range are 0, 2^-inf = 0.
__device__ __forceinline__ float Exp2(float x) {
#if defined(LONGDOC_CUDA_EMULATION)
  return emulation::Exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Two numbers rounded to T in one register, `lo` in the low half.
template <typename T>
__device__ uint32_t Pack2(float lo, float hi);

#if defined(LONGDOC_CUDA_EMULATION)
template <typename T>
__device__ inline uint32_t Pack2(float lo, float hi) {
  return FromFloat<T>(lo).bits | static_cast<uint32_t>(FromFloat<T>(hi).bits) << 16;
}
#else
template <>
__device__ __forceinline__ uint32_t Pack2<Bf16>(float lo, float hi) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}
template <>
__device__ __forceinline__ uint32_t Pack2<Fp16>(float lo, float hi) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}
#endif

// The shared window's address of a pointer into dynamic shared memory.
__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
#if defined(LONGDOC_CUDA_EMULATION)
  return emulation::SharedAddress(shared);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
#endif
}

// d += a * b; a 16x16, b 16x8, sums in fp32.
template <typename T>
__device__ void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#if defined(LONGDOC_CUDA_EMULATION)
template <typename T>
__device__ inline void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Mma16816(d, a, b, std::is_same_v<T, Bf16>);
}
#else
template <>
__device__ __forceinline__ void Mma16816<Bf16>(float (&d)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void Mma16816<Fp16>(float (&d)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Four 8x8 matrices of 16-bit elements from dynamic shared memory. Lane l names the 16-byte row
// l % 8 of matrix l / 8; afterwards r[i] holds elements (g, 2t), (g, 2t + 1) of matrix i, or with
// Trans of its transpose: (2t, g), (2t + 1, g).
__device__ __forceinline__ void LoadMatrixX4(uint32_t (&r)[4], const void* shared) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::LoadMatrixX4(r, shared, /*transpose=*/false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
#endif
}
__device__ __forceinline__ void LoadMatrixX4Trans(uint32_t (&r)[4], const void* shared) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::LoadMatrixX4(r, shared, /*transpose=*/true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
#endif
}

// ---- asynchronous copies ------------------------------------------------------------------------
// Per thread: copies issued, closed into groups by CopyAsyncCommit. CopyAsyncWait<N> returns when
// all but the newest N groups of this thread have arrived; other threads see them after a barrier
// that follows.

// 16 bytes, both sides 16-byte aligned; zeros when !valid, without reading `global` (which still
// has to be a pointer that may be formed).
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::CopyAsync16(shared, global, valid);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(SharedAddress(shared)), "l"(__cvta_generic_to_global(global)),
                 "r"(valid ? 16 : 0)
               : "memory");
#endif
}

// The same for memory that is read once: it is the first to leave L2 when others want room.
__device__ __forceinline__ void CopyAsync16Once(void* shared, const void* global, bool valid) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::CopyAsync16(shared, global, valid);
#else
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
               :
               : "r"(SharedAddress(shared)), "l"(__cvta_generic_to_global(global)),
                 "r"(valid ? 16 : 0), "l"(policy)
               : "memory");
#endif
}

__device__ __forceinline__ void CopyAsyncCommit() {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::CopyAsyncCommit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kPending>
__device__ __forceinline__ void CopyAsyncWait() {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::CopyAsyncWait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// `count` threads (a multiple of 32) meet at barrier `id` (1 to 15; 0 is __syncthreads). Arrive
// counts without waiting; arrivals and waiters together make up `count`.
__device__ __forceinline__ void NamedBarrierSync(int id, int count) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::NamedBarrierSync(id, count);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
#endif
}
__device__ __forceinline__ void NamedBarrierArrive(int id, int count) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::NamedBarrierArrive(id, count);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
#endif
}

}  // namespace longdoc::kernels::cuda
