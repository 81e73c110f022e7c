// Accounts for one RPC: metrics, the count of running RPCs and one access-log line.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/error_reason.h"
#include "service/context.h"
#include "service/log.h"

namespace longdoc::service {

// What the access log says of the request besides its outcome. Never text.
struct RpcDetails {
  std::string model;
  std::string document_id;
  int64_t bytes = 0;   // of content received
  int64_t tokens = 0;  // encoded or returned
  int64_t texts = 0;
  std::optional<Stage> reached;  // for cancelled_total
};

// Owned by the reactor and destroyed with it (OnDone), on whatever thread. An RPC whose status was
// never set counts as CANCELLED.
class RpcTimer {
 public:
  RpcTimer(ServiceContext& context, Rpc rpc, std::string_view name, std::string request_id)
      : context_(context),
        rpc_(rpc),
        name_(name),
        request_id_(std::move(request_id)),
        start_(std::chrono::steady_clock::now()) {
    context_.inflight_rpcs.fetch_add(1, std::memory_order_relaxed);
    context_.metrics.RpcStarted(rpc_);
  }
  RpcTimer(const RpcTimer&) = delete;
  RpcTimer& operator=(const RpcTimer&) = delete;

  ~RpcTimer() {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    context_.metrics.RpcFinished(rpc_, status_, seconds, details_.reached);
    const bool ours = status_.code() == absl::StatusCode::kInternal ||
                      status_.code() == absl::StatusCode::kUnknown ||
                      status_.code() == absl::StatusCode::kDataLoss;
    Log(ours ? LogLevel::kError : LogLevel::kInfo, "rpc",
        {{"rpc", name_},
         {"request_id", request_id_},
         {"code", absl::StatusCodeToString(status_.code())},
         {"reason", ReasonOf(status_)},
         {"message", std::string(status_.message())},
         {"seconds", seconds},
         {"model", details_.model},
         {"document_id", details_.document_id},
         {"bytes", details_.bytes},
         {"tokens", details_.tokens},
         {"texts", details_.texts}});
    context_.inflight_rpcs.fetch_sub(1, std::memory_order_relaxed);
  }

  void SetStatus(absl::Status status) { status_ = std::move(status); }
  RpcDetails& details() { return details_; }
  const std::string& request_id() const { return request_id_; }

 private:
  ServiceContext& context_;
  const Rpc rpc_;
  const std::string_view name_;  // a literal
  const std::string request_id_;
  const std::chrono::steady_clock::time_point start_;
  absl::Status status_ = WithReason(absl::CancelledError("call was cancelled"), "CANCELLED");
  RpcDetails details_;
};

}  // namespace longdoc::service
