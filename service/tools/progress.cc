#include "service/tools/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longdoc::tools {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kPlainLine = std::chrono::seconds(5);
constexpr int kBarWidth = 30;

std::string Facts(const EmbedProgress& p) {
  std::string out;
  if (p.fraction >= 0) absl::StrAppendFormat(&out, " %3.0f%%", 100 * std::min(p.fraction, 1.0));
  if (p.tokens > 0) absl::StrAppend(&out, ", ", p.tokens, " tokens");
  if (p.seconds_left > 0.05) absl::StrAppendFormat(&out, ", %.1f s left", p.seconds_left);
  return out;
}

}  // namespace

ProgressPrinter::ProgressPrinter(bool quiet)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressPrinter::~ProgressPrinter() { Clear(); }

void ProgressPrinter::Clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (drawn_) std::fputs("\r\033[K", stderr);
  drawn_ = false;
}

std::string ProgressPrinter::Bar(const std::string& document, const EmbedProgress& p) const {
  std::string bar;
  if (p.fraction >= 0) {
    const int full = static_cast<int>(kBarWidth * std::min(p.fraction, 1.0));
    bar = absl::StrCat("[", std::string(full, '#'), std::string(kBarWidth - full, ' '), "] ");
  }
  return absl::StrCat("\r", bar, document, ": ", p.stage, Facts(p), "\033[K");
}

void ProgressPrinter::Update(const std::string& document, const EmbedProgress& progress) {
  if (quiet_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const Clock::time_point now = Clock::now();
  const std::string stage = absl::StrCat(document, "\n", progress.stage);
  const bool new_stage = stage != last_stage_;
  if (!new_stage && now - last_ < (terminal_ ? Clock::duration(kRedraw) : kPlainLine)) return;
  last_stage_ = stage;
  last_ = now;
  if (terminal_) {
    std::fputs(Bar(document, progress).c_str(), stderr);
    drawn_ = true;
  } else {
    absl::FPrintF(stderr, "%s: %s%s\n", document, progress.stage, Facts(progress));
  }
}

}  // namespace longdoc::tools
