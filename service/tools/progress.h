// Progress of long work on standard error.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

#include "service/tools/embedder.h"

namespace longdoc::tools {

// On a terminal one line that is redrawn, at most ten times a second; otherwise a plain line at
// every new stage and then every few seconds, so that logs stay short. Thread-safe.
class ProgressPrinter {
 public:
  // `quiet`: prints nothing.
  explicit ProgressPrinter(bool quiet);
  ~ProgressPrinter();  // wipes the bar
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void Update(const std::string& document, const EmbedProgress& progress);
  // Wipes the bar, so that other output may follow.
  void Clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string Bar(const std::string& document, const EmbedProgress& progress) const;

  const bool quiet_;
  const bool terminal_;
  std::mutex mutex_;
  bool drawn_ = false;
  std::string last_stage_;
  Clock::time_point last_ = {};
};

}  // namespace longdoc::tools
