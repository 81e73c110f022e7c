// How much memory this process may count on.
#pragma once

#include <cstdint>

namespace longdoc {

// Bytes of the machine, or of the cgroup's limit if that is lower; 8 GiB when nothing tells.
int64_t MachineMemoryBytes();

}  // namespace longdoc
