// Statuses of the items of a call, and how they differ from that of the call. No gRPC.
#pragma once

#include "absl/status/status.h"
#include "longdoc/v1/common.pb.h"

namespace longdoc::service {

// The server is busy: the same may work later. Neither the request's nor an item's fault.
bool IsLoad(const absl::Status& status);
// Ends a call as a whole, whatever item met it: load, cancellation, a deadline.
bool EndsCall(const absl::Status& status);

// CANCELLED and DEADLINE_EXCEEDED without a reason get the usual one.
absl::Status WithDefaultReason(absl::Status status);

void FillItemStatus(const absl::Status& status, v1::ItemStatus* out);

}  // namespace longdoc::service
