// Scores and generations as tasks of an engine, waited for.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/decode_task.h"
#include "engine/engine.h"
#include "gtest/gtest.h"

namespace longdoc::testing {

using Ids = std::vector<int32_t>;

// What came of a score task.
struct Scored {
  std::mutex mutex;
  std::map<size_t, absl::StatusOr<CandidateScore>> scores;
  std::promise<absl::StatusOr<DecodeStats>> done;
  std::function<void()> on_each;  // after each score

  absl::StatusOr<DecodeStats> Wait() { return done.get_future().get(); }
  const CandidateScore& at(size_t i) {
    EXPECT_TRUE(scores.at(i).ok()) << scores.at(i).status();
    return *scores.at(i);
  }
};

inline ScoreTask MakeScore(const std::shared_ptr<const Model>& model,
                           const std::shared_ptr<const CrossKv>& document,
                           std::vector<Ids> candidates, const std::shared_ptr<Scored>& out) {
  ScoreTask task;
  task.model = model;
  task.document = document;
  task.candidates = std::move(candidates);
  task.want_log_probs = true;
  task.cancellation = std::make_shared<CancellationToken>();
  task.on_scored = [out](size_t i, absl::StatusOr<CandidateScore> score) {
    {
      std::lock_guard lock(out->mutex);
      EXPECT_TRUE(out->scores.emplace(i, std::move(score)).second) << "twice: " << i;
    }
    if (out->on_each) out->on_each();
  };
  task.on_done = [out](absl::StatusOr<DecodeStats> stats) {
    out->done.set_value(std::move(stats));
  };
  return task;
}

inline absl::StatusOr<GenerateResult> GenerateAndWait(Engine& engine, GenerateTask task) {
  auto done = std::make_shared<std::promise<absl::StatusOr<GenerateResult>>>();
  if (task.cancellation == nullptr) task.cancellation = std::make_shared<CancellationToken>();
  task.on_done = [done](absl::StatusOr<GenerateResult> r) { done->set_value(std::move(r)); };
  const absl::Status status = engine.Submit(std::move(task));
  if (!status.ok()) return status;
  return done->get_future().get();
}

}  // namespace longdoc::testing
