// Small helpers that the engine's tests share.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
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

// Results of tasks that are all queued before the first one starts, so that the scheduler packs
// those that may share a pass: until then a task for each worker holds it in its callback.
inline std::vector<EncodeResult> EncodeTogether(Engine& engine, std::vector<EncodeTask> tasks) {
  std::promise<void> release;
  const std::shared_future<void> released(release.get_future());
  for (int worker = 0; worker < engine.options().num_threads; ++worker) {
    std::promise<void> holds;
    const std::future<void> held = holds.get_future();
    EncodeTask holder = MakeTask(tasks[0].model, SomeIds(2, 1));
    holder.on_done = [holds = std::move(holds),
                      released](absl::StatusOr<EncodeResult> result) mutable {
      EXPECT_TRUE(result.ok()) << result.status();
      holds.set_value();
      released.wait();
    };
    EXPECT_TRUE(engine.Submit(std::move(holder)).ok());
    held.wait();
  }
  std::vector<std::future<EncodeResult>> done;
  for (EncodeTask& task : tasks) {
    std::promise<EncodeResult> promise;
    done.push_back(promise.get_future());
    task.on_done = [promise = std::move(promise)](absl::StatusOr<EncodeResult> result) mutable {
      EXPECT_TRUE(result.ok()) << result.status();
      promise.set_value(result.ok() ? *std::move(result) : EncodeResult());
    };
    EXPECT_TRUE(engine.Submit(std::move(task)).ok());
  }
  release.set_value();
  std::vector<EncodeResult> results;
  for (std::future<EncodeResult>& result : done) results.push_back(result.get());
  return results;
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
