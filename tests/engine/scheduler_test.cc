#include "engine/scheduler.h"

#include <chrono>
#include <condition_variable>
#include <future>
#include <limits>
#include <thread>

#include "engine/base/error_reason.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using Result = absl::StatusOr<EncodeResult>;

// A task whose outcome can be waited for.
struct Handle {
  std::shared_ptr<CancellationToken> token;
  std::future<Result> done;
};

class SchedulerTest : public ::testing::Test {
 protected:
  void Start(EngineOptions options = {}) {
    engine_ = testing::MakeEngine(options);
    model_ = testing::LoadGolden(*engine_, "b_h12_c192");  // the smallest
  }

  absl::StatusOr<Handle> Submit(
      int64_t tokens,
      CancellationToken::Clock::time_point deadline = CancellationToken::Clock::time_point::max(),
      std::function<void(double)> on_progress = nullptr) {
    EncodeTask task = testing::MakeTask(model_, testing::SomeIds(tokens, 11));
    task.cancellation = std::make_shared<CancellationToken>(deadline);
    task.on_progress = std::move(on_progress);
    auto promise = std::make_shared<std::promise<Result>>();
    Handle handle{task.cancellation, promise->get_future()};
    task.on_done = [promise](Result result) { promise->set_value(std::move(result)); };
    absl::Status status = engine_->Submit(std::move(task));
    if (!status.ok()) return status;
    return handle;
  }

  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const Model> model_;
};

TEST_F(SchedulerTest, ShortTextsOvertakeADocument) {
  Start();
  absl::StatusOr<Handle> giant = Submit(8000);
  ASSERT_TRUE(giant.ok());
  int finished_before = 0;
  for (int i = 0; i < 12; ++i) {
    absl::StatusOr<Handle> text = Submit(16);
    ASSERT_TRUE(text.ok());
    ASSERT_TRUE(text->done.get().ok());
    if (giant->done.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      ++finished_before;
    }
  }
  EXPECT_GE(finished_before, 6);
  EXPECT_TRUE(giant->done.get().ok());
}

TEST_F(SchedulerTest, SeveralDocumentsTakeStepsInTurn) {
  Start();
  std::mutex mutex;
  std::vector<int> order;
  auto report = [&](int who) {
    return [&, who](double) {
      std::lock_guard lock(mutex);
      order.push_back(who);
    };
  };
  auto never = CancellationToken::Clock::time_point::max();
  absl::StatusOr<Handle> a = Submit(4000, never, report(0));
  absl::StatusOr<Handle> b = Submit(4000, never, report(1));
  ASSERT_TRUE(a.ok() && b.ok());
  ASSERT_TRUE(a->done.get().ok() && b->done.get().ok());
  int changes = 0;
  for (size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1];
  EXPECT_GT(changes, 10);
}

TEST_F(SchedulerTest, ProgressAscendsAndEndsBeforeTheResult) {
  Start();
  std::mutex mutex;
  std::vector<double> seen;
  std::atomic<bool> done{false};
  absl::StatusOr<Handle> h =
      Submit(5000, CancellationToken::Clock::time_point::max(), [&](double p) {
        std::lock_guard lock(mutex);
        EXPECT_FALSE(done);
        seen.push_back(p);
      });
  ASSERT_TRUE(h.ok());
  ASSERT_TRUE(h->done.get().ok());
  done = true;
  ASSERT_GT(seen.size(), 5u);
  EXPECT_GT(seen.back(), 0.9);
  EXPECT_LE(seen.back(), 1.0);
}

TEST_F(SchedulerTest, CancellationInsideAPassFreesItsMemoryAtOnce) {
  Start();
  std::promise<void> started;
  std::atomic<bool> told{false};
  absl::StatusOr<Handle> h =
      Submit(60000, CancellationToken::Clock::time_point::max(), [&](double) {
        if (!told.exchange(true)) started.set_value();
      });
  ASSERT_TRUE(h.ok());
  started.get_future().wait();
  EXPECT_GT(engine_->stats().allocated_bytes, 0);
  h->token->Cancel();
  EXPECT_EQ(h->done.get().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(engine_->stats().allocated_bytes, 0);
  EXPECT_EQ(engine_->stats().reserved_bytes, 0);
  EXPECT_EQ(engine_->stats().running_tasks, 0);
}

TEST_F(SchedulerTest, DeadlinesEndRunningAndQueuedTasks) {
  Start();
  const auto soon = CancellationToken::Clock::now() + std::chrono::milliseconds(150);
  absl::StatusOr<Handle> running = Submit(200000, soon);
  std::vector<Handle> queued;
  for (int i = 0; i < 6; ++i) {  // more than run at once
    absl::StatusOr<Handle> h = Submit(200000, soon);
    ASSERT_TRUE(h.ok());
    queued.push_back(*std::move(h));
  }
  ASSERT_TRUE(running.ok());
  EXPECT_EQ(running->done.get().status().code(), absl::StatusCode::kDeadlineExceeded);
  for (Handle& h : queued) {
    EXPECT_EQ(h.done.get().status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_EQ(engine_->stats().queued_tasks, 0);
  EXPECT_EQ(engine_->stats().queued_tokens, 0);
}

TEST_F(SchedulerTest, OneCancelledTextDoesNotHurtItsBatch) {
  Start();
  absl::StatusOr<Handle> blocker = Submit(8000);
  std::vector<Handle> batch;
  for (int i = 0; i < 8; ++i) batch.push_back(*Submit(50));
  batch[3].token->Cancel();
  for (size_t i = 0; i < batch.size(); ++i) {
    Result result = batch[i].done.get();
    if (i == 3) continue;  // it may have finished before the cancel
    EXPECT_TRUE(result.ok()) << result.status();
  }
  ASSERT_TRUE(blocker->done.get().ok());
}

TEST_F(SchedulerTest, FullQueueIsRefusedWithARetryDelay) {
  EngineOptions options;
  options.max_queued_tokens = 100000;
  Start(options);
  std::vector<Handle> accepted;
  absl::Status refused;
  for (int i = 0; i < 10 && refused.ok(); ++i) {
    absl::StatusOr<Handle> h = Submit(40000);
    if (h.ok()) {
      accepted.push_back(*std::move(h));
    } else {
      refused = h.status();
    }
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused), "QUEUE_FULL");
  EXPECT_GT(RetryDelaySecondsOf(refused), 0);
  for (Handle& h : accepted) h.token->Cancel();
  for (Handle& h : accepted)
    EXPECT_FALSE(h.done.get().status().code() == absl::StatusCode::kUnknown);
}

TEST_F(SchedulerTest, ADocumentThatCannotFitIsRefusedAndOthersWaitForMemory) {
  EngineOptions options;
  options.memory_budget_bytes = 30 << 20;
  Start(options);
  absl::StatusOr<Handle> refused = Submit(100000);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused.status()), "DOCUMENT_EXCEEDS_MEMORY");
  std::vector<Handle> handles;
  for (int i = 0; i < 5; ++i) handles.push_back(*Submit(4000));  // two of them at most at once
  for (Handle& h : handles) EXPECT_TRUE(h.done.get().ok());
  EXPECT_LE(engine_->stats().peak_allocated_bytes, options.memory_budget_bytes);
  EXPECT_GT(engine_->stats().peak_allocated_bytes, 0);
}

TEST_F(SchedulerTest, StopAnswersEveryTask) {
  Start();
  std::vector<Handle> handles;
  for (int i = 0; i < 6; ++i) handles.push_back(*Submit(50000));
  engine_->Stop();
  for (Handle& h : handles) {
    EXPECT_EQ(h.done.get().status().code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(Submit(10).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine_->stats().allocated_bytes, 0);
}

TEST_F(SchedulerTest, BadTasksAreRefusedWithAReason) {
  Start();
  auto reason = [&](EncodeTask task) {
    task.on_done = [](Result) { FAIL() << "refused tasks have no callback"; };
    absl::Status status = engine_->Submit(std::move(task));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return ReasonOf(status);
  };
  EXPECT_EQ(reason(testing::MakeTask(model_, {})), "EMPTY_DOCUMENT");
  EXPECT_EQ(reason(testing::MakeTask(model_, {1, 2, 997})), "TOKEN_OUT_OF_VOCABULARY");
  EXPECT_EQ(reason(testing::MakeTask(model_, {1, -1})), "TOKEN_OUT_OF_VOCABULARY");
  for (const TokenSpan span : {TokenSpan{-1, 1}, TokenSpan{1, 1}, TokenSpan{0, 4}}) {
    EncodeTask task = testing::MakeTask(model_, {1, 2, 3});
    task.spans = {span};
    EXPECT_EQ(reason(std::move(task)), "INVALID_PASSAGE");
  }
  for (const float epsilon : {0.0f, 1.0f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    EncodeTask task = testing::MakeTask(model_, {1, 2, 3});
    task.attention.epsilon = epsilon;
    EXPECT_EQ(reason(std::move(task)), "INVALID_ATTENTION_POLICY");
  }
  EncodeTask task = testing::MakeTask(model_, {1, 2, 3});
  task.attention.mode = AttentionMode::kWindow;
  EXPECT_EQ(reason(std::move(task)), "INVALID_ATTENTION_POLICY");
}

TEST_F(SchedulerTest, ManyThreadsOfMixedTrafficLoseNothing) {
  EngineOptions options;
  options.memory_budget_bytes = 200 << 20;
  Start(options);
  std::atomic<int> answered{0}, submitted{0}, refused{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 6; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) {
        const int64_t tokens = i % 5 == 0 ? 1100 + 100 * c : 1 + (i * 37 + c * 11) % 200;
        EncodeTask task =
            testing::MakeTask(model_, testing::SomeIds(std::max<int64_t>(2, tokens), i));
        auto token = task.cancellation;
        task.on_done = [&](Result) { ++answered; };
        if (engine_->Submit(std::move(task)).ok()) {
          ++submitted;
        } else {
          ++refused;
        }
        if (i % 4 == 3) token->Cancel();
      }
    });
  }
  for (std::thread& t : clients) t.join();
  for (int i = 0; i < 6000 && answered < submitted; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(answered, submitted);
  EXPECT_EQ(submitted + refused, 120);
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(stats.allocated_bytes, 0);
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_EQ(stats.queued_tokens, 0);
  EXPECT_EQ(stats.running_tokens, 0);
}

}  // namespace
}  // namespace longdoc
