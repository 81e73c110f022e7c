// CUDA C++ as C++: keywords, built-in variables and the device functions that longdoc uses.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "emulation.h"

#define __host__
#define __device__
#define __global__
#define __constant__
// Blocks run one after the other, so one copy for all of them does.
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace longdoc::kernels::cuda::emulation {
template <typename T>
uint64_t Raw(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 8 plain bytes");
  uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof(value));
  return raw;
}
template <typename T, typename U>
T Reinterpret(U raw) {
  T value;
  static_assert(sizeof(T) <= sizeof(U), "no more bytes than there are");
  std::memcpy(&value, &raw, sizeof(value));
  return value;
}
template <typename T>
T ShuffleValue(ShuffleKind kind, unsigned mask, T value, int argument, int width) {
  return Reinterpret<T>(Shuffle(kind, mask, Raw(value), argument, width));
}
}  // namespace longdoc::kernels::cuda::emulation

// ---- synchronisation and warps ---------------------------------------------------------------

inline void __syncthreads() { longdoc::kernels::cuda::emulation::BlockBarrier(false); }
inline int __syncthreads_count(int value) {
  return longdoc::kernels::cuda::emulation::BlockBarrier(value != 0);
}
inline int __syncthreads_or(int value) { return __syncthreads_count(value) != 0; }
inline int __syncthreads_and(int value) { return __syncthreads_count(!value) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffff) {
  longdoc::kernels::cuda::emulation::WarpMeet("__syncwarp", mask, nullptr, nullptr);
}
inline unsigned __activemask() { return longdoc::kernels::cuda::emulation::ActiveMask(); }
inline unsigned __ballot_sync(unsigned mask, int value) {
  return longdoc::kernels::cuda::emulation::Ballot(mask, value != 0);
}
inline int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, !value) == 0; }
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  using namespace longdoc::kernels::cuda::emulation;
  return ShuffleValue(ShuffleKind::kIndex, mask, value, lane, width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace longdoc::kernels::cuda::emulation;
  return ShuffleValue(ShuffleKind::kUp, mask, value, static_cast<int>(delta), width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace longdoc::kernels::cuda::emulation;
  return ShuffleValue(ShuffleKind::kDown, mask, value, static_cast<int>(delta), width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  using namespace longdoc::kernels::cuda::emulation;
  return ShuffleValue(ShuffleKind::kXor, mask, value, lane_mask, width);
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  using namespace longdoc::kernels::cuda::emulation;
  return MatchAny(mask, Raw(value));
}

#define LONGDOC_REDUCE(name, type, kind)                                                    \
  inline type __reduce_##name##_sync(unsigned mask, type value) {                           \
    using namespace longdoc::kernels::cuda::emulation;                                      \
    return static_cast<type>(Reduce(ReduceKind::kind, mask, static_cast<uint32_t>(value))); \
  }
LONGDOC_REDUCE(add, unsigned, kAdd)
LONGDOC_REDUCE(add, int, kAdd)
LONGDOC_REDUCE(min, unsigned, kMin)
LONGDOC_REDUCE(min, int, kMinSigned)
LONGDOC_REDUCE(max, unsigned, kMax)
LONGDOC_REDUCE(max, int, kMaxSigned)
LONGDOC_REDUCE(and, unsigned, kAnd)
LONGDOC_REDUCE(or, unsigned, kOr)
LONGDOC_REDUCE(xor, unsigned, kXor)
#undef LONGDOC_REDUCE

// ---- memory
// --------------------------------------------------------------------------------------

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
T __ldca(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}
template <typename T>
void __stcg(T* p, T value) {
  *p = value;
}

#define LONGDOC_ATOMIC(name, type, expression)          \
  inline type atomic##name(type* address, type value) { \
    const type old = *address;                          \
    *address = (expression);                            \
    return old;                                         \
  }
#define LONGDOC_ATOMICS(type)                                      \
  LONGDOC_ATOMIC(Add, type, old + value)                           \
  LONGDOC_ATOMIC(Max, type, old > value ? old : value)             \
  LONGDOC_ATOMIC(Min, type, old < value ? old : value)             \
  LONGDOC_ATOMIC(Exch, type, value)                                \
  LONGDOC_ATOMIC(Or, type, old | value)                            \
  LONGDOC_ATOMIC(And, type, old& value)                            \
  LONGDOC_ATOMIC(Xor, type, old ^ value)                           \
  inline type atomicCAS(type* address, type compare, type value) { \
    const type old = *address;                                     \
    if (old == compare) *address = value;                          \
    return old;                                                    \
  }
LONGDOC_ATOMICS(int)
LONGDOC_ATOMICS(unsigned)
LONGDOC_ATOMICS(unsigned long long)
LONGDOC_ATOMIC(Sub, int, old - value)
LONGDOC_ATOMIC(Sub, unsigned, old - value)
LONGDOC_ATOMIC(Inc, unsigned, old >= value ? 0 : old + 1)
#undef LONGDOC_ATOMICS
#undef LONGDOC_ATOMIC

// ---- bits
// ------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  shift &= 31;
  return shift == 0 ? hi : hi << shift | lo >> (32 - shift);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  shift &= 31;
  return shift == 0 ? lo : lo >> shift | hi << (32 - shift);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = x | static_cast<unsigned long long>(y) << 32;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7)) & 0xff);
    if ((pick & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __float_as_uint(float x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<unsigned>(x);
}
inline int __float_as_int(float x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<int>(x);
}
inline float __uint_as_float(unsigned x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<float>(x);
}
inline float __int_as_float(int x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<float>(x);
}
inline long long __double_as_longlong(double x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<long long>(x);
}
inline double __longlong_as_double(long long x) {
  return longdoc::kernels::cuda::emulation::Reinterpret<double>(x);
}

// ---- arithmetic
// ------------------------------------------------------------------------------------

// Conversions saturate, NaN becomes 0.
template <typename I>
I LongdocToInteger(double x) {
  if (std::isnan(x)) return 0;
  constexpr I low = static_cast<I>(std::is_signed<I>::value ? I{1} << (sizeof(I) * 8 - 1) : 0);
  constexpr I high = static_cast<I>(~low);
  if (x <= static_cast<double>(low)) return low;
  if (x >= static_cast<double>(high)) return high;
  return static_cast<I>(x);
}
inline int __float2int_rn(float x) { return LongdocToInteger<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return LongdocToInteger<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return LongdocToInteger<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return LongdocToInteger<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return LongdocToInteger<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return LongdocToInteger<unsigned>(std::trunc(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
// Never fused: these translation units are compiled with -ffp-contract=off.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frsqrt_rn(float a) { return static_cast<float>(1.0 / std::sqrt(double{a})); }
inline float rsqrtf(float a) { return static_cast<float>(1.0 / std::sqrt(double{a})); }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

#define LONGDOC_MIN_MAX(type)                               \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
LONGDOC_MIN_MAX(int)
LONGDOC_MIN_MAX(unsigned)
LONGDOC_MIN_MAX(long)
LONGDOC_MIN_MAX(unsigned long)
LONGDOC_MIN_MAX(long long)
LONGDOC_MIN_MAX(unsigned long long)
#undef LONGDOC_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
