// What every CUDA source includes first: keywords, launches, dynamic shared memory and the two
// 16-bit formats.
//
// The sources compile twice: by nvcc, and as C++ against the emulator of the tests (macro
// LONGDOC_CUDA_EMULATION), which brings its own cuda_runtime.h. So nothing here or in a kernel uses
// <<<>>>, inline assembly (that is for primitives.cuh and hopper.cuh), clusters or waits for other
// blocks.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace longdoc::kernels::cuda {

// Shared memory that a block gets without asking.
constexpr size_t kDefaultSharedBytes = 48 * 1024;

// Starts `kernel` and returns the error of the launch (bad shape, too much shared memory); what
// goes wrong while it runs is reported by later calls. An empty grid is an error, as in CUDA.
template <typename... P, typename... A>
cudaError_t Launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, A&&... args) {
#if defined(LONGDOC_CUDA_EMULATION)
  return emulation::Launch(kernel, grid, block, shared_bytes, stream, std::forward<A>(args)...);
#else
  if (shared_bytes > kDefaultSharedBytes) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
#endif
}

// Start of the block's dynamic shared memory, 1024-byte aligned (what a 128-byte swizzle asks for).
// The primitives that take 32-bit shared addresses work on this memory only.
__device__ __forceinline__ unsigned char* DynamicShared() {
#if defined(LONGDOC_CUDA_EMULATION)
  return emulation::DynamicShared();
#else
  extern __shared__ __align__(1024) unsigned char longdoc_dynamic_shared[];
  return longdoc_dynamic_shared;
#endif
}

// ---- 16-bit formats -----------------------------------------------------------------------------

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

__host__ __device__ __forceinline__ uint32_t BitsOf(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

__host__ __device__ __forceinline__ float FloatOf(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

__host__ __device__ __forceinline__ float ToFloat(float value) { return value; }

__host__ __device__ __forceinline__ float ToFloat(Bf16 value) {
  return FloatOf(static_cast<uint32_t>(value.bits) << 16);
}

__host__ __device__ __forceinline__ float ToFloat(Fp16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return FloatOf(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // Exponents count from 127 instead of 15: a product by 2^112, exact, subnormal numbers included.
  return FloatOf(sign | BitsOf(FloatOf(magnitude << 13) * 0x1p112f));
#endif
}

// Rounds to nearest, ties to even; NaN becomes the device's only NaN of the format.
template <typename T>
__host__ __device__ T FromFloat(float value);

template <>
__host__ __device__ __forceinline__ float FromFloat<float>(float value) {
  return value;
}

template <>
__host__ __device__ __forceinline__ Bf16 FromFloat<Bf16>(float value) {
#if defined(__CUDA_ARCH__)
  Bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

template <>
__host__ __device__ __forceinline__ Fp16 FromFloat<Fp16>(float value) {
#if defined(__CUDA_ARCH__)
  Fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = BitsOf(value), magnitude = bits & 0x7fffffff;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return {0x7fff};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // 65520 and more
  if (magnitude < 0x38800000) {
    // Below 2^-14, in units of 2^-24: adding 0.5 leaves those units as the last bits of the sum,
    // rounded as asked.
    const uint32_t units = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);
    return {static_cast<uint16_t>(sign | units)};
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13)};
#endif
}

}  // namespace longdoc::kernels::cuda
