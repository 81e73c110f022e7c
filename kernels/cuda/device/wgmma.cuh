// Warpgroup matrix products of sm_90a: D [64, N] (+)= A [64, 16] * B [16, N], sums in fp32, issued
// by the 128 threads of a warpgroup together. hopper.cuh says where this may be compiled.
//
// D, thread t of the warpgroup, warp w = t / 32, lane l: d[4j + 0], d[4j + 1] are row 16w + l / 4,
// columns 8j + 2(l % 4) and the next; d[4j + 2], d[4j + 3] the same of the row 8 below. A in
// registers: the fragment of primitives.cuh, rows 16w to 16w + 15.
//
// Order of use: WgmmaFence after ordinary writes to d or to A's registers; the products;
// WgmmaCommit; WgmmaWait<n> before d, A's registers or the shared tiles are touched again, then
// PinRegisters on what was waited for.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {

__device__ __forceinline__ void WgmmaFence() {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::WgmmaFence();
#else
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Closes the products issued since the last commit into a group.
__device__ __forceinline__ void WgmmaCommit() {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::WgmmaCommit();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Returns when all but the newest kPending groups are done.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::WgmmaWait(kPending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Keeps the compiler from moving reads and writes of these registers across this point: it does
// not know that a product started earlier still writes them.
template <int N>
__device__ __forceinline__ void PinRegisters(float (&r)[N]) {
#if defined(LONGDOC_CUDA_EMULATION)
  static_cast<void>(r);
#else
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
#endif
}

// Where a 128-byte swizzled operand lies. K-major ([MN][K], 64 elements of K a row):
// `stride_bytes` from 8 rows to the next 8 (1024 when dense), `leading_bytes` unused; step 32 bytes
// on for the next 16 of K. MN-major ([K][MN], 64 elements of MN a row; kTransB): `stride_bytes`
// from 8 rows of K to the next 8, `leading_bytes` from 64 columns of MN to the next 64.
__device__ __forceinline__ uint64_t SharedDescriptor(const void* shared, uint32_t leading_bytes,
                                                     uint32_t stride_bytes) {
  const uint64_t swizzle_128b = 1;
  return static_cast<uint64_t>((SharedAddress(shared) & 0x3ffff) >> 4) |
         static_cast<uint64_t>((leading_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3ffff) >> 4) << 32 | swizzle_128b << 62;
}

// The N that are instantiated below: multiples of 16 to 192, and 256.
#if defined(LONGDOC_CUDA_EMULATION)

template <typename T, int N, bool kTransB>
__device__ inline void WgmmaSS(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  emulation::Wgmma(d, N, nullptr, a, b, kTransB, accumulate, std::is_same_v<T, Bf16>);
}
template <typename T, int N, bool kTransB>
__device__ inline void WgmmaRS(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                               bool accumulate) {
  emulation::Wgmma(d, N, a, 0, b, kTransB, accumulate, std::is_same_v<T, Bf16>);
}

#else

// Operand lists of 8 registers each: R<n> their numbers, O<n> the operands themselves.
#define LONGDOC_R1 "%0,%1,%2,%3,%4,%5,%6,%7"
#define LONGDOC_R2 LONGDOC_R1 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define LONGDOC_R3 LONGDOC_R2 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define LONGDOC_R4 LONGDOC_R3 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define LONGDOC_R5 LONGDOC_R4 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define LONGDOC_R6 LONGDOC_R5 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define LONGDOC_R7 LONGDOC_R6 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define LONGDOC_R8 LONGDOC_R7 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define LONGDOC_R9 LONGDOC_R8 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define LONGDOC_R10 LONGDOC_R9 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define LONGDOC_R11 LONGDOC_R10 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define LONGDOC_R12 LONGDOC_R11 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define LONGDOC_R13 LONGDOC_R12 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define LONGDOC_R14 LONGDOC_R13 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define LONGDOC_R15 LONGDOC_R14 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define LONGDOC_R16 LONGDOC_R15 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define LONGDOC_O(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define LONGDOC_O1 LONGDOC_O(0)
#define LONGDOC_O2 LONGDOC_O1, LONGDOC_O(8)
#define LONGDOC_O3 LONGDOC_O2, LONGDOC_O(16)
#define LONGDOC_O4 LONGDOC_O3, LONGDOC_O(24)
#define LONGDOC_O5 LONGDOC_O4, LONGDOC_O(32)
#define LONGDOC_O6 LONGDOC_O5, LONGDOC_O(40)
#define LONGDOC_O7 LONGDOC_O6, LONGDOC_O(48)
#define LONGDOC_O8 LONGDOC_O7, LONGDOC_O(56)
#define LONGDOC_O9 LONGDOC_O8, LONGDOC_O(64)
#define LONGDOC_O10 LONGDOC_O9, LONGDOC_O(72)
#define LONGDOC_O11 LONGDOC_O10, LONGDOC_O(80)
#define LONGDOC_O12 LONGDOC_O11, LONGDOC_O(88)
#define LONGDOC_O13 LONGDOC_O12, LONGDOC_O(96)
#define LONGDOC_O14 LONGDOC_O13, LONGDOC_O(104)
#define LONGDOC_O15 LONGDOC_O14, LONGDOC_O(112)
#define LONGDOC_O16 LONGDOC_O15, LONGDOC_O(120)

// One N: its number of register lists, and the numbers of the operands that follow them.
#define LONGDOC_WGMMA_SS(n, lists, type, i0, i1, i2, i3)                                 \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2                                  \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type           \
               " {" LONGDOC_R##lists "}, %" #i0 ", %" #i1 ", p, 1, 1, 0, %" #i3 ";\n}\n" \
               : LONGDOC_O##lists                                                        \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransB ? 1 : 0))
#define LONGDOC_WGMMA_RS(n, lists, type, i0, i1, i2, i3, i4, i5, i6)                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5                                   \
               ", 0;\n"                                                                   \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type            \
               " {" LONGDOC_R##lists "}, {%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}, %" #i4 \
                                     ", p, 1, 1, %" #i6 ";\n}\n"                          \
               : LONGDOC_O##lists                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                      \
                 "r"(static_cast<int>(accumulate)), "n"(kTransB ? 1 : 0))
#define LONGDOC_WGMMA_SS_CASE(n, lists, ...)         \
  if constexpr (N == n && std::is_same_v<T, Bf16>) { \
    LONGDOC_WGMMA_SS(n, lists, "bf16", __VA_ARGS__); \
  } else if constexpr (N == n) {                     \
    LONGDOC_WGMMA_SS(n, lists, "f16", __VA_ARGS__);  \
  }
#define LONGDOC_WGMMA_RS_CASE(n, lists, ...)         \
  if constexpr (N == n && std::is_same_v<T, Bf16>) { \
    LONGDOC_WGMMA_RS(n, lists, "bf16", __VA_ARGS__); \
  } else if constexpr (N == n) {                     \
    LONGDOC_WGMMA_RS(n, lists, "f16", __VA_ARGS__);  \
  }

constexpr bool WgmmaWidth(int n) { return n % 16 == 0 && ((n >= 16 && n <= 192) || n == 256); }

// A and B from shared memory, A K-major.
template <typename T, int N, bool kTransB>
__device__ __forceinline__ void WgmmaSS(float (&d)[N / 2], uint64_t a, uint64_t b,
                                        bool accumulate) {
  static_assert(WgmmaWidth(N), "not instantiated");
  LONGDOC_WGMMA_SS_CASE(16, 1, 8, 9, 10, 11)
  LONGDOC_WGMMA_SS_CASE(32, 2, 16, 17, 18, 19)
  LONGDOC_WGMMA_SS_CASE(48, 3, 24, 25, 26, 27)
  LONGDOC_WGMMA_SS_CASE(64, 4, 32, 33, 34, 35)
  LONGDOC_WGMMA_SS_CASE(80, 5, 40, 41, 42, 43)
  LONGDOC_WGMMA_SS_CASE(96, 6, 48, 49, 50, 51)
  LONGDOC_WGMMA_SS_CASE(112, 7, 56, 57, 58, 59)
  LONGDOC_WGMMA_SS_CASE(128, 8, 64, 65, 66, 67)
  LONGDOC_WGMMA_SS_CASE(144, 9, 72, 73, 74, 75)
  LONGDOC_WGMMA_SS_CASE(160, 10, 80, 81, 82, 83)
  LONGDOC_WGMMA_SS_CASE(176, 11, 88, 89, 90, 91)
  LONGDOC_WGMMA_SS_CASE(192, 12, 96, 97, 98, 99)
  LONGDOC_WGMMA_SS_CASE(256, 16, 128, 129, 130, 131)
}

// A from registers, B from shared memory.
template <typename T, int N, bool kTransB>
__device__ __forceinline__ void WgmmaRS(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                                        bool accumulate) {
  static_assert(WgmmaWidth(N), "not instantiated");
  LONGDOC_WGMMA_RS_CASE(16, 1, 8, 9, 10, 11, 12, 13, 14)
  LONGDOC_WGMMA_RS_CASE(32, 2, 16, 17, 18, 19, 20, 21, 22)
  LONGDOC_WGMMA_RS_CASE(48, 3, 24, 25, 26, 27, 28, 29, 30)
  LONGDOC_WGMMA_RS_CASE(64, 4, 32, 33, 34, 35, 36, 37, 38)
  LONGDOC_WGMMA_RS_CASE(80, 5, 40, 41, 42, 43, 44, 45, 46)
  LONGDOC_WGMMA_RS_CASE(96, 6, 48, 49, 50, 51, 52, 53, 54)
  LONGDOC_WGMMA_RS_CASE(112, 7, 56, 57, 58, 59, 60, 61, 62)
  LONGDOC_WGMMA_RS_CASE(128, 8, 64, 65, 66, 67, 68, 69, 70)
  LONGDOC_WGMMA_RS_CASE(144, 9, 72, 73, 74, 75, 76, 77, 78)
  LONGDOC_WGMMA_RS_CASE(160, 10, 80, 81, 82, 83, 84, 85, 86)
  LONGDOC_WGMMA_RS_CASE(176, 11, 88, 89, 90, 91, 92, 93, 94)
  LONGDOC_WGMMA_RS_CASE(192, 12, 96, 97, 98, 99, 100, 101, 102)
  LONGDOC_WGMMA_RS_CASE(256, 16, 128, 129, 130, 131, 132, 133, 134)
}
#undef LONGDOC_R1
#undef LONGDOC_O1
#undef LONGDOC_R2
#undef LONGDOC_O2
#undef LONGDOC_R3
#undef LONGDOC_O3
#undef LONGDOC_R4
#undef LONGDOC_O4
#undef LONGDOC_R5
#undef LONGDOC_O5
#undef LONGDOC_R6
#undef LONGDOC_O6
#undef LONGDOC_R7
#undef LONGDOC_O7
#undef LONGDOC_R8
#undef LONGDOC_O8
#undef LONGDOC_R9
#undef LONGDOC_O9
#undef LONGDOC_R10
#undef LONGDOC_O10
#undef LONGDOC_R11
#undef LONGDOC_O11
#undef LONGDOC_R12
#undef LONGDOC_O12
#undef LONGDOC_R13
#undef LONGDOC_O13
#undef LONGDOC_R14
#undef LONGDOC_O14
#undef LONGDOC_R15
#undef LONGDOC_O15
#undef LONGDOC_R16
#undef LONGDOC_O16
#undef LONGDOC_O
#undef LONGDOC_WGMMA_SS
#undef LONGDOC_WGMMA_RS
#undef LONGDOC_WGMMA_SS_CASE
#undef LONGDOC_WGMMA_RS_CASE

#endif

}  // namespace longdoc::kernels::cuda
