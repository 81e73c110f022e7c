// Instructions of sm_90a: mbarriers, bulk tensor copies (TMA), warpgroup matrix products (wgmma)
// and register hand-over. Code that uses them is compiled only where
//   #if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)
//
// Shared tiles are K-major or MN-major with the 128-byte swizzle: bits 4 to 6 of an address are
// exclusive-ored with bits 7 to 9, in blocks of 8 rows of 128 bytes, 1024-byte aligned.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "kernels/cuda/device/wgmma.cuh"

namespace longdoc::kernels::cuda {

// ---- mbarriers, 8 bytes in dynamic shared memory -----------------------------------------------
// A phase ends when `count` arrivals and all expected bytes have come. Phases are numbered from 0;
// BarrierWait(b, p) returns at once when the phase of parity p is over, so the first wait of a
// consumer has parity 0, and the first of a producer on "empty" barriers parity 1.

__device__ __forceinline__ void BarrierInit(uint64_t* barrier, uint32_t count) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::BarrierInit(barrier, count);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(count)
               : "memory");
#endif
}

// By the thread that initialised, before the __syncthreads after which others use the barriers.
__device__ __forceinline__ void BarrierInitFence() {
#if !defined(LONGDOC_CUDA_EMULATION)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void BarrierArrive(uint64_t* barrier) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::BarrierArrive(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
#endif
}

// Arrives and adds `bytes` that the phase waits for; before the copies are issued.
__device__ __forceinline__ void BarrierArriveExpect(uint64_t* barrier, uint32_t bytes) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::BarrierArrive(barrier, bytes);
#else
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
#endif
}

__device__ __forceinline__ void BarrierWait(uint64_t* barrier, uint32_t parity) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::BarrierWait(barrier, parity);
#else
  uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
#endif
}

// Makes this thread's ordinary stores to shared memory visible to wgmma and TMA; before the barrier
// after which they are issued. Also before TMA overwrites what was read with ordinary loads.
__device__ __forceinline__ void FenceProxyAsync() {
#if !defined(LONGDOC_CUDA_EMULATION)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- bulk tensor copies -------------------------------------------------------------------------
// By one thread. Box corner (x, y, z[, w]) in elements, x innermost, may lie outside the tensor;
// elements out of range arrive as zeros and count among the bytes of the box. The map is a
// __grid_constant__ kernel parameter; `shared` is 1024-byte aligned.

__device__ __forceinline__ void TmaLoad3D(void* shared, const CUtensorMap* map, uint64_t* barrier,
                                          int x, int y, int z) {
#if defined(LONGDOC_CUDA_EMULATION)
  const int corner[3] = {x, y, z};
  emulation::TmaLoad(shared, map, barrier, corner, 3);
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}

__device__ __forceinline__ void TmaLoad4D(void* shared, const CUtensorMap* map, uint64_t* barrier,
                                          int x, int y, int z, int w) {
#if defined(LONGDOC_CUDA_EMULATION)
  const int corner[4] = {x, y, z, w};
  emulation::TmaLoad(shared, map, barrier, corner, 4);
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
#endif
}

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
#if defined(LONGDOC_CUDA_EMULATION)
  static_cast<void>(map);
#else
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

// Describes a tensor of T (Bf16 or Fp16) in device memory, 16-byte aligned, for 128-byte swizzled
// loads. `dims` [rank] and `box` [rank] in elements, innermost first; `strides_bytes` [rank - 1] of
// dimensions 1 and up, multiples of 16. The innermost box is 64 elements, 128 bytes (a narrower
// tensor is filled up with zeros), the others up to 256. Needs no link against the driver library.
template <typename T>
cudaError_t MakeTensorMap(CUtensorMap* map, const void* base, int rank, const uint64_t* dims,
                          const uint64_t* strides_bytes, const uint32_t* box) {
  static_assert(sizeof(T) == 2, "16-bit elements");
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
      entry = nullptr;
    }
    return reinterpret_cast<Encode>(entry);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint32_t element_strides[5] = {1, 1, 1, 1, 1};
  if (rank < 1 || rank > 5 || box[0] != 64) return cudaErrorInvalidValue;
  const CUresult result = encode(
      map,
      std::is_same<T, Bf16>::value ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      static_cast<cuuint32_t>(rank), const_cast<void*>(base),
      reinterpret_cast<const cuuint64_t*>(dims), reinterpret_cast<const cuuint64_t*>(strides_bytes),
      box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// ---- registers of warpgroups ----------------------------------------------------------------

// By all warps of a warpgroup; N a multiple of 8 from 24 to 256. Takes effect only in kernels with
// __launch_bounds__(threads, 1).
template <int N>
__device__ __forceinline__ void RegistersDecrease() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256, "a multiple of 8 from 24 to 256");
#if !defined(LONGDOC_CUDA_EMULATION)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N>
__device__ __forceinline__ void RegistersIncrease() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256, "a multiple of 8 from 24 to 256");
#if !defined(LONGDOC_CUDA_EMULATION)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

}  // namespace longdoc::kernels::cuda
