// Stable machine-readable reasons of errors (docs/api.md lists them). They travel as an
// absl::Status payload, so that every layer can add or read them; the service puts them into
// trailing metadata.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace longdoc {

// `reason` is UPPER_SNAKE_CASE, e.g. "TOO_MANY_TOKENS". Does nothing to an OK status.
absl::Status WithReason(absl::Status status, std::string_view reason);
// The reason, or "" when none was attached.
std::string ReasonOf(const absl::Status& status);

// A hint after how long a refused request may be tried again; rides beside the reason.
absl::Status WithRetryDelay(absl::Status status, double seconds);
double RetryDelaySecondsOf(const absl::Status& status);  // < 0: none

}  // namespace longdoc
