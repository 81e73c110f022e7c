#include "service/rpc_timer.h"

#include <algorithm>
#include <utility>

#include "engine/base/error_reason.h"
#include "service/deadlines.h"
#include "service/log.h"

namespace longdoc::service {
namespace {

bool IsOurFault(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInternal ||
         status.code() == absl::StatusCode::kUnknown ||
         status.code() == absl::StatusCode::kDataLoss;
}

// Of what is wrong with a request the message may quote what the client sent, and that may be text
// in the wrong field. The client has the message; the log has the reason.
std::string LoggedMessage(const absl::Status& status) {
  const bool may_quote = absl::IsInvalidArgument(status) || absl::IsNotFound(status);
  return may_quote ? "" : std::string(status.message());
}

}  // namespace

void RecordStage(ServiceContext& context, Stage stage, double seconds, RpcDetails* details) {
  context.metrics.StageSeconds(stage, seconds);
  double& longest = details->stage_seconds[static_cast<size_t>(stage)];
  longest = std::max(longest, seconds);
}

void RecordEncode(ServiceContext& context, const EncodeStats& stats, RpcDetails* details) {
  if (stats.compute_seconds == 0) return;
  RecordStage(context, Stage::kQueue, stats.queue_seconds, details);
  RecordStage(context, Stage::kEncode, stats.compute_seconds, details);
  context.metrics.Encoded(stats);
}

RpcTimer::RpcTimer(ServiceContext& context, Rpc rpc, CallIdentity identity)
    : context_(context),
      rpc_(rpc),
      identity_(std::move(identity)),
      status_(WithReason(absl::CancelledError("call was cancelled"), "CANCELLED")) {
  context_.inflight_rpcs.fetch_add(1, std::memory_order_relaxed);
  context_.metrics.RpcStarted(rpc_);
}

RpcTimer::~RpcTimer() {
  const Clock::time_point now = Clock::now();
  const double seconds = Seconds(now - start_);
  context_.metrics.RpcFinished(rpc_, status_, seconds, details_.reached);
  WriteAccessLine(seconds, Seconds(now - status_at_.value_or(now)));
  context_.inflight_rpcs.fetch_sub(1, std::memory_order_relaxed);
}

void RpcTimer::CountReceived(int64_t bytes) {
  bytes_received_ += bytes;
  context_.metrics.BytesReceived(bytes);
}

void RpcTimer::SetStatus(absl::Status status) {
  status_ = std::move(status);
  status_at_ = Clock::now();
}

// docs/operations.md describes the fields.
void RpcTimer::WriteAccessLine(double seconds, double respond_seconds) const {
  const LogLevel level = IsOurFault(status_)                                 ? LogLevel::kError
                         : absl::Seconds(seconds) > context_.access_log.slow ? LogLevel::kWarning
                                                                             : LogLevel::kInfo;
  if (level == LogLevel::kInfo && !context_.access_log.enabled) return;
  const auto stage = [this](Stage s) { return details_.stage_seconds[static_cast<size_t>(s)]; };
  Log(level, "rpc",
      {{"method", RpcName(rpc_)},
       {"request_id", identity_.request_id},
       {"trace_id", identity_.trace.trace_id},
       {"span_id", identity_.trace.span_id},
       {"parent_span_id", identity_.trace.parent_span_id},
       {"peer", identity_.peer},
       {"code", absl::StatusCodeToString(status_.code())},
       {"reason", ReasonOf(status_)},
       {"message", LoggedMessage(status_)},
       {"model", details_.model},
       {"document_id", details_.document_id},
       {"tokens", details_.tokens},
       {"passages", details_.passages},
       {"items", details_.items},
       {"bytes_received", bytes_received_ + details_.bytes},
       {"bytes_sent", bytes_sent_},
       {"stage", details_.reached ? StageName(*details_.reached) : ""},
       {"receive_seconds", stage(Stage::kReceive)},
       {"tokenize_seconds", stage(Stage::kTokenize)},
       {"queue_seconds", stage(Stage::kQueue)},
       {"encode_seconds", stage(Stage::kEncode)},
       {"score_seconds", details_.score_seconds},
       {"respond_seconds", stage(Stage::kSend) + respond_seconds},
       {"total_seconds", seconds}});
}

}  // namespace longdoc::service
