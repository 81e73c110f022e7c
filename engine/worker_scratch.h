// The memory one worker thread works in: grown on demand, kept between steps.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/base/status_macros.h"
#include "engine/memory_pool.h"

namespace longdoc {

// Confined to its worker. Sizes are bytes.
struct WorkerScratch {
  explicit WorkerScratch(MemoryPool& pool) : pool(pool) {}

  absl::Status Ensure(Buffer& buffer, int64_t bytes) {
    if (buffer.bytes() >= bytes) return absl::OkStatus();
    buffer.Reset();
    ASSIGN_OR_RETURN(buffer, pool.Allocate(bytes, /*zeroed=*/false));
    return absl::OkStatus();
  }
  int64_t bytes() const {
    return wide.bytes() + input.bytes() + inner.bytes() + tile.bytes() + attention.bytes();
  }

  MemoryPool& pool;
  Buffer wide;       // [rows, max(3C, 2F)] fp32: what a wide product puts out
  Buffer input;      // [rows, C] gemm type: what a product reads
  Buffer inner;      // [rows, F] gemm type: the activated feed-forward
  Buffer tile;       // [rows, C] fp32: what a product puts out before its norm
  Buffer attention;  // kernels' scratch
};

}  // namespace longdoc
