// FNV-1a: a small stable hash for revisions and cache keys. Not for hostile keys, not
// cryptographic.
#pragma once

#include <cstdint>
#include <string_view>

namespace longdoc {

constexpr uint64_t kFnvOffset = 0xcbf29ce484222325u;

// Continues `hash` over `bytes`; the same bytes in any split give the same hash.
constexpr uint64_t Fnv1a(std::string_view bytes, uint64_t hash = kFnvOffset) {
  for (char c : bytes) {
    hash ^= static_cast<uint8_t>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

}  // namespace longdoc
