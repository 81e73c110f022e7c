// One of the streams that may be open at once on this server (limits.max_streams).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "service/context.h"

namespace longdoc::service {

// Not thread-safe. `context` outlives it.
class StreamSlot {
 public:
  explicit StreamSlot(ServiceContext& context) : context_(context) {}
  StreamSlot(const StreamSlot&) = delete;
  StreamSlot& operator=(const StreamSlot&) = delete;
  ~StreamSlot() { Release(); }

  // Once. RESOURCE_EXHAUSTED (TOO_MANY_STREAMS) when there is none left; its message calls the
  // streams `what`.
  absl::Status Take(const char* what) {
    constexpr double kRetrySeconds = 1;
    const int64_t open = context_.open_streams.fetch_add(1) + 1;
    if (open > context_.limits.max_streams) {
      context_.open_streams.fetch_sub(1);
      return WithRetryDelay(WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                                           "%d %s are open on this server, the limit is %d",
                                           open - 1, what, context_.limits.max_streams)),
                                       "TOO_MANY_STREAMS"),
                            kRetrySeconds);
    }
    held_ = true;
    context_.metrics.StreamsOpen(1);
    return absl::OkStatus();
  }
  // Does nothing when it is not held.
  void Release() {
    if (!held_) return;
    held_ = false;
    context_.open_streams.fetch_sub(1);
    context_.metrics.StreamsOpen(-1);
  }
  bool held() const { return held_; }

 private:
  ServiceContext& context_;
  bool held_ = false;
};

}  // namespace longdoc::service
