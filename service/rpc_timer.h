// Accounts for one RPC: metrics, the count of running RPCs, and its one line in the access log.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "service/context.h"
#include "service/trace_context.h"

namespace longdoc::service {

// Whose call it is, from its metadata and its connection.
struct CallIdentity {
  std::string request_id;
  TraceContext trace;
  std::string peer;  // as gRPC writes addresses: "ipv4:10.0.0.7:41200"
};

// What the access log says of the request besides its outcome. Never text.
struct RpcDetails {
  std::string model;
  std::string document_id;
  int64_t bytes = 0;             // of content that a stream received
  int64_t tokens = 0;            // encoded or returned
  int64_t passages = 0;          // of the document
  int64_t items = 0;             // texts, candidates or documents
  std::optional<Stage> reached;  // for cancelled_total
  std::array<double, kNumStages> stage_seconds = {};
  double score_seconds = 0;  // of scoring or generating
};

// A stage of the request is over: for the metrics, and for the access line. Of several texts that
// pass a stage side by side the line gets the longest time.
void RecordStage(ServiceContext& context, Stage stage, double seconds, RpcDetails* details);
// So is an encode: kQueue, kEncode, and what the encode tells of attention and memory. Nothing for
// one that was not needed.
void RecordEncode(ServiceContext& context, const EncodeStats& stats, RpcDetails* details);

// Owned by the reactor and destroyed with it (OnDone), on whatever thread. An RPC whose status was
// never set counts as CANCELLED.
class RpcTimer {
 public:
  RpcTimer(ServiceContext& context, Rpc rpc, CallIdentity identity);
  ~RpcTimer();
  RpcTimer(const RpcTimer&) = delete;
  RpcTimer& operator=(const RpcTimer&) = delete;

  void SetStatus(absl::Status status);
  // Of whole messages; from one thread at a time. What a stream receives is counted by its session.
  void CountReceived(int64_t bytes);
  void CountSent(int64_t bytes) { bytes_sent_ += bytes; }
  RpcDetails& details() { return details_; }
  const CallIdentity& identity() const { return identity_; }

 private:
  using Clock = std::chrono::steady_clock;
  void WriteAccessLine(double seconds, double respond_seconds) const;

  ServiceContext& context_;
  const Rpc rpc_;
  const CallIdentity identity_;
  const Clock::time_point start_ = Clock::now();
  std::optional<Clock::time_point> status_at_;
  absl::Status status_;
  int64_t bytes_received_ = 0;
  int64_t bytes_sent_ = 0;
  RpcDetails details_;
};

}  // namespace longdoc::service
