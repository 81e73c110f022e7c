// Types shared by every kernel. C++17, no dependency, no ownership: all pointers belong to the
// caller.
//
// Dimension letters used in all comments:
//   T tokens (packed over sequences)  B sequences  H query heads  Hk key/value heads  D head dim
//   C model dim  F feed-forward dim   V vocabulary  S spans
#pragma once

#include <cstddef>
#include <cstdint>

namespace longdoc::kernels {

enum class DType : uint8_t { kF32, kBF16, kF16 };

constexpr size_t SizeOf(DType t) { return t == DType::kF32 ? 4 : 2; }

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Instruction sets for which CPU kernels exist, worst to best.
enum class CpuIsa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

}  // namespace longdoc::kernels
