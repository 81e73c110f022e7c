// How a request is known across services: its request id, and its place in a trace (W3C Trace
// Context, level 1: https://www.w3.org/TR/trace-context/). Knows nothing of gRPC.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longdoc::service {

// This server's part (its span) of a trace.
struct TraceContext {
  std::string trace_id;        // 32 lower-case hexadecimal digits, not all zero
  std::string span_id;         // 16 of them: ours
  std::string parent_span_id;  // 16: the caller's; empty if the trace begins here
  bool sampled = false;        // the caller records the trace

  // As a `traceparent` of version 00, with our span in the place of the parent.
  std::string ToTraceParent() const;
};

// A new span in the trace that the caller's `traceparent` names, or in a trace of its own if there
// is none, if it is malformed or if there are several: the specification wants such a one ignored,
// never refused. Of a version above 00 only the fields that this one has are looked at.
TraceContext JoinTrace(const std::vector<std::string>& traceparents);

// The caller's request id if there is one and it is 1 to 128 printable ASCII characters without
// spaces; else 32 random hexadecimal digits.
std::string AdoptRequestId(const std::vector<std::string>& given);

}  // namespace longdoc::service
