// Statuses and metadata at the border to gRPC.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "service/rpc_timer.h"

namespace grpc {
class CallbackServerContext;
class Status;
}  // namespace grpc

namespace longdoc::service {

// Status messages travel as metadata, whose size is limited: at most this many bytes are sent.
inline constexpr size_t kMaxStatusMessageBytes = 1024;

// Trailing metadata beside the code and the message.
inline constexpr char kReasonKey[] = "longdoc-reason";
inline constexpr char kRetryDelayKey[] = "longdoc-retry-delay-seconds";
// gRPC clients with a retry policy obey this one.
inline constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";
// Taken from the call's metadata or made (trace_context.h); sent back in the initial metadata, the
// second with our span; in the access log.
inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr char kTraceParentKey[] = "traceparent";

// The longest prefix of at most `max_bytes` that does not end inside a UTF-8 character.
std::string TruncateUtf8(std::string text, size_t max_bytes);

// Code and message; adds reason and retry delay to the context's trailing metadata. Once per call.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context);

// Whose call it is. Adds request id and traceparent to the initial metadata. Once per call.
CallIdentity Identify(grpc::CallbackServerContext& context);

// Value of a metadata key, or "".
std::string MetadataValue(const grpc::CallbackServerContext& context, const char* key);

// The call's deadline on the steady clock; max() when it has none.
std::chrono::steady_clock::time_point SteadyDeadline(const grpc::CallbackServerContext& context);

}  // namespace longdoc::service
