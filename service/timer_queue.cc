#include "service/timer_queue.h"

#include <pthread.h>

namespace longdoc::service {

TimerQueue::TimerQueue() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "ld-timer");
    Run();
  });
}

TimerQueue::~TimerQueue() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

TimerQueue::Id TimerQueue::Schedule(TimePoint when, absl::AnyInvocable<void() &&> fn) {
  std::lock_guard lock(mutex_);
  const Id id{when, next_serial_++};
  const bool first = timers_.empty() || id < timers_.begin()->first;
  timers_.emplace(id, std::move(fn));
  if (first) wake_.notify_one();
  return id;
}

bool TimerQueue::Cancel(const Id& id) {
  absl::AnyInvocable<void() &&> dropped;  // destroyed after the lock: it may own a session
  std::lock_guard lock(mutex_);
  auto it = timers_.find(id);
  if (it == timers_.end()) return false;
  dropped = std::move(it->second);
  timers_.erase(it);
  return true;
}

void TimerQueue::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (timers_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const TimePoint when = timers_.begin()->first.when;
    if (std::chrono::steady_clock::now() < when) {
      wake_.wait_until(lock, when);
      continue;
    }
    absl::AnyInvocable<void()&&> fn = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    lock.unlock();
    std::move(fn)();
    fn = nullptr;
    lock.lock();
  }
}

}  // namespace longdoc::service
