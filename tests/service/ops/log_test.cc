#include "service/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <limits>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace longdoc::service {
namespace {

std::string Line(LogValue value) {
  return FormatLogLine(LogLevel::kInfo, absl::UnixEpoch(), "e", {{"k", std::move(value)}});
}

std::string ParsedValue(std::string_view text) {
  return nlohmann::json::parse(Line(text)).at("k").get<std::string>();
}

TEST(FormatLogLine, WholeLine) {
  EXPECT_EQ(FormatLogLine(LogLevel::kWarning, absl::FromUnixMillis(1714564800123), "server started",
                          {{"port", 50051}, {"tls", true}, {"seconds", 0.25}, {"name", "x"}}),
            "{\"ts\":\"2024-05-01T12:00:00.123Z\",\"level\":\"warning\",\"event\":\"server "
            "started\",\"port\":50051,\"tls\":true,\"seconds\":0.25,\"name\":\"x\"}\n");
}

TEST(FormatLogLine, EveryByteStringIsValidJsonInOneLine) {
  for (int first = 0; first < 256; ++first) {
    for (int second : {0, 0x61, 0x7F, 0x80, 0xBF, 0xFF}) {
      const std::string text = {static_cast<char>(first), static_cast<char>(second), 'z'};
      const std::string line = Line(text);
      EXPECT_EQ(line.find('\n'), line.size() - 1);
      EXPECT_TRUE(nlohmann::json::accept(line)) << first << " " << second;  // strict about UTF-8
    }
  }
}

TEST(FormatLogLine, KeepsTextAndReplacesWhatIsNoUtf8) {
  EXPECT_EQ(ParsedValue("quote \" slash \\ tab \t line \n"), "quote \" slash \\ tab \t line \n");
  EXPECT_EQ(ParsedValue("\u00e9\u4e2d\U0001F600"), "\u00e9\u4e2d\U0001F600");
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(ParsedValue("a\xc3"), "a" + bad);                         // cut character
  EXPECT_EQ(ParsedValue("\xc0\x80"), bad + bad);                      // overlong
  EXPECT_EQ(ParsedValue("\xed\xa0\x80"), bad + bad + bad);            // surrogate
  EXPECT_EQ(ParsedValue("\xf4\x90\x80\x80"), bad + bad + bad + bad);  // above U+10FFFF
}

TEST(FormatLogLine, NumbersAndLongValues) {
  EXPECT_NE(Line(std::numeric_limits<double>::quiet_NaN()).find("\"k\":null"), std::string::npos);
  EXPECT_NE(Line(std::numeric_limits<int64_t>::min()).find("\"k\":-9223372036854775808"),
            std::string::npos);
  EXPECT_EQ(ParsedValue(std::string(10000, 'x')), std::string(4096, 'x') + "...");
}

class LogFile : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(pipe(pipe_), 0);
    SetLogFileDescriptor(pipe_[1]);
  }
  void TearDown() override {
    SetLogFileDescriptor(2);
    SetLogLevel(LogLevel::kInfo);
    close(pipe_[0]);
  }
  // All lines so far; ends logging to the pipe.
  std::string Take() {
    SetLogFileDescriptor(2);
    close(pipe_[1]);
    std::string text;
    char buffer[4096];
    ssize_t n;
    while ((n = read(pipe_[0], buffer, sizeof(buffer))) > 0) text.append(buffer, n);
    return text;
  }
  int pipe_[2];
};

TEST_F(LogFile, LevelFilters) {
  SetLogLevel(LogLevel::kWarning);
  Log(LogLevel::kInfo, "hidden");
  Log(LogLevel::kError, "shown");
  const std::string text = Take();
  EXPECT_EQ(text.find("hidden"), std::string::npos);
  EXPECT_NE(text.find("shown"), std::string::npos);
}

TEST_F(LogFile, LinesOfThreadsDoNotMix) {
  constexpr int kThreads = 4, kLines = 20;  // within what a pipe holds
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < kLines; ++i) {
        Log(LogLevel::kInfo, "line", {{"id", t * kLines + i}, {"pad", std::string(200, 'p')}});
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<int> ids;
  const std::vector<std::string> lines = absl::StrSplit(Take(), '\n', absl::SkipEmpty());
  for (const std::string& line : lines) ids.insert(nlohmann::json::parse(line).at("id").get<int>());
  EXPECT_EQ(lines.size(), size_t{kThreads * kLines});
  EXPECT_EQ(ids.size(), size_t{kThreads * kLines});
}

TEST(ParseLogLevel, Names) {
  LogLevel level = LogLevel::kError;
  EXPECT_TRUE(ParseLogLevel("debug", &level));
  EXPECT_EQ(level, LogLevel::kDebug);
  EXPECT_FALSE(ParseLogLevel("DEBUG", &level));
  EXPECT_FALSE(ParseLogLevel("", &level));
  EXPECT_EQ(level, LogLevel::kDebug);
}

TEST(LogLimiter, CountsWhatItHolds) {
  LogLimiter limiter(2);
  int64_t suppressed = -1;
  const absl::Time now = absl::FromUnixSeconds(1000);
  EXPECT_TRUE(limiter.AllowAt(now, &suppressed));
  EXPECT_EQ(suppressed, 0);
  EXPECT_TRUE(limiter.AllowAt(now, &suppressed));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(limiter.AllowAt(now, &suppressed));
  EXPECT_TRUE(limiter.AllowAt(now + absl::Seconds(1), &suppressed));
  EXPECT_EQ(suppressed, 5);
  EXPECT_TRUE(limiter.AllowAt(now + absl::Seconds(1), &suppressed));
  EXPECT_EQ(suppressed, 0);
}

}  // namespace
}  // namespace longdoc::service
