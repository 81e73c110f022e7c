// Allocations of the emulated device: each ends at a page that may not be touched.
#pragma once

#include <cstddef>

#include "cuda_runtime_api.h"

namespace longdoc::kernels::cuda::emulation {

constexpr size_t kDeviceBytes = size_t{2} << 30;

cudaError_t AllocateDevice(void** pointer, size_t bytes);
cudaError_t FreeDevice(void* pointer);
// Whether all of [p, p + bytes) lies in one allocation.
bool OnDevice(const void* p, size_t bytes);
// " (8 bytes behind an allocation of 4096 bytes)", or "".
void DescribeAddress(const void* p, char* text, size_t size);

}  // namespace longdoc::kernels::cuda::emulation
