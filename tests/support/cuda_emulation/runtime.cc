// The device, its memory, and the launch of grids.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "block.h"
#include "cuda_runtime.h"
#include "device_memory.h"
#include "emulation.h"
#include "stream.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

int capability = 9;
std::mutex launch_mutex;  // one grid at a time
thread_local cudaError_t last_error = cudaSuccess;

size_t MaxShared() { return (capability >= 9 ? 227 : 163) * 1024; }

// Kernels that touch memory of nobody fail; other code crashes as usual.
void OnFault(int signal, siginfo_t* info, void*) {
  if (InKernel()) {
    char text[200];
    DescribeAddress(info->si_addr, text, sizeof(text));
    Fail("illegal memory access at %p%s", info->si_addr, text);
  }
  std::signal(signal, SIG_DFL);
}

void CatchFaults() {
  thread_local bool done = false;
  if (done) return;
  done = true;
  alignas(16) static thread_local char alternative[64 * 1024];
  stack_t stack = {};
  stack.ss_sp = alternative;
  stack.ss_size = sizeof(alternative);
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the handler may not return
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

cudaError_t RunGrid(const dim3& grid, const dim3& threads, size_t shared_bytes,
                    const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  CatchFaults();
  static uint64_t launches = 0;
  gridDim = grid;
  blockDim = threads;
  block.threads = static_cast<int>(threads.x * threads.y * threads.z);
  block.shared_bytes = static_cast<uint32_t>(shared_bytes);
  block.body = &body;
  uint64_t number = launches++;
  dim3 at(0, 0, 0);
  for (at.z = 0; at.z < grid.z; ++at.z) {
    for (at.y = 0; at.y < grid.y; ++at.y) {
      for (at.x = 0; at.x < grid.x; ++at.x) {
        if (RunBlock(at, number++)) continue;
        char where[100];
        std::snprintf(where, sizeof(where), "block (%u, %u, %u) of (%u, %u, %u), ", at.x, at.y,
                      at.z, grid.x, grid.y, grid.z);
        block.failure = where + block.failure;
        std::fprintf(stderr, "CUDA emulation: %s\n", block.failure.c_str());
        return cudaErrorLaunchFailure;
      }
    }
  }
  return cudaSuccess;
}

}  // namespace

int Capability() { return capability; }
void SetEmulatedCapability(int major) { capability = major >= 9 ? 9 : 8; }
const char* LastFailure() { return block.failure.c_str(); }

cudaError_t Note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t LaunchGrid(dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t stream,
                       std::function<void()> body) {
  if (InKernel()) Fail("a kernel launched a kernel");
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  if (count == 0 || count > kMaxThreads || threads.z > 64 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return Note(cudaErrorInvalidConfiguration);
  }
  if (shared_bytes > MaxShared()) return Note(cudaErrorInvalidValue);
  return Enqueue(stream, [=] { return RunGrid(grid, threads, shared_bytes, body); });
}

}  // namespace longdoc::kernels::cuda::emulation

using namespace longdoc::kernels::cuda::emulation;  // NOLINT: this file defines the C interface

// ---- errors -----------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    default:
      return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return LastFailure();
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "error of the emulated device";
  }
}
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

// ---- devices ----------------------------------------------------------------------------------

namespace {
constexpr int kMultiprocessors = 3;  // few, so that persistent blocks take several tiles each
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : Note(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return Note(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated sm_%d0", Capability());
  properties->totalGlobalMem = kDeviceBytes;
  properties->sharedMemPerBlock = 48 * 1024;
  properties->sharedMemPerBlockOptin = MaxShared();
  properties->sharedMemPerMultiprocessor = MaxShared() + 1024;
  properties->reservedSharedMemPerBlock = 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxThreads;
  properties->major = Capability();
  properties->multiProcessorCount = kMultiprocessors;
  properties->l2CacheSize = 1 << 20;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->memoryBusWidth = 64;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  const cudaError_t error = cudaGetDeviceProperties(&p, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return Note(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSynchronize() { return RefuseInCapture(); }
cudaError_t cudaDeviceReset() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
      (value < 0 || static_cast<size_t>(value) > MaxShared())) {
    return Note(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  if (result != nullptr) {
    *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  }
  return cudaSuccess;
}

// ---- memory
// --------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const cudaError_t error = RefuseInCapture();
  return error != cudaSuccess ? error : Note(AllocateDevice(pointer, bytes));
}
cudaError_t cudaFree(void* pointer) {
  const cudaError_t error = RefuseInCapture();
  return error != cudaSuccess ? error : Note(FreeDevice(pointer));
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) {
  return cudaMalloc(pointer, bytes);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = RefuseInCapture();
  return error != cudaSuccess ? error : cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (width > to_pitch || width > from_pitch ||
      (kind != cudaMemcpyDefault &&
       (OnDevice(to, (height - 1) * to_pitch + width) != to_device ||
        OnDevice(from, (height - 1) * from_pitch + width) != from_device))) {
    return Note(cudaErrorInvalidValue);
  }
  return Enqueue(stream, [=] {
    for (size_t i = 0; i < height; ++i) {
      std::memmove(static_cast<char*>(to) + i * to_pitch,
                   static_cast<const char*>(from) + i * from_pitch, width);
    }
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!OnDevice(to, bytes)) return Note(cudaErrorInvalidValue);
  return Enqueue(stream, [=] {
    std::memset(to, value, bytes);
    return cudaSuccess;
  });
}
