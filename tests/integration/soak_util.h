// What soak tests share.
#pragma once

#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

namespace longdoc::testing {

// LONGDOC_SOAK_SECONDS, or ten.
inline double SoakSeconds() {
  const char* text = std::getenv("LONGDOC_SOAK_SECONDS");
  const double seconds = text == nullptr ? 0 : std::atof(text);
  return seconds > 0 ? seconds : 10;
}

inline int64_t ResidentBytes() {
  malloc_trim(0);
  long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    long total;
    if (std::fscanf(file, "%ld %ld", &total, &pages) != 2) pages = 0;
    std::fclose(file);
  }
  return pages * sysconf(_SC_PAGESIZE);
}

// Cancels calls at given times; the calls are blocked meanwhile.
class Canceller {
 public:
  using Clock = std::chrono::steady_clock;
  Canceller() : thread_([this] { Run(); }) {}
  ~Canceller() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void Add(Clock::time_point when, grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    due_.emplace(when, context);
    wake_.notify_all();
  }
  // Before the context goes. Afterwards it is not touched.
  void Remove(grpc::ClientContext* context) {
    std::lock_guard lock(mutex_);
    for (auto it = due_.begin(); it != due_.end();) {
      it = it->second == context ? due_.erase(it) : std::next(it);
    }
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (due_.empty()) {
        wake_.wait(lock);
      } else if (Clock::now() < due_.begin()->first) {
        const Clock::time_point next = due_.begin()->first;  // the entry may go while we wait
        wake_.wait_until(lock, next);
      } else {
        due_.begin()->second->TryCancel();  // under the lock: Remove waits for it
        due_.erase(due_.begin());
      }
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<Clock::time_point, grpc::ClientContext*> due_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace longdoc::testing
