// An engine whose tasks end when the test says so, with vectors that follow from the ids alone.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace longdoc::testing {

// A WordPiece vocabulary of special tokens, printable ASCII characters (also as continuations) and
// some words.
std::string SmallVocabulary();

// Thread-safe. Callbacks run on the thread that calls Complete, Progress or Stop.
class FakeEngine final : public Engine {
 public:
  FakeEngine();
  ~FakeEngine() override { Stop(); }

  // The model "fake": 16 dimensions, tokenizer of SmallVocabulary.
  std::shared_ptr<const Model> model() const { return model_; }

  // The oldest task's outcome: its vectors, or what its token or `status` says. False: no task.
  bool Complete(absl::Status status = absl::OkStatus());
  // Tells the oldest task that this share of its work is done. False: no task.
  bool Progress(double fraction);
  size_t num_tasks() const;
  // Blocks until there are tasks; false after ten seconds.
  bool WaitForTasks(size_t count) const;
  // The token of the oldest task.
  std::shared_ptr<CancellationToken> first_token() const;
  void set_submit_status(absl::Status status);
  // What the next result holds besides its vectors, to see when it is dropped.
  void set_next_owner(std::shared_ptr<const void> owner);
  void set_memory_budget(int64_t bytes) { options_.memory_budget_bytes = bytes; }

  // The vectors that any engine of this kind gives: [16] for tokens [begin, end) of `ids`.
  static std::vector<float> ExpectedVector(const std::vector<int32_t>& ids, int64_t begin,
                                           int64_t end);

  absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& name,
                                                         const std::string& dir) override;
  // 1,000 bytes per token, 64 per vector.
  absl::StatusOr<EncodePlan> Plan(const Model& model, const EncodeShape& shape) const override;
  absl::Status Submit(EncodeTask&& task) override;
  EngineStats stats() const override;
  const EngineOptions& options() const override { return options_; }
  std::string DeviceDescription() const override { return "fake"; }
  void Stop() override;

 private:
  EngineOptions options_;
  std::shared_ptr<const Model> model_;
  mutable std::mutex mutex_;
  mutable std::condition_variable submitted_;
  std::deque<EncodeTask> tasks_;
  absl::Status submit_status_;
  std::shared_ptr<const void> next_owner_;
  bool stopped_ = false;
};

}  // namespace longdoc::testing
