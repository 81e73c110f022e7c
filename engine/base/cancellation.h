// A flag and a deadline that work looks at between steps.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "absl/status/status.h"

namespace longdoc {

// Shared between the request (which cancels) and the work (which polls). Thread-safe, cheap.
class CancellationToken {
 public:
  using Clock = std::chrono::steady_clock;
  explicit CancellationToken(Clock::time_point deadline = Clock::time_point::max())
      : deadline_(deadline) {}

  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  Clock::time_point deadline() const { return deadline_; }

  // OK, CANCELLED, or DEADLINE_EXCEEDED.
  absl::Status Check() const {
    if (cancelled()) return absl::CancelledError("request was cancelled");
    if (deadline_ != Clock::time_point::max() && Clock::now() >= deadline_) {
      return absl::DeadlineExceededError("deadline passed while the document was processed");
    }
    return absl::OkStatus();
  }

 private:
  std::atomic<bool> cancelled_{false};
  const Clock::time_point deadline_;
};

}  // namespace longdoc
