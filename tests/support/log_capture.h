// The log lines that are written while it lives, instead of on standard error.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/check.h"
#include "nlohmann/json.hpp"
#include "service/log.h"

namespace longdoc::testing {

class LogCapture {
 public:
  explicit LogCapture(service::LogLevel level = service::LogLevel::kDebug)
      : level_(service::GetLogLevel()), fd_(memfd_create("log", 0)) {
    LD_CHECK(fd_ >= 0);
    service::SetLogFileDescriptor(fd_);
    service::SetLogLevel(level);
  }
  // No other thread may log any more.
  ~LogCapture() {
    service::SetLogLevel(level_);
    service::SetLogFileDescriptor(2);
    close(fd_);
  }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  std::string Text() const {
    std::string text;
    char buffer[4096];
    ssize_t n;
    while ((n = pread(fd_, buffer, sizeof(buffer), static_cast<off_t>(text.size()))) > 0) {
      text.append(buffer, static_cast<size_t>(n));
    }
    return text;
  }
  // The whole lines with this event. A line that is no JSON fails the process.
  std::vector<nlohmann::json> Events(const std::string& event) const {
    const std::string text = Text();
    std::vector<nlohmann::json> found;
    for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
      auto line = nlohmann::json::parse(text.substr(at, end - at), nullptr, false);
      LD_CHECK(line.is_object());
      if (line.value("event", "") == event) found.push_back(std::move(line));
    }
    return found;
  }
  // Waits until there are `count` of them, at most twenty seconds: an access line is written when a
  // call is done, which may be after its answer has arrived.
  std::vector<nlohmann::json> WaitForEvents(const std::string& event, size_t count) const {
    for (int i = 0; i < 2000; ++i) {
      auto found = Events(event);
      if (found.size() >= count) return found;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return Events(event);
  }

 private:
  const service::LogLevel level_;
  const int fd_;
};

}  // namespace longdoc::testing
