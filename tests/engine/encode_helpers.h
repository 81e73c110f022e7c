// Small helpers that the engine's tests share.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/engine.h"
#include "engine/pass.h"
#include "gtest/gtest.h"
#include "tests/support/golden_model.h"

namespace longdoc::testing {

inline std::unique_ptr<Engine> MakeEngine(EngineOptions options = {}) {
  if (options.num_threads == 0) options.num_threads = 2;
  if (options.device == "auto") options.device = "cpu";  // on machines with a GPU, too
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// The golden model, written to a fresh directory and loaded.
inline std::shared_ptr<const Model> LoadGolden(Engine& engine, const std::string& name) {
  const std::string dir = MakeTempDir(name);
  WriteGoldenModel(name, dir);
  absl::StatusOr<std::shared_ptr<const Model>> model = engine.LoadModel(name, dir);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

// Deterministic ids in the golden vocabulary of 997, [CLS] first and [SEP] last.
inline std::vector<int32_t> SomeIds(int64_t tokens, uint32_t seed) {
  std::vector<int32_t> ids(tokens);
  uint32_t state = seed * 2654435761u + 1;
  for (int32_t& id : ids) {
    state = state * 1664525u + 1013904223u;
    id = static_cast<int32_t>((state >> 8) % 800) + 150;
  }
  ids.front() = 101;
  ids.back() = 102;
  return ids;
}

inline EncodeTask MakeTask(std::shared_ptr<const Model> model, std::vector<int32_t> ids) {
  EncodeTask task;
  task.model = std::move(model);
  task.ids = std::move(ids);
  task.cancellation = std::make_shared<CancellationToken>();
  return task;
}

// What the scheduler does, on one thread. `after_phase` sees the pass when all steps of a phase
// have run.
inline void RunPass(Pass& pass, const std::function<void()>& after_phase = nullptr) {
  MemoryPool pool(0);
  WorkerScratch scratch(pool);
  while (!pass.finished()) {
    for (int64_t step = 0; step < pass.num_steps(); ++step) {
      const absl::Status status = pass.RunStep(step, scratch);
      EXPECT_TRUE(status.ok()) << status;
    }
    if (after_phase) after_phase();
    pass.NextPhase();
  }
}

inline double MaxAbsDifference(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = d;  // NaN is the worst
  }
  return worst;
}

inline double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return dot / std::sqrt(aa * bb);
}

}  // namespace longdoc::testing
