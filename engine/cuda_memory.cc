#include "engine/cuda_memory.h"

#include <cuda_runtime_api.h>

#include <cstring>

#include "kernels/types.h"

namespace longdoc {
namespace {

// Requests share few sizes, at most an eighth apart, so that freed blocks serve again.
int64_t SizeClass(int64_t bytes) {
  int64_t step = 512;
  while (step * 16 <= bytes) step *= 2;
  return kernels::RoundUp(bytes, step);
}

}  // namespace

int64_t DeviceMemory::Capacity(int64_t bytes) const { return SizeClass(bytes); }

void DeviceMemory::Copy(void* to, const void* from, int64_t bytes) {
  rt_.Note(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, rt_.stream()), "copying");
}

int64_t PinnedMemory::Capacity(int64_t bytes) const { return SizeClass(bytes); }

void PinnedMemory::Zero(void* data, int64_t bytes) { std::memset(data, 0, bytes); }

}  // namespace longdoc
