// What handlers need, without a server: a fake engine, time that the test moves, a small store.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "engine/base/thread_pool.h"
#include "engine/document_store.h"
#include "service/context.h"
#include "service/metrics.h"
#include "service/timer_queue.h"
#include "tests/support/fake_engine.h"

namespace longdoc::testing {

class ManualTimers final : public service::Timers {
 public:
  TimePoint Now() const override { return now_; }
  Id Schedule(TimePoint when, absl::AnyInvocable<void() &&> fn) override {
    const Id id{when, next_serial_++};
    timers_.emplace(id, std::move(fn));
    return id;
  }
  bool Cancel(const Id& id) override { return timers_.erase(id) > 0; }

  // Moves time and runs what falls due, in order.
  void Advance(double seconds) {
    const TimePoint end = now_ + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                     std::chrono::duration<double>(seconds));
    while (!timers_.empty() && timers_.begin()->first.when <= end) {
      now_ = std::max(now_, timers_.begin()->first.when);
      absl::AnyInvocable<void()&&> fn = std::move(timers_.begin()->second);
      timers_.erase(timers_.begin());
      std::move(fn)();
    }
    now_ = end;
  }
  size_t size() const { return timers_.size(); }

 private:
  TimePoint now_ = TimePoint() + std::chrono::hours(24 * 365);
  uint64_t next_serial_ = 1;
  std::map<Id, absl::AnyInvocable<void() &&>> timers_;
};

struct TestContext {
  explicit TestContext(const service::Limits& limits = {}, int64_t document_budget_bytes = 1 << 20)
      : documents(StoreOptions(document_budget_bytes)),
        context(engine, documents, limits, metrics, pool, timers) {
    context.AddModel(engine.model());
  }

  service::Metrics metrics;
  ThreadPool pool{"test-unused", 1};
  FakeEngine engine;
  ManualTimers timers;
  DocumentStore documents;  // its clock is moved by the timers'
  service::ServiceContext context;

 private:
  DocumentStoreOptions StoreOptions(int64_t budget_bytes) {
    DocumentStoreOptions options;
    options.budget_bytes = budget_bytes;
    options.instance = "test";
    options.now = [this] {
      return absl::UnixEpoch() + absl::FromChrono(timers.Now().time_since_epoch());
    };
    return options;
  }
};

}  // namespace longdoc::testing
