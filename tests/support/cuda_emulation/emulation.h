// What the primitive headers of kernels/cuda/device call instead of instructions.
//
// Every CUDA thread of a block is a fiber; the blocks of a grid run one after the other, on the
// host thread that launches. Collectives of a warp meet and are computed by their PTX definition.
// What is asynchronous on a device happens here as late as the rules allow, and its destination
// holds NaN until then, so that missing waits show. Broken rules end the kernel with a message and
// cudaErrorLaunchFailure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>

#include "cuda.h"
#include "cuda_runtime_api.h"

namespace longdoc::kernels::cuda::emulation {

// Runs `body` once for every thread of the grid, or records that while `stream` is captured.
cudaError_t LaunchGrid(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                       std::function<void()> body);

template <typename... P, typename... A>
cudaError_t Launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, A&&... args) {
  std::tuple<P...> bound(std::forward<A>(args)...);
  return LaunchGrid(grid, block, shared_bytes, stream,
                    [kernel, bound] { std::apply(kernel, bound); });
}

// Ends the running kernel with a message about this thread. Does not return.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

unsigned char* DynamicShared();
// Fails outside dynamic shared memory.
uint32_t SharedAddress(const void* shared);
// The memory of [address, address + bytes), which has to be aligned to `alignment`.
unsigned char* SharedMemory(uint32_t address, uint32_t bytes, uint32_t alignment, const char* what);

// ---- collectives -------------------------------------------------------------------------------

// Meets the other lanes of `mask` (exited ones are not waited for); the last one to come runs
// `complete` with every lane's slot, null for those that do not take part. All lanes have to name
// the same operation.
using Complete = void (*)(void* const* slots);
void WarpMeet(const char* operation, uint32_t mask, void* slot, Complete complete);

enum class ShuffleKind { kIndex, kUp, kDown, kXor };
uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int argument, int width);
uint32_t Ballot(uint32_t mask, bool value);
uint32_t MatchAny(uint32_t mask, uint64_t value);
enum class ReduceKind { kAdd, kMin, kMax, kMinSigned, kMaxSigned, kAnd, kOr, kXor };
uint32_t Reduce(ReduceKind kind, uint32_t mask, uint32_t value);
uint32_t ActiveMask();

// Number of threads whose `value` was true.
int BlockBarrier(bool value);
void NamedBarrierSync(int id, int count);
void NamedBarrierArrive(int id, int count);

// ---- sm_80
// ---------------------------------------------------------------------------------------

float Exp2(float x);
void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16);
void LoadMatrixX4(uint32_t (&r)[4], const void* shared, bool transpose);
void CopyAsync16(void* shared, const void* global, bool valid);
void CopyAsyncCommit();
void CopyAsyncWait(int pending);

// ---- sm_90a
// --------------------------------------------------------------------------------------

void BarrierInit(uint64_t* barrier, uint32_t count);
void BarrierArrive(uint64_t* barrier, uint32_t expected_bytes);
void BarrierWait(uint64_t* barrier, uint32_t parity);
void TmaLoad(void* shared, const CUtensorMap* map, uint64_t* barrier, const int* corner, int rank);
void WgmmaFence();
// `a_registers` or, where that is null, `a`. `d` has n / 2 elements.
void Wgmma(float* d, int n, const uint32_t* a_registers, uint64_t a, uint64_t b, bool transpose_b,
           bool accumulate, bool bf16);
void WgmmaCommit();
void WgmmaWait(int pending);

}  // namespace longdoc::kernels::cuda::emulation
