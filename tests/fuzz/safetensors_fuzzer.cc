// The bytes are a safetensors header, parsed against data sections of several sizes.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/model/safetensors.h"

namespace {

// A parsed header must hold what the reader relies on.
void CheckEntry(const longdoc::TensorEntry& entry, int64_t data_bytes) {
  if (entry.begin < 0 || entry.begin > entry.end || entry.end > data_bytes) std::abort();
  for (int64_t dim : entry.shape) {
    if (dim < 0) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (int64_t data_bytes : {int64_t{0}, int64_t{8}, int64_t{64}, INT64_MAX}) {
    const auto tensors = longdoc::ParseSafetensorsHeader(text, data_bytes);
    if (!tensors.ok()) {
      if (tensors.status().message().empty()) std::abort();
      continue;
    }
    int64_t covered = 0;
    for (const auto& [name, entry] : *tensors) {
      CheckEntry(entry, data_bytes);
      covered += entry.end - entry.begin;
    }
    if (covered != data_bytes) std::abort();
  }
  return 0;
}
