// TMA loads, mbarriers and wgmma against their definitions, on compute capability 9.0. On a GPU
// these tests say whether the emulator is right about swizzles, descriptors and fragments.
#include <random>

#include "kernels/cuda/device/hopper.cuh"
#include "kernels/cuda/device/platform.h"
#include "tests/kernels/cuda/parity.h"

namespace longdoc::kernels::cuda::parity {
namespace {

bool HaveHopper() {
  if (Capabilities().back() != 9) {
    std::printf("skipped: needs compute capability 9.0\n");
    return false;
  }
  UseCapability(9);
  return true;
}

template <typename T>
std::vector<T> RandomValues(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (T& v : values) v = FromFloat<T>(normal(generator));
  return values;
}

// ---- TMA
// -------------------------------------------------------------------------------------------

// One box [2, 24, 64] or [2, 1, 24, 64] as it lies in shared memory.
template <int kRank>
__global__ void TmaKernel(const __grid_constant__ CUtensorMap map, uint16_t* out, int x, int y,
                          int z, int w) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)
  constexpr int kBytes = 2 * 24 * 128;
  unsigned char* tile = DynamicShared();
  uint64_t* barrier = reinterpret_cast<uint64_t*>(tile + kBytes);
  if (threadIdx.x == 0) {
    PrefetchTensorMap(&map);
    BarrierInit(barrier, 1);
    BarrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    BarrierArriveExpect(barrier, kBytes);
    if constexpr (kRank == 3) {
      TmaLoad3D(tile, &map, barrier, x, y, z);
    } else {
      TmaLoad4D(tile, &map, barrier, x, y, z, w);
    }
  }
  BarrierWait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < kBytes / 2; i += static_cast<int>(blockDim.x)) {
    out[i] = reinterpret_cast<const uint16_t*>(tile)[i];
  }
#endif
}

// A tensor [5, 3, 40, 80] of 16-bit numbers, or [15, 40, 80], whose rows are 88 elements apart.
template <int kRank>
void TestTma(int x, int y, int z, int w) {
  const int columns = 80, rows = 40, stride = 88, inner = kRank == 3 ? 15 : 3, outer = 5;
  std::vector<uint16_t> in(static_cast<size_t>(stride * rows * 15));
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  const DeviceArray<uint16_t> din(in), out(2 * 24 * 64);
  const uint64_t dims[4] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows),
                            static_cast<uint64_t>(inner), static_cast<uint64_t>(outer)};
  const uint64_t row_bytes = static_cast<uint64_t>(stride) * 2;
  const uint64_t strides[3] = {row_bytes, row_bytes * rows, row_bytes * rows * 3};
  const uint32_t box3[3] = {64, 24, 2}, box4[4] = {64, 24, 1, 2};
  CUtensorMap map;
  REQUIRE_OK(MakeTensorMap<Bf16>(&map, din.data(), kRank, dims, strides, kRank == 3 ? box3 : box4));
  REQUIRE_OK(
      Launch(TmaKernel<kRank>, dim3(1), dim3(64), 8192, nullptr, map, out.data(), x, y, z, w));
  const std::vector<uint16_t> got = out.Download();
  for (int i = 0; i < 2 * 24 * 64; ++i) {
    const int c = x + i % 64, r = y + i / 64 % 24, p = i / 64 / 24;
    const int at_z = kRank == 3 ? z + p : z, at_w = kRank == 3 ? 0 : w + p;
    const bool inside = c >= 0 && c < columns && r >= 0 && r < rows && at_z >= 0 && at_z < inner &&
                        at_w >= 0 && at_w < outer;
    const int expected = inside ? in[((at_w * 3 + at_z) * rows + r) * stride + c] : 0;
    const int line = i / 64, piece = i % 64 / 8 ^ line % 8;  // 128-byte lines, 16-byte pieces
    const int actual = got[line * 64 + piece * 8 + i % 8];
    if (actual != expected) {
      Failed(__FILE__, __LINE__, "rank %d at (%d, %d, %d, %d), element %d: %d instead of %d", kRank,
             x, y, z, w, i, actual, expected);
      return;
    }
  }
}

PARITY_TEST(primitives_tma) {
  if (!HaveHopper()) return;
  TestTma<3>(0, 0, 0, 0);
  TestTma<3>(16, 8, 3, 0);
  TestTma<3>(40, 30, 14, 0);  // runs over at the far end
  TestTma<3>(-8, -3, -1, 0);  // and before the start
  TestTma<4>(0, 0, 1, 2);
  TestTma<4>(64, 30, 2, 4);
}

// ---- mbarriers
// -----------------------------------------------------------------------------------

// A ring of two stages between one producer warp and three consumer warps, ordinary stores.
__global__ void RingKernel(int* out, int rounds) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)
  uint64_t* full = reinterpret_cast<uint64_t*>(DynamicShared());
  uint64_t* empty = full + 2;
  int* data = reinterpret_cast<int*>(empty + 2);  // [2][32]
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  if (t == 0) {
    for (int s = 0; s < 2; ++s) {
      BarrierInit(&full[s], 32);
      BarrierInit(&empty[s], 3);
    }
    BarrierInitFence();
  }
  __syncthreads();
  int sum = 0;
  for (int i = 0; i < rounds; ++i) {
    const int stage = i % 2;
    const uint32_t parity = static_cast<uint32_t>(i / 2 % 2);
    if (warp == 0) {
      BarrierWait(&empty[stage], parity ^ 1);
      data[stage * 32 + lane] = i * 100 + lane;
      BarrierArrive(&full[stage]);
    } else {
      BarrierWait(&full[stage], parity);
      sum += data[stage * 32 + (lane + warp) % 32];
      __syncwarp();
      if (lane == 0) BarrierArrive(&empty[stage]);
    }
  }
  if (warp > 0) out[t - 32] = sum;
#endif
}

PARITY_TEST(primitives_mbarriers) {
  if (!HaveHopper()) return;
  const int rounds = 9;
  const DeviceArray<int> out(96);
  REQUIRE_OK(Launch(RingKernel, dim3(1), dim3(128), 1024, nullptr, out.data(), rounds));
  const std::vector<int> got = out.Download();
  for (int i = 0; i < 96; ++i) EXPECT(got[i] == 3600 + rounds * ((i % 32 + i / 32 + 1) % 32));
}

// ---- wgmma
// -----------------------------------------------------------------------------------------

// d [64, N] = a [64, 64] * b, by one warpgroup in four steps of 16. B is [N, 64] (K-major) or
// [64, N] (kTransB, boxes of 64 columns). kFromRegisters: A by its fragment, else from shared.
// kTwoGroups: the second half of K in a group of its own, waited for one after the other.
template <typename T, int N, bool kTransB, bool kFromRegisters, bool kTwoGroups>
__global__ void __launch_bounds__(128, 1)
    WgmmaKernel(const __grid_constant__ CUtensorMap map_a,
                const __grid_constant__ CUtensorMap map_b, const T* a, float* d) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(LONGDOC_CUDA_EMULATION)
  constexpr int kABytes = 64 * 128;
  constexpr int kBBytes = kTransB ? (N + 63) / 64 * 8192 : N * 128;
  unsigned char* tile_a = DynamicShared();
  unsigned char* tile_b = tile_a + kABytes;
  uint64_t* barrier = reinterpret_cast<uint64_t*>(tile_b + kBBytes);
  if (threadIdx.x == 0) {
    BarrierInit(barrier, 1);
    BarrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    BarrierArriveExpect(barrier, kABytes + kBBytes);
    TmaLoad3D(tile_a, &map_a, barrier, 0, 0, 0);
    if constexpr (kTransB) {
      for (int n = 0; n < N; n += 64) TmaLoad3D(tile_b + n * 128, &map_b, barrier, n, 0, 0);
    } else {
      TmaLoad3D(tile_b, &map_b, barrier, 0, 0, 0);
    }
  }
  BarrierWait(barrier, 0);
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  const int row = t / 32 * 16 + lane / 4, column = lane % 4 * 2;
  uint32_t fragments[4][4];
  for (int step = 0; step < 4; ++step) {
    for (int i = 0; i < 4; ++i) {
      const T* at = a + (row + i % 2 * 8) * 64 + step * 16 + column + i / 2 * 8;
      fragments[step][i] = at[0].bits | static_cast<uint32_t>(at[1].bits) << 16;
    }
  }
  float sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = 1e30f;  // the first product must not read it
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint64_t b = kTransB ? SharedDescriptor(tile_b + step * 2048, 8192, 1024)
                               : SharedDescriptor(tile_b + step * 32, 16, 1024);
    if constexpr (kFromRegisters) {
      WgmmaRS<T, N, kTransB>(sums, fragments[step], b, step > 0);
    } else {
      WgmmaSS<T, N, kTransB>(sums, SharedDescriptor(tile_a + step * 32, 16, 1024), b, step > 0);
    }
    if (kTwoGroups && step == 1) WgmmaCommit();
  }
  WgmmaCommit();
  if (kTwoGroups) WgmmaWait<1>();
  WgmmaWait<0>();
  PinRegisters(sums);
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    d[row * N + 8 * j + column] = sums[4 * j];
    d[row * N + 8 * j + column + 1] = sums[4 * j + 1];
    d[(row + 8) * N + 8 * j + column] = sums[4 * j + 2];
    d[(row + 8) * N + 8 * j + column + 1] = sums[4 * j + 3];
  }
#endif
}

template <typename T, int N, bool kTransB, bool kFromRegisters, bool kTwoGroups = false>
void TestWgmma() {
  const std::vector<T> a = RandomValues<T>(64 * 64, 7), b = RandomValues<T>(64 * N, 8);
  std::vector<float> expected(64 * N);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      double sum = 0;
      for (int k = 0; k < 64; ++k) {
        sum += double{ToFloat(a[i * 64 + k])} * ToFloat(b[kTransB ? k * N + j : j * 64 + k]);
      }
      expected[i * N + j] = static_cast<float>(sum);
    }
  }
  const DeviceArray<T> da(a), db(b);
  const DeviceArray<float> dd(64 * N);
  const uint64_t dims_a[3] = {64, 64, 1}, strides_a[2] = {128, 8192};
  const uint32_t box_a[3] = {64, 64, 1};
  const uint64_t dims_b[3] = {kTransB ? N : 64, kTransB ? 64 : N, 1};
  const uint64_t strides_b[2] = {dims_b[0] * 2, 128 * N};
  const uint32_t box_b[3] = {64, kTransB ? 64 : N, 1};
  CUtensorMap map_a, map_b;
  REQUIRE_OK(MakeTensorMap<T>(&map_a, da.data(), 3, dims_a, strides_a, box_a));
  REQUIRE_OK(MakeTensorMap<T>(&map_b, db.data(), 3, dims_b, strides_b, box_b));
  const size_t shared = 8192 + 128 * ((N + 63) / 64 * 64) + 64;
  REQUIRE_OK(Launch(WgmmaKernel<T, N, kTransB, kFromRegisters, kTwoGroups>, dim3(1), dim3(128),
                    shared, nullptr, map_a, map_b, da.data(), dd.data()));
  EXPECT_CLOSE(dd.Download(), expected, 1e-5, 20);
}

PARITY_TEST(primitives_wgmma_shared) {
  if (!HaveHopper()) return;
  TestWgmma<Bf16, 16, false, false>();
  TestWgmma<Bf16, 64, false, false>();
  TestWgmma<Fp16, 96, false, false>();
  TestWgmma<Bf16, 128, false, false, true>();
  TestWgmma<Fp16, 176, false, false>();
  TestWgmma<Bf16, 192, false, false>();
  TestWgmma<Bf16, 64, true, false>();
  TestWgmma<Fp16, 80, true, false>();
  TestWgmma<Bf16, 128, true, false>();
  TestWgmma<Bf16, 192, true, false>();
}

PARITY_TEST(primitives_wgmma_registers) {
  if (!HaveHopper()) return;
  TestWgmma<Bf16, 32, true, true>();
  TestWgmma<Bf16, 64, true, true, true>();
  TestWgmma<Fp16, 64, true, true>();
  TestWgmma<Bf16, 128, true, true>();
  TestWgmma<Fp16, 128, false, true>();
  TestWgmma<Bf16, 192, false, true>();
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
