#include "service/status.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {

std::vector<std::string> MetadataValues(const grpc::CallbackServerContext& context,
                                        const char* key) {
  std::vector<std::string> values;
  const auto [begin, end] = context.client_metadata().equal_range(key);
  for (auto it = begin; it != end; ++it) values.emplace_back(it->second.data(), it->second.size());
  return values;
}

}  // namespace

std::string TruncateUtf8(std::string text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  // Continuation bytes are 10xxxxxx: step back to the first byte of the cut character.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  return text;
}

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context) {
  if (status.ok()) return grpc::Status::OK;
  const std::string reason = ReasonOf(status);
  if (!reason.empty()) context.AddTrailingMetadata(kReasonKey, reason);
  const double delay = RetryDelaySecondsOf(status);
  if (absl::IsResourceExhausted(status) && delay < 0) {
    context.AddTrailingMetadata(kRetryPushbackKey, "-1");
  }
  if (delay >= 0 && std::isfinite(delay)) {
    context.AddTrailingMetadata(kRetryDelayKey, absl::StrCat(delay));
    context.AddTrailingMetadata(kRetryPushbackKey,
                                absl::StrCat(static_cast<int64_t>(std::ceil(delay * 1000))));
  }
  // The codes of Abseil and gRPC are the same numbers.
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      TruncateUtf8(std::string(status.message()), kMaxStatusMessageBytes));
}

std::string MetadataValue(const grpc::CallbackServerContext& context, const char* key) {
  auto it = context.client_metadata().find(key);
  if (it == context.client_metadata().end()) return "";
  return std::string(it->second.data(), it->second.size());
}

CallIdentity Identify(const grpc::CallbackServerContext& context) {
  return {AdoptRequestId(MetadataValues(context, kRequestIdKey)),
          JoinTrace(MetadataValues(context, kTraceParentKey)), context.peer()};
}

void CallReply::BeforeMessage() {
  if (identity_sent_) return;
  identity_sent_ = true;
  call_.AddInitialMetadata(kRequestIdKey, identity_.request_id);
  call_.AddInitialMetadata(kTraceParentKey, identity_.trace.ToTraceParent());
}

grpc::Status CallReply::Finish(const absl::Status& status) {
  if (status.ok()) {
    BeforeMessage();
  } else if (!identity_sent_) {
    call_.AddTrailingMetadata(kRequestIdKey, identity_.request_id);
    call_.AddTrailingMetadata(kTraceParentKey, identity_.trace.ToTraceParent());
  }
  return ToGrpcStatus(status, call_);
}

std::chrono::steady_clock::time_point SteadyDeadline(const grpc::CallbackServerContext& context) {
  using std::chrono::steady_clock;
  using std::chrono::system_clock;
  const system_clock::time_point deadline = context.deadline();
  const system_clock::time_point now = system_clock::now();
  constexpr auto kFar = std::chrono::hours(24 * 365);
  // Compared before subtracting: "no deadline" is the largest time there is.
  if (deadline > now + kFar) return steady_clock::time_point::max();
  return steady_clock::now() +
         std::chrono::duration_cast<steady_clock::duration>(std::max(deadline, now - kFar) - now);
}

}  // namespace longdoc::service
