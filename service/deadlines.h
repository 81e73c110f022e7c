// Durations of the configuration as those of the clock, and the deadline of a call.
#pragma once

#include <algorithm>
#include <chrono>

#include "absl/time/time.h"
#include "service/config.h"

namespace longdoc::service {

// At most a year, so that adding it to a point in time cannot overflow.
inline std::chrono::nanoseconds ToChrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365)));
}

inline double Seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

// The client's deadline, cut to what the server allows from `now` on.
inline std::chrono::steady_clock::time_point CutDeadline(
    std::chrono::steady_clock::time_point deadline, std::chrono::steady_clock::time_point now,
    const Limits& limits) {
  return std::min(deadline, now + ToChrono(limits.max_deadline));
}

}  // namespace longdoc::service
