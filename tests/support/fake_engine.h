// An engine whose tasks end when the test says so, with results that follow from the ids alone.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/decode_task.h"
#include "engine/engine.h"
#include "engine/max_sim.h"

namespace longdoc::testing {

// A WordPiece vocabulary of special tokens, printable ASCII characters (also as continuations) and
// some words.
std::string SmallVocabulary();

// Thread-safe. Callbacks run on the thread that calls Complete, Progress or Stop.
class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(bool with_decoder = true);
  ~FakeEngine() override { Stop(); }

  // The model "fake": 16 dimensions, tokenizer of SmallVocabulary, a decoder of 32 positions unless
  // made without.
  std::shared_ptr<const Model> model() const { return model_; }

  // The oldest task's outcome: its result, or what its token or `status` says. False: no task.
  bool Complete(absl::Status status = absl::OkStatus());
  // The same for the newest task, as far as the order matters.
  bool CompleteNewest(absl::Status status = absl::OkStatus());
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

  // log p of target number `position` of any candidate.
  static float ExpectedLogProb(int32_t target, int64_t position);
  // Cross keys and values of a document of `tokens` tokens, as encodes give them.
  static std::shared_ptr<const CrossKv> MakeCrossKv(int64_t tokens);

  absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& name,
                                                         const std::string& dir) override;
  // 1,000 bytes per token, 64 per vector.
  absl::StatusOr<EncodePlan> Plan(const Model& model, const EncodeShape& shape) const override;
  absl::Status Submit(EncodeTask&& task) override;
  absl::Status Submit(MaxSimTask&& task) override;
  absl::Status Submit(ScoreTask&& task) override;
  absl::Status Submit(GenerateTask&& task) override;
  EngineStats stats() const override;
  const EngineOptions& options() const override { return options_; }
  std::string DeviceDescription() const override { return "fake"; }
  void Stop() override;

 private:
  struct Task {
    int64_t tokens = 0;
    std::shared_ptr<CancellationToken> cancellation;
    std::function<void(double)> on_progress;
    // With the result's owner.
    absl::AnyInvocable<void(absl::Status, std::shared_ptr<const void>) &&> complete;
  };
  absl::Status Queue(Task task);
  bool CompleteOne(bool newest, absl::Status status);

  EngineOptions options_;
  std::shared_ptr<const Model> model_;
  mutable std::mutex mutex_;
  mutable std::condition_variable submitted_;
  std::deque<Task> tasks_;
  absl::Status submit_status_;
  std::shared_ptr<const void> next_owner_;
  bool stopped_ = false;
};

}  // namespace longdoc::testing
