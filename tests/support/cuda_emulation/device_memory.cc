#include "device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "stream.h"

namespace longdoc::kernels::cuda::emulation {
namespace {

constexpr size_t kAlignment = 256;     // as cudaMalloc promises
constexpr unsigned char kFill = 0xff;  // NaN
constexpr unsigned char kGuardByte = 0xa5;

struct Allocation {
  size_t bytes = 0, mapped = 0;
  void* mapping = nullptr;
};

std::mutex mutex;
std::map<uintptr_t, Allocation>& All() {
  static std::map<uintptr_t, Allocation>* const all = new std::map<uintptr_t, Allocation>;
  return *all;
}
size_t used = 0;

size_t RoundUpTo(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

cudaError_t AllocateDevice(void** pointer, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > kDeviceBytes - used) return cudaErrorMemoryAllocation;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t rounded = RoundUpTo(bytes, kAlignment), body = RoundUpTo(rounded, page);
  void* mapping =
      mmap(nullptr, body + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return cudaErrorMemoryAllocation;
  unsigned char* first = static_cast<unsigned char*>(mapping) + page;
  mprotect(mapping, page, PROT_NONE);
  mprotect(first + body, page, PROT_NONE);
  unsigned char* start = first + body - rounded;
  std::memset(start, kFill, bytes);
  std::memset(start + bytes, kGuardByte, rounded - bytes);
  used += bytes;
  Allocation& a = All()[reinterpret_cast<uintptr_t>(start)];
  a.bytes = bytes;
  a.mapped = body + 2 * page;
  a.mapping = mapping;
  *pointer = start;
  return cudaSuccess;
}

cudaError_t FreeDevice(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = All().find(reinterpret_cast<uintptr_t>(pointer));
  if (found == All().end()) return cudaErrorInvalidValue;
  const Allocation a = found->second;
  const unsigned char* end = static_cast<const unsigned char*>(pointer) + a.bytes;
  for (size_t i = 0; i < RoundUpTo(a.bytes, kAlignment) - a.bytes; ++i) {
    if (end[i] == kGuardByte) continue;
    std::fprintf(stderr, "CUDA emulation: written %zu bytes behind an allocation of %zu bytes\n", i,
                 a.bytes);
    std::abort();
  }
  munmap(a.mapping, a.mapped);
  used -= a.bytes;
  All().erase(found);
  return cudaSuccess;
}

bool OnDevice(const void* p, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  auto after = All().upper_bound(at);
  if (after == All().begin()) return false;
  --after;
  return at + bytes <= after->first + after->second.bytes;
}

void DescribeAddress(const void* p, char* text, size_t size) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  text[0] = 0;
  for (const auto& [start, a] : All()) {
    if (at >= start + a.bytes && at < start + a.bytes + 65536) {
      std::snprintf(text, size, " (%zu bytes behind an allocation of %zu bytes)",
                    static_cast<size_t>(at - start - a.bytes), a.bytes);
    } else if (at < start && at + 65536 > start && text[0] == 0) {
      std::snprintf(text, size, " (%zu bytes before an allocation of %zu bytes)",
                    static_cast<size_t>(start - at), a.bytes);
    }
  }
}

}  // namespace longdoc::kernels::cuda::emulation

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  using namespace longdoc::kernels::cuda::emulation;  // NOLINT
  const std::lock_guard<std::mutex> lock(mutex);
  *total = kDeviceBytes;
  *free = kDeviceBytes - used;
  return cudaSuccess;
}

// Pinned host memory: ordinary.
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  const cudaError_t error = longdoc::kernels::cuda::emulation::RefuseInCapture();
  if (error != cudaSuccess) return error;
  *pointer = bytes == 0 ? nullptr : std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return bytes != 0 && *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return cudaHostAlloc(pointer, bytes, 0);
}
cudaError_t cudaFreeHost(void* pointer) {
  const cudaError_t error = longdoc::kernels::cuda::emulation::RefuseInCapture();
  if (error != cudaSuccess) return error;
  std::free(pointer);
  return cudaSuccess;
}
