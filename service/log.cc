#include "service/log.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <mutex>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace longdoc::service {
namespace {

constexpr size_t kMaxValueBytes = 4096;
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

std::atomic<LogLevel> g_level{LogLevel::kInfo};
std::atomic<int> g_fd{2};

std::mutex& WriteMutex() {
  static std::mutex* mutex = new std::mutex;  // never destroyed: threads may log during exit
  return *mutex;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

// Length of the well-formed UTF-8 character at the front of `text`, or 0.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  size_t length = 0;
  unsigned char low = 0x80, high = 0xBF;  // range of the second byte
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;   // overlong
    if (lead == 0xED) high = 0x9F;  // surrogates
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;  // beyond U+10FFFF
  }
  if (length == 0 || length > text.size()) return 0;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

void AppendEscaped(char c, std::string* out) {
  switch (c) {
    case '"':
      out->append("\\\"");
      return;
    case '\\':
      out->append("\\\\");
      return;
    case '\n':
      out->append("\\n");
      return;
    case '\r':
      out->append("\\r");
      return;
    case '\t':
      out->append("\\t");
      return;
    default:
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
        absl::StrAppendFormat(out, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      } else {
        out->push_back(c);
      }
  }
}

std::string Quote(std::string_view text) {
  const bool cut = text.size() > kMaxValueBytes;
  if (cut) text = text.substr(0, kMaxValueBytes);
  std::string out = "\"";
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    if (length == 0) {
      out.append(kReplacement);
      text.remove_prefix(1);
      continue;
    }
    if (length == 1) {
      AppendEscaped(text[0], &out);
    } else {
      out.append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  if (cut) out.append("...");
  out.push_back('"');
  return out;
}

}  // namespace

LogValue::LogValue(std::string_view text) : json_(Quote(text)) {}

LogValue::LogValue(double value)
    : json_(std::isfinite(value) ? absl::StrFormat("%.6g", value) : std::string("null")) {}

std::string FormatLogLine(LogLevel level, absl::Time time, std::string_view event,
                          std::initializer_list<LogField> fields) {
  std::string line =
      absl::StrFormat("{\"ts\":\"%s\",\"level\":\"%s\",\"event\":%s",
                      absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", time, absl::UTCTimeZone()),
                      LevelName(level), Quote(event));
  for (const LogField& field : fields) {
    absl::StrAppendFormat(&line, ",%s:%s", Quote(field.key), field.value.json());
  }
  line.append("}\n");
  return line;
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  const std::string line = FormatLogLine(level, absl::Now(), event, fields);
  // The mutex keeps lines whole even where the kernel takes only part of one (a full pipe).
  std::lock_guard<std::mutex> lock(WriteMutex());
  const int fd = g_fd.load(std::memory_order_relaxed);
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = write(fd, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nowhere left to complain
    done += static_cast<size_t>(n);
  }
}

void SetLogLevel(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }
LogLevel GetLogLevel() { return g_level.load(std::memory_order_relaxed); }

bool ParseLogLevel(std::string_view name, LogLevel* level) {
  for (LogLevel candidate :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (name == LevelName(candidate)) {
      *level = candidate;
      return true;
    }
  }
  return false;
}

void SetLogFileDescriptor(int fd) { g_fd.store(fd, std::memory_order_relaxed); }

bool LogLimiter::Allow(int64_t* suppressed) { return AllowAt(absl::Now(), suppressed); }

bool LogLimiter::AllowAt(absl::Time now, int64_t* suppressed) {
  std::lock_guard<std::mutex> lock(WriteMutex());
  const int64_t second = absl::ToUnixSeconds(now);
  if (second != second_) {
    second_ = second;
    used_ = 0;
  }
  if (used_ >= per_second_) {
    ++suppressed_;
    return false;
  }
  ++used_;
  *suppressed = suppressed_;
  suppressed_ = 0;
  return true;
}

}  // namespace longdoc::service
