// The primitives of sm_80 against their definitions. On a GPU these tests say whether the emulator
// is right about the hardware.
#include <cstring>
#include <random>

#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "tests/kernels/cuda/parity.h"

namespace longdoc::kernels::cuda::parity {
namespace {

template <typename T>
std::vector<T> RandomValues(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (T& v : values) v = FromFloat<T>(normal(generator));
  return values;
}

// ---- mma
// -----------------------------------------------------------------------------------------

template <typename T>
__device__ uint32_t PairDown(const T* at, int stride) {
  return at[0].bits | static_cast<uint32_t>(at[stride].bits) << 16;
}

// d [16, 8] = a [16, 16] * b [16, 8] + d by one warp, fragments loaded element by element.
template <typename T>
__global__ void MmaKernel(const T* a, const T* b, float* d) {
  const int l = static_cast<int>(threadIdx.x), g = l / 4, t = l % 4;
  const uint32_t fa[4] = {PairDown(a + g * 16 + 2 * t, 1), PairDown(a + (g + 8) * 16 + 2 * t, 1),
                          PairDown(a + g * 16 + 2 * t + 8, 1),
                          PairDown(a + (g + 8) * 16 + 2 * t + 8, 1)};
  const uint32_t fb[2] = {PairDown(b + 2 * t * 8 + g, 8), PairDown(b + (2 * t + 8) * 8 + g, 8)};
  float fd[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t],
                 d[(g + 8) * 8 + 2 * t + 1]};
  Mma16816<T>(fd, fa, fb);
  d[g * 8 + 2 * t] = fd[0], d[g * 8 + 2 * t + 1] = fd[1];
  d[(g + 8) * 8 + 2 * t] = fd[2], d[(g + 8) * 8 + 2 * t + 1] = fd[3];
}

template <typename T>
void TestMma() {
  const std::vector<T> a = RandomValues<T>(256, 1), b = RandomValues<T>(128, 2);
  std::vector<float> expected(128);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      double sum = 0.5 * i - j;
      for (int k = 0; k < 16; ++k) sum += double{ToFloat(a[i * 16 + k])} * ToFloat(b[k * 8 + j]);
      expected[i * 8 + j] = static_cast<float>(sum);
    }
  }
  std::vector<float> start(128);
  for (int i = 0; i < 128; ++i)
    start[i] = 0.5f * static_cast<float>(i / 8) - static_cast<float>(i % 8);
  const DeviceArray<T> da(a), db(b);
  const DeviceArray<float> dd(start);
  REQUIRE_OK(Launch(MmaKernel<T>, dim3(1), dim3(32), 0, nullptr, da.data(), db.data(), dd.data()));
  EXPECT_CLOSE(dd.Download(), expected, 1e-5, 10);
}

PARITY_TEST(primitives_mma) {
  TestMma<Bf16>();
  TestMma<Fp16>();
}

// ---- ldmatrix and cp.async ----------------------------------------------------------------------

// Four 8x8 matrices from global memory, by cp.async; the odd 16-byte pieces of the second half are
// not valid. out[lane][8]: the registers without and with transposition.
__global__ void LoadMatrixKernel(const uint16_t* in, uint32_t* out) {
  unsigned char* shared = DynamicShared();
  const int l = static_cast<int>(threadIdx.x);
  CopyAsync16(shared + 16 * l, in + 8 * l, l < 16 || l % 2 == 0);
  CopyAsyncCommit();
  CopyAsync16(shared + 512 + 16 * l, in, true);  // a second group that need not be there
  CopyAsyncCommit();
  CopyAsyncWait<1>();
  __syncthreads();
  uint32_t r[4], transposed[4];
  LoadMatrixX4(r, shared + 16 * l);
  LoadMatrixX4Trans(transposed, shared + 16 * l);
  CopyAsyncWait<0>();
  for (int i = 0; i < 4; ++i) {
    out[l * 8 + i] = r[i];
    out[l * 8 + 4 + i] = transposed[i];
  }
}

PARITY_TEST(primitives_ldmatrix) {
  std::vector<uint16_t> in(256);
  for (int i = 0; i < 256; ++i) in[i] = static_cast<uint16_t>(i * 257);
  const DeviceArray<uint16_t> din(in);
  const DeviceArray<uint32_t> out(256);
  REQUIRE_OK(Launch(LoadMatrixKernel, dim3(1), dim3(32), 1024, nullptr, din.data(), out.data()));
  const std::vector<uint32_t> got = out.Download();
  const auto element = [&](int matrix, int row, int column) -> uint32_t {
    const int piece = matrix * 8 + row;
    return piece < 16 || piece % 2 == 0 ? in[piece * 8 + column] : 0;
  };
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) {
      EXPECT(got[l * 8 + i] == (element(i, g, 2 * t) | element(i, g, 2 * t + 1) << 16));
      EXPECT(got[l * 8 + 4 + i] == (element(i, 2 * t, g) | element(i, 2 * t + 1, g) << 16));
    }
  }
}

// ---- shuffles, votes, barriers
// --------------------------------------------------------------------

constexpr int kWarpResults = 12;

__global__ void WarpKernel(int* out) {
  const int l = static_cast<int>(threadIdx.x) % 32;
  int* mine = out + threadIdx.x * kWarpResults;
  mine[0] = __shfl_sync(0xffffffff, l * 10, 5);
  mine[1] = __shfl_up_sync(0xffffffff, l * 10, 3);
  mine[2] = __shfl_down_sync(0xffffffff, l * 10, 3);
  mine[3] = __shfl_xor_sync(0xffffffff, l * 10, 4, 8);
  mine[4] = static_cast<int>(__ballot_sync(0xffffffff, l % 3 == 0));
  mine[5] = __any_sync(0xffffffff, l == 40);
  mine[6] = __all_sync(0xffffffff, l < 32);
  mine[7] = __reduce_add_sync(0xffffffff, l - 16);
  mine[8] = __reduce_max_sync(0xffffffff, -l);
  if (l < 8) {  // a part of the warp by itself
    mine[9] = __shfl_sync(0xff, l, 7 - l);
  } else {
    mine[9] = __shfl_xor_sync(0xffffff00, l, 1);
  }
  __syncwarp();
  mine[10] = __syncthreads_count(static_cast<int>(threadIdx.x) % 5 == 0);
  mine[11] = __shfl_sync(0xffffffff, l, l + 9, 16);
}

PARITY_TEST(primitives_warp) {
  const int threads = 96;
  const DeviceArray<int> out(threads * kWarpResults);
  REQUIRE_OK(Launch(WarpKernel, dim3(1), dim3(threads), 0, nullptr, out.data()));
  const std::vector<int> got = out.Download();
  for (int i = 0; i < threads; ++i) {
    const int l = i % 32;
    int thirds = 0;
    for (int j = 0; j < 32; j += 3) thirds |= static_cast<int>(1u << j);
    const int expected[kWarpResults] = {50,
                                        l < 3 ? l * 10 : (l - 3) * 10,
                                        l > 28 ? l * 10 : (l + 3) * 10,
                                        (l ^ 4) * 10,
                                        thirds,
                                        0,
                                        1,
                                        31 * 16 - 16 * 32,
                                        0,
                                        l < 8 ? 7 - l : l ^ 1,
                                        20,
                                        l / 16 * 16 + (l + 9) % 16};
    for (int j = 0; j < kWarpResults; ++j) EXPECT(got[i * kWarpResults + j] == expected[j]);
  }
}

// Two producer warps hand numbers to two consumer warps through named barriers.
__global__ void NamedBarrierKernel(int* out, int rounds) {
  int* slots = reinterpret_cast<int*>(DynamicShared());
  const int t = static_cast<int>(threadIdx.x);
  constexpr int kFull = 1, kEmpty = 2;
  if (t < 64) {
    for (int i = 0; i < rounds; ++i) {
      NamedBarrierSync(kEmpty, 128);
      slots[t] = i * 1000 + t;
      NamedBarrierArrive(kFull, 128);
    }
  } else {
    int sum = 0;
    for (int i = 0; i < rounds; ++i) {
      NamedBarrierArrive(kEmpty, 128);
      NamedBarrierSync(kFull, 128);
      sum += slots[127 - t];
    }
    out[t - 64] = sum;
  }
}

PARITY_TEST(primitives_named_barriers) {
  const int rounds = 7;
  const DeviceArray<int> out(64);
  REQUIRE_OK(Launch(NamedBarrierKernel, dim3(1), dim3(128), 256, nullptr, out.data(), rounds));
  const std::vector<int> got = out.Download();
  for (int i = 0; i < 64; ++i) EXPECT(got[i] == 21 * 1000 + rounds * (63 - i));
}

__global__ void TicketKernel(unsigned* ticket, unsigned* last, unsigned long long* sum) {
  __shared__ unsigned mine;
  atomicAdd(sum, static_cast<unsigned long long>(threadIdx.x));
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) mine = atomicAdd(ticket, 1u);
  __syncthreads();
  if (mine == gridDim.x - 1) atomicMax(last, blockIdx.x + 1);
}

PARITY_TEST(primitives_atomics) {
  const DeviceArray<unsigned> ticket(std::vector<unsigned>{0}), last(std::vector<unsigned>{0});
  const DeviceArray<unsigned long long> sum(std::vector<unsigned long long>{0});
  REQUIRE_OK(
      Launch(TicketKernel, dim3(9), dim3(100), 0, nullptr, ticket.data(), last.data(), sum.data()));
  EXPECT(ticket.Download()[0] == 9);
  EXPECT(last.Download()[0] >= 1);
  EXPECT(sum.Download()[0] == 9 * 4950);
}

// ---- numbers
// ---------------------------------------------------------------------------------------

__global__ void NumbersKernel(const float* in, uint32_t* out, int count) {
  for (int i = 0; i < count; ++i) {
    out[6 * i] = FromFloat<Bf16>(in[i]).bits;
    out[6 * i + 1] = FromFloat<Fp16>(in[i]).bits;
    out[6 * i + 2] = Pack2<Bf16>(in[i], -in[i]);
    out[6 * i + 3] = Pack2<Fp16>(in[i], -in[i]);
    out[6 * i + 4] = BitsOf(ToFloat(FromFloat<Fp16>(in[i])));
    out[6 * i + 5] = BitsOf(Exp2(in[i]));
  }
}

// What a host has to agree with, bit for bit, whatever the device: both run the same source here,
// but different instructions.
PARITY_TEST(primitives_numbers) {
  std::vector<float> in = {
      0.0f,     1.0f,       -1.5f,       65504.0f,        65519.0f, 65520.0f, 1e-8f,   6e-8f,
      3e-5f,    6.1e-5f,    1.00390625f, 1.01171875f,     3.4e38f,  -126.0f,  -126.5f, -149.0f,
      0x1p-24f, 0x1.8p-24f, 0x1p-25f,    0x1.000002p-25f, 2.5f,     100.0f};
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> uniform(-20, 20);
  for (int i = 0; i < 200; ++i) in.push_back(uniform(generator));
  const int count = static_cast<int>(in.size());
  const DeviceArray<float> din(in);
  const DeviceArray<uint32_t> out(6 * count);
  REQUIRE_OK(Launch(NumbersKernel, dim3(1), dim3(1), 0, nullptr, din.data(), out.data(), count));
  const std::vector<uint32_t> got = out.Download();
  for (int i = 0; i < count; ++i) {
    const uint32_t bf16 = FromFloat<Bf16>(in[i]).bits, fp16 = FromFloat<Fp16>(in[i]).bits;
    EXPECT(got[6 * i] == bf16);
    EXPECT(got[6 * i + 1] == fp16);
    EXPECT(got[6 * i + 2] == (bf16 | (bf16 ^ 0x8000) << 16));
    EXPECT(got[6 * i + 3] == (fp16 | (fp16 ^ 0x8000) << 16));
    EXPECT(got[6 * i + 4] == BitsOf(ToFloat(Fp16{static_cast<uint16_t>(fp16)})));
    const float power = FloatOf(got[6 * i + 5]);
    const double exact = std::exp2(double{in[i]});
    const double expected = exact < 0x1p-126 ? 0 : static_cast<float>(exact);
    EXPECT(power == expected || std::fabs(power - expected) <= 4e-7 * expected);
  }
  // By hand: ties to even, overflow and subnormal numbers.
  EXPECT(FromFloat<Bf16>(1.00390625f).bits == 0x3f80 &&
         FromFloat<Bf16>(1.01171875f).bits == 0x3f82);
  EXPECT(FromFloat<Fp16>(65519.0f).bits == 0x7bff && FromFloat<Fp16>(65520.0f).bits == 0x7c00);
  EXPECT(FromFloat<Fp16>(0x1p-24f).bits == 1 && FromFloat<Fp16>(0x1p-25f).bits == 0);
  EXPECT(FromFloat<Fp16>(0x1.8p-24f).bits == 2 && ToFloat(Fp16{1}) == 0x1p-24f);
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
