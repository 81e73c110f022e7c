// A fixed pool of named threads with an unbounded queue; callers bound their own work.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/any_invocable.h"

namespace longdoc {

class ThreadPool {
 public:
  ThreadPool(const std::string& name, int num_threads);
  ~ThreadPool();  // runs what is queued, then joins
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs `job` on some thread. Never blocks.
  void Post(absl::AnyInvocable<void() &&> job);

 private:
  void Run();
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<absl::AnyInvocable<void() &&>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace longdoc
