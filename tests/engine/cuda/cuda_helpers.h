// Engines on the emulated device, and how close their results must be to the CPU's.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "engine/backend.h"
#include "engine/engine.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc::testing {

constexpr double kBf16Cosine = 0.999;

inline EngineOptions CudaOptions() {
  EngineOptions options;
  options.device = "cuda:0";
  return options;
}

inline std::unique_ptr<Engine> CpuEngine() {
  EngineOptions options;
  options.device = "cpu";
  options.compute_type = ComputeType::kF32;
  return MakeEngine(options);
}

inline EncodeResult EncodeOn(Engine& engine, EncodeTask task) {
  absl::StatusOr<EncodeResult> result = EncodeAndWait(engine, std::move(task));
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : EncodeResult();
}

// Every vector of `count` ones of `dim`.
inline void ExpectSameDirections(const float* a, const float* b, int64_t count, int64_t dim,
                                 const std::string& what) {
  const size_t size = static_cast<size_t>(dim);
  for (int64_t i = 0; i < count; ++i) {
    EXPECT_GE(Cosine({a + i * dim, size}, {b + i * dim, size}), kBf16Cosine) << what << " " << i;
  }
}

// How many of them point elsewhere by more than bf16 explains.
inline int64_t CountOtherDirections(const float* a, const float* b, int64_t count, int64_t dim) {
  const size_t size = static_cast<size_t>(dim);
  int64_t others = 0;
  for (int64_t i = 0; i < count; ++i) {
    others += Cosine({a + i * dim, size}, {b + i * dim, size}) < kBf16Cosine;
  }
  return others;
}

inline void ExpectSameVectors(const EncodeResult& a, const EncodeResult& b) {
  const int64_t dim = static_cast<int64_t>(a.document.size());
  ASSERT_EQ(a.document.size(), b.document.size());
  ASSERT_EQ(a.passages.size(), b.passages.size());
  ExpectSameDirections(a.document.data(), b.document.data(), 1, dim, "document");
  ExpectSameDirections(a.passages.data(), b.passages.data(),
                       static_cast<int64_t>(a.passages.size()) / dim, dim, "passage");
}

}  // namespace longdoc::testing
