#include "service/item_status.h"

#include <string>
#include <utility>

#include "engine/base/error_reason.h"

namespace longdoc::service {

bool IsLoad(const absl::Status& status) {
  return absl::IsUnavailable(status) ||
         (absl::IsResourceExhausted(status) && RetryDelaySecondsOf(status) >= 0);
}

bool EndsCall(const absl::Status& status) {
  return absl::IsCancelled(status) || absl::IsDeadlineExceeded(status) || IsLoad(status);
}

absl::Status WithDefaultReason(absl::Status status) {
  if (!ReasonOf(status).empty()) return status;
  if (absl::IsCancelled(status)) return WithReason(std::move(status), "CANCELLED");
  if (absl::IsDeadlineExceeded(status)) return WithReason(std::move(status), "DEADLINE_EXCEEDED");
  return status;
}

void FillItemStatus(const absl::Status& status, v1::ItemStatus* out) {
  constexpr size_t kMaxMessageBytes = 160;
  out->set_code(static_cast<int>(status.code()));
  out->set_reason(ReasonOf(status));
  // Our messages are ASCII: cutting them anywhere keeps them valid.
  out->set_message(std::string(status.message()).substr(0, kMaxMessageBytes));
}

}  // namespace longdoc::service
