// The scheduler with works that are no encodes: the protocol of work.h, and nothing else.
#include "engine/work.h"

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/error_reason.h"
#include "engine/scheduler.h"
#include "gtest/gtest.h"

namespace longdoc {
namespace {

constexpr int kPhases = 3;
constexpr int64_t kSteps = 4;

// What the works of one test did.
struct Log {
  std::atomic<int> passes{0}, live_passes{0}, steps{0}, collected{0}, done{0};
  std::atomic<int64_t> largest_batch{0};
};

// Counts; waits in its first step until `gate` is open; may fail in the last.
class CountingPass final : public Pass {
 public:
  CountingPass(Log& log, std::shared_future<void> gate, bool fails)
      : log_(log), gate_(std::move(gate)), fails_(fails) {
    ++log_.passes;
    ++log_.live_passes;
  }
  ~CountingPass() override { --log_.live_passes; }
  int64_t num_steps() const override { return finished() ? 0 : kSteps; }
  bool finished() const override { return phase_ == kPhases; }
  absl::Status RunStep(int64_t step, WorkerScratch&) override {
    if (phase_ == 0 && step == 0) gate_.wait_for(std::chrono::minutes(1));
    EXPECT_EQ(in_phase_ / kSteps, phase_) << "a phase began before the last one had ended";
    ++in_phase_;
    ++log_.steps;
    const bool last = phase_ == kPhases - 1 && step == kSteps - 1;
    return last && fails_ ? absl::InternalError("broken step") : absl::OkStatus();
  }
  void NextPhase() override { ++phase_; }
  double Progress(int64_t steps_done) const override {
    return static_cast<double>(phase_ * kSteps + steps_done) / (kPhases * kSteps);
  }

 private:
  Log& log_;
  const std::shared_future<void> gate_;
  const bool fails_;
  std::atomic<int> phase_{0};
  std::atomic<int64_t> in_phase_{0};
};

struct Options {
  int kind = 0;  // works of one kind share a pass
  int64_t kept_bytes = 0;
  bool refuses_pass = false, fails = false;
};

class CountingWork final : public Work {
 public:
  CountingWork(WorkNeeds needs, const Options& options, Log& log, std::shared_future<void> gate)
      : Work(std::move(needs)), options_(options), log_(log), gate_(std::move(gate)) {}

  bool CanJoin(const Work& first) const override {
    return static_cast<const CountingWork&>(first).options_.kind == options_.kind;
  }
  absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) override {
    EXPECT_EQ(batch[0].get(), this);
    const int64_t size = static_cast<int64_t>(batch.size());
    int64_t largest = log_.largest_batch;
    while (size > largest && !log_.largest_batch.compare_exchange_weak(largest, size)) {
    }
    if (options_.refuses_pass) return absl::ResourceExhaustedError("no memory");
    return std::make_unique<CountingPass>(log_, gate_, options_.fails);
  }
  void OnProgress(double share) override {
    EXPECT_GT(share, progress_);
    progress_ = share;
  }
  void Collect(Batch batch, Pass& pass, const absl::Status& status,
               ByteReservation& reservation) override {
    EXPECT_EQ(pass.finished(), status.ok());
    ++log_.collected;
    if (!status.ok()) return;
    for (const auto& work : batch) {
      auto& counting = static_cast<CountingWork&>(*work);
      counting.kept_ = reservation.Split(counting.options_.kept_bytes);
    }
  }
  void Done(const absl::Status& status, const WorkTimings& timings) override {
    EXPECT_GE(timings.queue_seconds, 0);
    ++log_.done;
    done_.set_value({status, std::move(kept_)});
  }

  using Outcome = std::pair<absl::Status, ByteReservation>;
  std::future<Outcome> outcome() { return done_.get_future(); }

 private:
  const Options options_;
  Log& log_;
  const std::shared_future<void> gate_;
  double progress_ = 0;
  ByteReservation kept_;
  std::promise<Outcome> done_;
};

class WorkTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(EngineOptions()); }

  void Start(EngineOptions options) {
    scheduler_.reset();
    options.num_threads = 2;
    if (options.memory_budget_bytes == 0) options.memory_budget_bytes = 1600;
    backend_ = MakeCpuBackend(DType::kF32, 2);
    scheduler_ = std::make_unique<Scheduler>(*backend_, options);
  }

  absl::StatusOr<std::future<CountingWork::Outcome>> Submit(WorkNeeds needs, Options options = {}) {
    if (needs.cancellation == nullptr) needs.cancellation = std::make_shared<CancellationToken>();
    auto work = std::make_unique<CountingWork>(std::move(needs), options, log_, gate_);
    auto outcome = work->outcome();
    absl::Status status = scheduler_->Submit(std::move(work));
    if (!status.ok()) return status;
    return outcome;
  }

  EngineStats stats() const {
    EngineStats stats;
    scheduler_->AddTo(&stats);
    return stats;
  }

  static WorkNeeds Short(int64_t tokens, int64_t bytes = 10) {
    return {tokens, bytes, 1.0, Lane::kShort, nullptr};
  }
  static WorkNeeds Long(int64_t bytes) { return {5000, bytes, 1.0, Lane::kLong, nullptr}; }

  Log log_;
  std::promise<void> open_;
  std::shared_future<void> gate_ = open_.get_future().share();
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(WorkTest, RunsEveryStepOnceAndEndsOnce) {
  open_.set_value();
  auto outcome = Submit(Long(100));
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->get().first.ok());
  scheduler_->Stop();
  EXPECT_EQ(log_.passes, 1);
  EXPECT_EQ(log_.live_passes, 0);
  EXPECT_EQ(log_.steps, kPhases * kSteps);
  EXPECT_EQ(log_.collected, 1);
  EXPECT_EQ(log_.done, 1);
}

TEST_F(WorkTest, OnlyThoseThatMayJoinShareAPass) {
  auto first = Submit(Short(10), {.kind = 1});
  while (log_.passes == 0) std::this_thread::yield();
  // These wait for a free place; the two workers are at the gate by then or will be.
  std::vector<std::future<CountingWork::Outcome>> outcomes;
  for (int i = 0; i < 10; ++i) outcomes.push_back(*Submit(Short(10), {.kind = i % 2}));
  open_.set_value();
  EXPECT_TRUE(first->get().first.ok());
  for (auto& outcome : outcomes) EXPECT_TRUE(outcome.get().first.ok());
  scheduler_->Stop();
  EXPECT_EQ(log_.done, 11);
  EXPECT_EQ(log_.collected, log_.passes);
  EXPECT_GE(log_.passes, 3);
  EXPECT_LE(log_.largest_batch, 5) << "works of two kinds in one pass";
}

TEST_F(WorkTest, WhatResultsKeepStaysReserved) {
  open_.set_value();
  auto outcome = Submit(Long(100), {.kept_bytes = 30});
  CountingWork::Outcome kept = outcome->get();
  EXPECT_EQ(kept.second.bytes(), 30);
  EXPECT_EQ(stats().reserved_bytes, 30);
  kept.second = ByteReservation();
  EXPECT_EQ(stats().reserved_bytes, 0);
}

TEST_F(WorkTest, ALongWorkWaitsForItsBytes) {
  // Long works may hold 1,500 of 1,600 bytes together.
  auto first = Submit(Long(900));
  while (log_.passes == 0) std::this_thread::yield();
  auto second = Submit(Long(900));
  auto third = Submit(Short(1, 500));
  while (log_.passes < 2) std::this_thread::yield();  // the short one overtakes
  EXPECT_EQ(stats().reserved_bytes, 1400);
  EXPECT_EQ(stats().queued_tasks, 1);
  open_.set_value();
  for (auto* outcome : {&first, &second, &third}) EXPECT_TRUE(outcome->value().get().first.ok());
  EXPECT_EQ(stats().reserved_bytes, 0);
}

TEST_F(WorkTest, FailuresReachTheCaller) {
  open_.set_value();
  auto refused = Submit(Long(100), {.refuses_pass = true});
  EXPECT_EQ(refused->get().first.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(log_.collected, 0) << "there was no pass to collect from";
  auto broken = Submit(Long(100), {.kept_bytes = 30, .fails = true});
  const CountingWork::Outcome outcome = broken->get();
  EXPECT_EQ(outcome.first.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(outcome.second.bytes(), 0);
  EXPECT_EQ(stats().reserved_bytes, 0);
  EXPECT_EQ(log_.live_passes, 0);
  EXPECT_EQ(log_.done, 2);
}

TEST_F(WorkTest, RefusedAndDrainedWorks) {
  EngineOptions options;
  options.max_queued_tasks = 2;
  options.memory_budget_bytes = 1600;
  Start(options);
  auto running = Submit(Long(900));
  while (log_.passes == 0) std::this_thread::yield();
  auto queued = Submit(Long(900)), queued_too = Submit(Long(900));
  const auto refused = Submit(Long(900));
  EXPECT_EQ(ReasonOf(refused.status()), "QUEUE_FULL");
  EXPECT_DOUBLE_EQ(RetryDelaySecondsOf(refused.status()), 2);  // a second for each that waits
  std::thread stopper([&] { scheduler_->Stop(); });
  while (Submit(Short(1)).status().code() != absl::StatusCode::kUnavailable) {
    std::this_thread::yield();  // until it stops, the queue is full
  }
  open_.set_value();
  stopper.join();
  for (auto* outcome : {&queued, &queued_too}) {
    EXPECT_EQ(outcome->value().get().first.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(running->get().first.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(log_.done, 3) << "a refused work is not told";
  EXPECT_EQ(Submit(Short(1)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(stats().reserved_bytes, 0);
  EXPECT_EQ(stats().queued_tokens + stats().running_tokens, 0);
}

TEST(ByteReservation, CountsWhatIsHeld) {
  auto total = std::make_shared<ByteReservation::Counter>(0);
  ByteReservation whole(total, 100);
  EXPECT_EQ(*total, 100);
  {
    ByteReservation part = whole.Split(30);
    EXPECT_EQ(whole.bytes(), 70);
    EXPECT_EQ(*total, 100);
    ByteReservation moved = std::move(part);
    EXPECT_EQ(moved.bytes(), 30);
    EXPECT_EQ(part.bytes(), 0);  // NOLINT: moved from, and nothing is held there
  }
  EXPECT_EQ(*total, 70);
  const ByteReservation more = whole.Split(90);  // beyond what there was
  EXPECT_EQ(whole.bytes(), 0);
  EXPECT_EQ(*total, 90);
  whole = ByteReservation();
  EXPECT_EQ(*total, 90);
  EXPECT_EQ(ByteReservation().Split(5).bytes(), 0);
}

}  // namespace
}  // namespace longdoc
