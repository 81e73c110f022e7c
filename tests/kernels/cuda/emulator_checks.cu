// The emulator notices broken rules: each kernel here breaks one.
#include <cmath>
#include <cstring>

#include "kernels/cuda/device/hopper.cuh"
#include "kernels/cuda/device/platform.h"
#include "tests/kernels/cuda/parity.h"

namespace longdoc::kernels::cuda::parity {
namespace {

// Runs one block of a kernel that has to fail with a message that contains `text`.
template <typename... P, typename... A>
void ExpectFailure(const char* text, int threads, void (*kernel)(P...), A... args) {
  std::printf("expected: ");
  std::fflush(stdout);
  const cudaError_t error =
      Launch(kernel, dim3(1), dim3(static_cast<unsigned>(threads)), 4096, nullptr, args...);
  EXPECT(error == cudaErrorLaunchFailure);
  EXPECT(cudaGetLastError() == cudaErrorLaunchFailure);
  if (std::strstr(emulation::LastFailure(), text) == nullptr) {
    Failed(__FILE__, __LINE__, "\"%s\" is not in: %s", text, emulation::LastFailure());
  }
}

__global__ void BarrierOfSome() {
  if (threadIdx.x < 32) NamedBarrierSync(3, 64);
  if (threadIdx.x >= 96) __syncthreads();
}
__global__ void Disagree(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_sync(0xffffffff, 1, 0);
  } else {
    out[threadIdx.x] = __any_sync(0xffffffff, 1);
  }
}
__global__ void WriteBehindShared() { DynamicShared()[4096 + threadIdx.x] = 1; }
__global__ void WriteFarBehind(int* out) { out[64 + 128 + threadIdx.x] = 1; }
__global__ void Misaligned() {
  uint32_t r[4];
  LoadMatrixX4(r, DynamicShared() + 16 * threadIdx.x + 8);
}
__global__ void OutsideShared(const uint4* global) {
  CopyAsync16(DynamicShared() + 4096, global, true);
}
__global__ void NeverInitialised() { BarrierWait(reinterpret_cast<uint64_t*>(DynamicShared()), 0); }
__global__ void TooFewBytes(const __grid_constant__ CUtensorMap map) {
  uint64_t* barrier = reinterpret_cast<uint64_t*>(DynamicShared() + 2048);
  BarrierInit(barrier, 1);
  BarrierArriveExpect(barrier, 512);
  TmaLoad3D(DynamicShared(), &map, barrier, 0, 0, 0);
}
__global__ void TooManyBytes(const __grid_constant__ CUtensorMap map) {
  uint64_t* barrier = reinterpret_cast<uint64_t*>(DynamicShared() + 2048);
  BarrierInit(barrier, 1);
  BarrierArriveExpect(barrier, 1032);
  TmaLoad3D(DynamicShared(), &map, barrier, 0, 0, 0);
  BarrierWait(barrier, 0);
}
__global__ void NeverWaited() {
  float d[4] = {};
  const uint64_t tile = SharedDescriptor(DynamicShared(), 16, 1024);
  WgmmaFence();
  WgmmaSS<Bf16, 8, false>(d, tile, tile, false);
  WgmmaCommit();
}
__global__ void NoFence() {
  float d[4] = {};
  const uint64_t tile = SharedDescriptor(DynamicShared(), 16, 1024);
  WgmmaSS<Bf16, 8, false>(d, tile, tile, false);
}
__global__ void OneWarpOnly() {
  float d[4] = {};
  const uint64_t tile = SharedDescriptor(DynamicShared(), 16, 1024);
  if (threadIdx.x >= 32) return;
  WgmmaFence();
  WgmmaSS<Bf16, 8, false>(d, tile, tile, false);
  WgmmaCommit();
  WgmmaWait<0>();
}

PARITY_TEST(emulator_failures) {
  UseCapability(9);
  const DeviceArray<int> out(64);
  ExpectFailure("deadlock", 128, BarrierOfSome);
  EXPECT(std::strstr(emulation::LastFailure(), "threads 0-31: named barrier 3 (32 of 64 there)") !=
         nullptr);
  EXPECT(std::strstr(emulation::LastFailure(), "threads 96-127: __syncthreads") != nullptr);
  ExpectFailure("disagree", 32, Disagree, out.data());
  ExpectFailure("written 0 bytes behind its end", 32, WriteBehindShared);
  const DeviceArray<int> exact(64);
  ExpectFailure("behind an allocation", 32, WriteFarBehind, exact.data());
  ExpectFailure("is not a multiple of 16", 32, Misaligned);
  ExpectFailure("outside the 4096 bytes", 1, OutsideShared, static_cast<const uint4*>(nullptr));
  ExpectFailure("no mbarrier was initialised", 1, NeverInitialised);
  ExpectFailure("not waited for", 128, NeverWaited);
  ExpectFailure("no WgmmaFence", 128, NoFence);
  ExpectFailure("issued different wgmma", 128, OneWarpOnly);
  UseCapability(8);
  ExpectFailure("wgmma on compute capability 8.0", 128, NeverWaited);
  UseCapability(9);
}

PARITY_TEST(emulator_tensor_maps) {
  UseCapability(9);
  const DeviceArray<Bf16> in(64 * 8);
  const uint64_t dims[3] = {64, 8, 1}, strides[2] = {128, 1024}, odd[2] = {120, 1024};
  const uint32_t box[3] = {64, 8, 1}, narrow[3] = {32, 8, 1}, tall[3] = {64, 257, 1};
  CUtensorMap map;
  EXPECT(MakeTensorMap<Bf16>(&map, in.data(), 3, dims, odd, box) == cudaErrorInvalidValue);
  EXPECT(MakeTensorMap<Bf16>(&map, in.data(), 3, dims, strides, narrow) == cudaErrorInvalidValue);
  EXPECT(MakeTensorMap<Bf16>(&map, in.data(), 3, dims, strides, tall) == cudaErrorInvalidValue);
  EXPECT(MakeTensorMap<Bf16>(&map, in.data() + 1, 3, dims, strides, box) == cudaErrorInvalidValue);
  REQUIRE_OK(MakeTensorMap<Bf16>(&map, in.data(), 3, dims, strides, box));
  ExpectFailure("more than the mbarrier", 1, TooFewBytes, map);
  ExpectFailure("8 bytes missing", 1, TooManyBytes, map);
}

// What has not been waited for reads as NaN.
__global__ void NoWait(const float* in, float* out) {
  float* shared = reinterpret_cast<float*>(DynamicShared());
  CopyAsync16(shared, in, true);
  CopyAsyncCommit();
  out[0] = shared[0];
  CopyAsyncWait<0>();
  out[1] = shared[0];
  out[2] = shared[4];
}

PARITY_TEST(emulator_late_copies) {
  const DeviceArray<float> in(std::vector<float>{5, 6, 7, 8});
  const DeviceArray<float> out(3);
  REQUIRE_OK(Launch(NoWait, dim3(1), dim3(1), 1024, nullptr, in.data(), out.data()));
  const std::vector<float> got = out.Download();
  EXPECT(std::isnan(got[0]));
  EXPECT(got[1] == 5);
  EXPECT(std::isnan(got[2]));  // nobody has written that
}

__global__ void Touch(float* out) { out[blockIdx.x] = 1; }

PARITY_TEST(emulator_launches) {
  const DeviceArray<float> out(2);
  UseCapability(8);
  EXPECT(Launch(Touch, dim3(1), dim3(1), 164 * 1024, nullptr, out.data()) == cudaErrorInvalidValue);
  UseCapability(9);
  EXPECT(Launch(Touch, dim3(1), dim3(1), 228 * 1024, nullptr, out.data()) == cudaErrorInvalidValue);
  EXPECT(Launch(Touch, dim3(0), dim3(1), 0, nullptr, out.data()) == cudaErrorInvalidConfiguration);
  EXPECT(Launch(Touch, dim3(1), dim3(1025), 0, nullptr, out.data()) ==
         cudaErrorInvalidConfiguration);
  EXPECT(Launch(Touch, dim3(1, 65536), dim3(1), 0, nullptr, out.data()) ==
         cudaErrorInvalidConfiguration);
  static_cast<void>(cudaGetLastError());
  // Recorded, and run when the graph is.
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  REQUIRE_OK(cudaMemset(out.data(), 0, 8));
  REQUIRE_OK(cudaStreamCreate(&stream));
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  EXPECT(Launch(Touch, dim3(2), dim3(1), 0, stream, out.data()) == cudaSuccess);
  REQUIRE_OK(cudaStreamEndCapture(stream, &graph));
  EXPECT(out.Download()[1] == 0);
  REQUIRE_OK(cudaGraphInstantiate(&exec, graph));
  REQUIRE_OK(cudaGraphLaunch(exec, stream));
  EXPECT(out.Download()[1] == 1);
  EXPECT_OK(cudaGraphExecDestroy(exec));
  EXPECT_OK(cudaGraphDestroy(graph));
  EXPECT_OK(cudaStreamDestroy(stream));
}

// What a device refuses while the thread captures spoils all of it.
PARITY_TEST(emulator_captures) {
  const DeviceArray<float> out(2);
  cudaStream_t stream;
  cudaEvent_t event;
  REQUIRE_OK(cudaStreamCreate(&stream));
  REQUIRE_OK(cudaEventCreate(&event));
  float* more = nullptr;
  const auto refused = [&](int what) {
    if (what == 0) return cudaMalloc(&more, 4);
    if (what == 1) return cudaEventSynchronize(event);
    if (what == 2) return cudaStreamSynchronize(stream);
    return cudaMemcpy(out.data(), out.data() + 1, 4, cudaMemcpyDeviceToDevice);
  };
  for (int what = 0; what < 4; ++what) {
    cudaGraph_t graph;
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    EXPECT(refused(what) == cudaErrorStreamCaptureUnsupported);
    EXPECT(Launch(Touch, dim3(2), dim3(1), 0, stream, out.data()) ==
           cudaErrorStreamCaptureInvalidated);
    EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    EXPECT(graph == nullptr);
    EXPECT_OK(refused(what));
  }
  static_cast<void>(cudaGetLastError());
  EXPECT_OK(cudaFree(more));
  EXPECT_OK(cudaEventDestroy(event));
  EXPECT_OK(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
