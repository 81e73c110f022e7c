// Where the CUDA backend's memory pools have their blocks from: the device, and pinned host memory.
#pragma once

#include <cstdint>

#include "engine/memory_pool.h"
#include "kernels/cuda/runtime.h"

namespace longdoc {

// Used on the one stream of the runtime, which outlives it.
class DeviceMemory final : public MemorySource {
 public:
  explicit DeviceMemory(kernels::cuda::Runtime& runtime) : rt_(runtime) {}
  int64_t Capacity(int64_t bytes) const override;
  void* Map(int64_t capacity) override { return rt_.AllocateDevice(capacity); }
  void Unmap(void* data, int64_t) override { rt_.FreeDevice(data); }
  void Zero(void* data, int64_t bytes) override { rt_.Clear(data, bytes); }
  void Copy(void* to, const void* from, int64_t bytes) override;
  bool fresh_is_zero() const override { return false; }
  const char* name() const override { return "device memory"; }

 private:
  kernels::cuda::Runtime& rt_;
};

// Read and written by the host.
class PinnedMemory final : public MemorySource {
 public:
  explicit PinnedMemory(kernels::cuda::Runtime& runtime) : rt_(runtime) {}
  int64_t Capacity(int64_t bytes) const override;
  void* Map(int64_t capacity) override { return rt_.AllocatePinned(capacity); }
  void Unmap(void* data, int64_t) override { rt_.FreePinned(data); }
  void Zero(void* data, int64_t bytes) override;
  bool fresh_is_zero() const override { return false; }
  const char* name() const override { return "pinned memory"; }

 private:
  kernels::cuda::Runtime& rt_;
};

}  // namespace longdoc
