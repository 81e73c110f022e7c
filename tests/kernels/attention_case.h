// Runs whole attention problems through a kernel table, on plain tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu_kernels.h"
#include "tests/kernels/attention_data.h"

namespace longdoc::kernels::testing {

// How the caller cuts the work; no result may depend on it.
struct Partition {
  int64_t store_rows = 37;
  int64_t rows_per_unit = 256;
  int threads = 1;
  bool reverse = false;  // units in ascending cost
};

struct AttentionResult {
  std::vector<float> out;  // [T,H,D]
  AttentionStats stats;
  std::string error;  // of CheckAttentionProblem
};

AttentionResult RunKernels(const CpuKernels& kernels, const AttentionCase& c,
                           const AttentionTensors& tensors, const Partition& partition = {});
// Tables that run here: what the CPU supports, then the emulated ones.
std::vector<const CpuKernels*> NativeTables();
std::vector<const CpuKernels*> EmulatedTables();
std::vector<const CpuKernels*> AllTables();

}  // namespace longdoc::kernels::testing
