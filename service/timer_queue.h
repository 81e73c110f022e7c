// One thread that calls functions at given times: idle timeouts, deadlines and progress of streams.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"

namespace longdoc::service {

// A clock with timers; sessions see only this, so that tests can move time by hand.
class Timers {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Id {
    TimePoint when;
    uint64_t serial = 0;  // 0: no timer
    bool operator<(const Id& other) const {
      return std::pair(when, serial) < std::pair(other.when, other.serial);
    }
  };

  virtual ~Timers() = default;
  virtual TimePoint Now() const = 0;
  // Runs `fn` once `when` has come. Never runs it before returning.
  virtual Id Schedule(TimePoint when, absl::AnyInvocable<void() &&> fn) = 0;
  // False if the function ran, runs now, or never was. Never waits; the function is destroyed.
  virtual bool Cancel(const Id& id) = 0;
};

// Thread-safe. Functions run on the queue's thread ("ld-timer") and must be quick.
class TimerQueue final : public Timers {
 public:
  TimerQueue();
  ~TimerQueue() override;  // drops what is not due, joins
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  TimePoint Now() const override { return std::chrono::steady_clock::now(); }
  Id Schedule(TimePoint when, absl::AnyInvocable<void() &&> fn) override;
  bool Cancel(const Id& id) override;

 private:
  void Run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<Id, absl::AnyInvocable<void() &&>> timers_;
  uint64_t next_serial_ = 1;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace longdoc::service
