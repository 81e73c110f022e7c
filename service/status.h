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
// Taken from the call's metadata or made (trace_context.h); sent back (CallReply), the second with
// our span; in the access log.
inline constexpr char kRequestIdKey[] = "x-request-id";
inline constexpr char kTraceParentKey[] = "traceparent";

// The longest prefix of at most `max_bytes` that does not end inside a UTF-8 character.
std::string TruncateUtf8(std::string text, size_t max_bytes);

// Code and message; adds reason and retry delay to the context's trailing metadata, and to a
// refusal that waiting does not help that gRPC's own retries are to stop. Once per call.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext& context);

// Whose call it is.
CallIdentity Identify(const grpc::CallbackServerContext& context);

// What goes back beside the messages of one call: whose it was, and how it ended. Request id and
// traceparent are initial metadata, but trailing metadata of a call that fails before its first
// message: gRPC retries by policy only what sent nothing but its end. Not thread-safe.
class CallReply {
 public:
  // Both outlive it.
  CallReply(grpc::CallbackServerContext& call, const CallIdentity& identity)
      : call_(call), identity_(identity) {}

  void BeforeMessage();                             // before every message of a stream
  grpc::Status Finish(const absl::Status& status);  // the status to finish the call with; once

 private:
  grpc::CallbackServerContext& call_;
  const CallIdentity& identity_;
  bool identity_sent_ = false;
};

// Value of a metadata key, or "".
std::string MetadataValue(const grpc::CallbackServerContext& context, const char* key);

// The call's deadline on the steady clock; max() when it has none.
std::chrono::steady_clock::time_point SteadyDeadline(const grpc::CallbackServerContext& context);

}  // namespace longdoc::service
