#include "engine/base/machine_memory.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace longdoc {
namespace {

// A byte count in a one-line file, or `fallback` ("max", or no such file).
int64_t ReadLimit(const char* path, int64_t fallback) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value && value > 0 ? value : fallback;
}

}  // namespace

int64_t MachineMemoryBytes() {
  int64_t bytes = int64_t{8} << 30;
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  if (meminfo >> key >> kib && key == "MemTotal:") bytes = kib * 1024;
  bytes = std::min(bytes, ReadLimit("/sys/fs/cgroup/memory.max", bytes));
  return std::min(bytes, ReadLimit("/sys/fs/cgroup/memory/memory.limit_in_bytes", bytes));
}

}  // namespace longdoc
