#include "service/trace_context.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "engine/base/check.h"

namespace longdoc::service {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr size_t kTraceIdDigits = 32;
constexpr size_t kSpanIdDigits = 16;
// version "-" trace-id "-" parent-id "-" trace-flags
constexpr size_t kTraceIdAt = 3;
constexpr size_t kSpanIdAt = kTraceIdAt + kTraceIdDigits + 1;
constexpr size_t kFlagsAt = kSpanIdAt + kSpanIdDigits + 1;
constexpr size_t kTraceParentSize = kFlagsAt + 2;
constexpr char kHexDigits[] = "0123456789abcdef";

bool IsHex(std::string_view text) {
  return text.find_first_not_of(kHexDigits) == std::string_view::npos;
}

// An identifier: hexadecimal, and not only zeros.
bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

// From the kernel: ids must not repeat between threads, processes or machines, whenever they were
// started.
std::string RandomId(size_t digits) {
  std::string id;
  do {
    std::array<unsigned char, kTraceIdDigits / 2> bytes;
    LD_CHECK(getentropy(bytes.data(), digits / 2) == 0);
    id.clear();
    for (size_t i = 0; i < digits / 2; ++i) {
      id.push_back(kHexDigits[bytes[i] >> 4]);
      id.push_back(kHexDigits[bytes[i] & 15]);
    }
  } while (!IsId(id));
  return id;
}

// The caller's place in the trace, its span still in span_id.
std::optional<TraceContext> Parse(std::string_view value) {
  if (value.size() < kTraceParentSize) return std::nullopt;
  const std::string_view version = value.substr(0, 2);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  // Later versions may append fields, version 00 has no more.
  if (value.size() > kTraceParentSize && (version == "00" || value[kTraceParentSize] != '-')) {
    return std::nullopt;
  }
  for (size_t dash : {kTraceIdAt - 1, kSpanIdAt - 1, kFlagsAt - 1}) {
    if (value[dash] != '-') return std::nullopt;
  }
  TraceContext trace;
  trace.trace_id = value.substr(kTraceIdAt, kTraceIdDigits);
  trace.span_id = value.substr(kSpanIdAt, kSpanIdDigits);
  const std::string_view flags = value.substr(kFlagsAt, 2);
  if (!IsId(trace.trace_id) || !IsId(trace.span_id) || !IsHex(flags)) return std::nullopt;
  // The lowest bit; the others are reserved.
  trace.sampled = std::string_view(kHexDigits).find(flags[1]) % 2 == 1;
  return trace;
}

}  // namespace

std::string TraceContext::ToTraceParent() const {
  return "00-" + trace_id + "-" + span_id + (sampled ? "-01" : "-00");
}

TraceContext JoinTrace(const std::vector<std::string>& traceparents) {
  std::optional<TraceContext> caller;
  if (traceparents.size() == 1) caller = Parse(traceparents.front());
  TraceContext trace;
  trace.span_id = RandomId(kSpanIdDigits);
  if (!caller) {
    trace.trace_id = RandomId(kTraceIdDigits);
    return trace;
  }
  trace.trace_id = std::move(caller->trace_id);
  trace.parent_span_id = std::move(caller->span_id);
  trace.sampled = caller->sampled;
  return trace;
}

std::string AdoptRequestId(const std::vector<std::string>& given) {
  if (given.size() == 1) {
    const std::string& id = given.front();
    const bool printable =
        std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
    if (printable && !id.empty() && id.size() <= kMaxRequestIdBytes) return id;
  }
  return RandomId(kTraceIdDigits);
}

}  // namespace longdoc::service
