// What the parts of the emulated runtime share: the error of the thread, and the order of streams.
#pragma once

#include <functional>

#include "cuda_runtime_api.h"

namespace longdoc::kernels::cuda::emulation {

// Keeps an error for cudaGetLastError of this thread. Returns `error`.
cudaError_t Note(cudaError_t error);

// For what waits for the device or changes its memory: spoils the capture of this thread, which
// ends with an error then. cudaSuccess when there is none.
cudaError_t RefuseInCapture();

// Runs `step` now, or records it while `stream` is captured.
cudaError_t Enqueue(cudaStream_t stream, std::function<cudaError_t()> step);

}  // namespace longdoc::kernels::cuda::emulation
