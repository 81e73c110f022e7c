// An executor whose jobs run when the test says so.
#pragma once

#include <deque>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "service/executor.h"

namespace longdoc::testing {

// Not thread-safe; outlives what uses the executor.
class JobQueue {
 public:
  service::Executor executor() {
    return [this](absl::AnyInvocable<void() &&> job) { jobs_.push_back(std::move(job)); };
  }
  // False: there was none.
  bool RunOne() {
    if (jobs_.empty()) return false;
    absl::AnyInvocable<void()&&> job = std::move(jobs_.front());
    jobs_.pop_front();
    std::move(job)();
    return true;
  }
  // Also those that jobs add.
  void Run() {
    while (RunOne()) {
    }
  }
  size_t size() const { return jobs_.size(); }
  bool empty() const { return jobs_.empty(); }

 private:
  std::deque<absl::AnyInvocable<void() &&>> jobs_;
};

}  // namespace longdoc::testing
