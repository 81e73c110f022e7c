#include "engine/base/error_reason.h"

#include <cstdlib>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace longdoc {
namespace {
constexpr char kReasonUrl[] = "longdoc/reason";
constexpr char kRetryUrl[] = "longdoc/retry_delay_seconds";
}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason) {
  if (!status.ok()) status.SetPayload(kReasonUrl, absl::Cord(std::string(reason)));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  auto payload = status.GetPayload(kReasonUrl);
  return payload ? std::string(*payload) : std::string();
}

absl::Status WithRetryDelay(absl::Status status, double seconds) {
  if (!status.ok()) status.SetPayload(kRetryUrl, absl::Cord(absl::StrCat(seconds)));
  return status;
}

double RetryDelaySecondsOf(const absl::Status& status) {
  auto payload = status.GetPayload(kRetryUrl);
  return payload ? std::strtod(std::string(*payload).c_str(), nullptr) : -1;
}

}  // namespace longdoc
