// The refusal of a request, or of a part of one, for what the client sent.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/base/error_reason.h"

namespace longdoc::service {

// INVALID_ARGUMENT; `reason` is one of those that docs/api.md lists.
inline absl::Status Invalid(const std::string& message, std::string_view reason) {
  return WithReason(absl::InvalidArgumentError(message), reason);
}

}  // namespace longdoc::service
