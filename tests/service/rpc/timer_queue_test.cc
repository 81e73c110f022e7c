#include "service/timer_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <vector>

namespace longdoc::service {
namespace {

using std::chrono::milliseconds;

TEST(TimerQueue, RunsInTheOrderOfTime) {
  std::vector<int> order;  // only the queue's thread writes
  std::promise<void> done;
  TimerQueue timers;
  const auto now = timers.Now();
  timers.Schedule(now + milliseconds(20), [&] {
    order.push_back(3);
    done.set_value();
  });
  timers.Schedule(now + milliseconds(1), [&] { order.push_back(1); });
  timers.Schedule(now + milliseconds(10), [&] { order.push_back(2); });
  done.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(TimerQueue, CancelledFunctionsDoNotRunAndAreDestroyed) {
  auto owned = std::make_shared<int>(0);
  std::weak_ptr<int> alive = owned;
  std::atomic<bool> ran{false};
  TimerQueue timers;
  const TimerQueue::Id id = timers.Schedule(timers.Now() + std::chrono::hours(1),
                                            [&ran, owned = std::move(owned)] { ran = true; });
  EXPECT_FALSE(alive.expired());
  EXPECT_TRUE(timers.Cancel(id));
  EXPECT_TRUE(alive.expired());
  EXPECT_FALSE(timers.Cancel(id));
  std::promise<void> later;
  timers.Schedule(timers.Now(), [&] { later.set_value(); });
  later.get_future().wait();
  EXPECT_FALSE(ran);
}

TEST(TimerQueue, FunctionsMayScheduleAndCancel) {
  std::promise<void> done;
  TimerQueue timers;
  timers.Schedule(timers.Now(), [&] {
    const auto id = timers.Schedule(timers.Now() + std::chrono::hours(1), [] {});
    EXPECT_TRUE(timers.Cancel(id));
    timers.Schedule(timers.Now(), [&] { done.set_value(); });
  });
  done.get_future().wait();
}

TEST(TimerQueue, EndsWithoutRunningWhatIsNotDue) {
  std::atomic<bool> ran{false};
  {
    TimerQueue timers;
    timers.Schedule(timers.Now() + std::chrono::hours(1), [&] { ran = true; });
  }
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace longdoc::service
