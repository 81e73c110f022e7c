// One GenerateText call: a kept document, a prompt, tokens as the decoder writes them. Knows
// nothing of gRPC.
//
// Threads: every entry point may be called from any thread. One mutex; the transport is called
// under it, and forgotten at Finish. Tokens that the client has not read yet wait here,
// max_new_tokens of them at most; a client that reads nothing for the idle timeout is dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/cancellation.h"
#include "engine/decode_task.h"
#include "engine/text/detokenizer.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/context.h"
#include "service/rpc_timer.h"
#include "service/scoring.h"
#include "service/timer_queue.h"

namespace longdoc::service {

// Called under the job's mutex; must not call back before returning.
class GenerateTransport {
 public:
  virtual ~GenerateTransport() = default;
  // `response` stays untouched until GenerateJob::OnWriteDone.
  virtual void StartWrite(const v1::GenerateTextResponse& response) = 0;
  // The last call, exactly once, without a write outstanding.
  virtual void Finish(const absl::Status& status) = 0;
  // Makes the outstanding write fail soon.
  virtual void Abort() = 0;
};

class GenerateJob : public std::enable_shared_from_this<GenerateJob> {
 public:
  using TimePoint = Timers::TimePoint;

  static std::shared_ptr<GenerateJob> Create(ServiceContext& context, Executor executor,
                                             TimePoint deadline,
                                             const v1::GenerateTextRequest& request);
  // Begins, or finishes at once with `admission`. `transport` must stay valid until its Finish.
  void Start(GenerateTransport* transport, const absl::Status& admission);
  void OnWriteDone(bool ok);
  void OnCancel();

  RpcDetails details() const;

 private:
  GenerateJob(ServiceContext& context, Executor executor, TimePoint deadline,
              const v1::GenerateTextRequest& request);

  absl::Status Open();
  absl::Status Submit();  // on the executor
  void OnToken(int32_t id, float log_prob);
  void OnDone(absl::StatusOr<GenerateResult> result);
  void Fail(absl::Status status);
  // These need mutex_.
  void FailLocked(absl::Status status);
  void PumpLocked();
  void ArmTimerLocked();
  void OnTimer();

  ServiceContext& context_;
  const Executor executor_;
  const TimePoint deadline_;
  const std::shared_ptr<CancellationToken> token_;
  const v1::GenerateTextRequest request_;
  // Fixed by Open, then Submit.
  SamplingOptions sampling_;
  int64_t prompt_tokens_ = 0;
  std::unique_ptr<Detokenizer> detokenizer_;  // one worker at a time

  mutable std::mutex mutex_;
  GenerateTransport* transport_ = nullptr;
  std::shared_ptr<const KeptDocument> document_;  // holds the pin
  std::deque<v1::GenerateTextResponse> waiting_;
  v1::GenerateTextResponse writing_;
  bool write_outstanding_ = false;
  bool aborted_ = false;
  TimePoint write_since_{}, started_at_{}, first_token_at_{}, last_token_at_{};
  // OK: finish when all was written; else as soon as no write is outstanding.
  std::optional<absl::Status> final_;
  RpcDetails details_;
  Timers::Id timer_{};
};

}  // namespace longdoc::service
