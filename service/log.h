// Structured logging: one JSON object per line on standard error.
//
//   {"ts":"2024-05-01T12:00:00.123Z","level":"info","event":"server started","port":50051}
//
// Thread-safe. A line is written with one write(2), so lines of several threads never mix. Values
// are escaped; bytes that are no UTF-8 become U+FFFD; a value longer than 4 KiB is cut. Never pass
// text of documents: log ids, sizes, codes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/time/time.h"

namespace longdoc::service {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A value as JSON: strings quoted and escaped; numbers and booleans bare, non-finite numbers null.
class LogValue {
 public:
  LogValue(std::string_view text);                                         // NOLINT: implicit
  LogValue(const std::string& text) : LogValue(std::string_view(text)) {}  // NOLINT
  LogValue(const char* text) : LogValue(std::string_view(text)) {}         // NOLINT
  LogValue(bool value) : json_(value ? "true" : "false") {}                // NOLINT
  LogValue(double value);                                                  // NOLINT
  template <typename T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
  LogValue(T value) : json_(std::to_string(value)) {}  // NOLINT
  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

struct LogField {
  std::string_view key;
  LogValue value;
};

// Writes a line if `level` is at least the threshold. `event` is a short fixed phrase in lower
// case.
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

// The threshold; kInfo at the start.
void SetLogLevel(LogLevel level);
LogLevel GetLogLevel();
// "debug", "info", "warning", "error"; false (and `level` untouched) for anything else.
bool ParseLogLevel(std::string_view name, LogLevel* level);

// The line that Log would write, with its newline.
std::string FormatLogLine(LogLevel level, absl::Time time, std::string_view event,
                          std::initializer_list<LogField> fields);

// Lines go to this file descriptor (not owned) from now on; 2 at the start. For tests.
void SetLogFileDescriptor(int fd);

// Lets through at most `per_second` calls a second and counts the rest, for events that a client
// can cause at will. Thread-safe.
class LogLimiter {
 public:
  explicit LogLimiter(int per_second) : per_second_(per_second) {}
  // True if a line may be written now; then `suppressed` is how many were refused since the last.
  bool Allow(int64_t* suppressed);
  bool AllowAt(absl::Time now, int64_t* suppressed);

 private:
  const int per_second_;
  int64_t second_ = 0;  // guarded by the mutex in log.cc: contention is bounded by the log itself
  int used_ = 0;
  int64_t suppressed_ = 0;
};

}  // namespace longdoc::service
