// One ScoreCandidates call: the protocol (ScoreMachine) joined to the document, kept or inline, the
// engine, the clock and a transport. Knows nothing of gRPC.
//
// Threads: every entry point may be called from any thread at any time. One mutex guards the
// machine; the transport is called under it, and forgotten at finish. Tokenization and submission
// run as a strand (one job at a time, in order) on the executor. A kept document is pinned from the
// header to the end of the last work on it; up to kMaxInFlight candidates are with the engine,
// which batches them with those of other streams.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/cancellation.h"
#include "engine/kept_document.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/context.h"
#include "service/document_intake.h"
#include "service/inline_document.h"
#include "service/request_options.h"
#include "service/rpc_timer.h"
#include "service/score_machine.h"
#include "service/scoring.h"
#include "service/stream_session.h"
#include "service/timer_queue.h"

namespace longdoc::service {

class ScoreSession : public std::enable_shared_from_this<ScoreSession> {
 public:
  using TimePoint = Timers::TimePoint;
  static constexpr int kMaxInFlight = 128;

  // As StreamSession has them.
  static std::shared_ptr<ScoreSession> Create(ServiceContext& context, Executor executor,
                                              TimePoint deadline);
  ~ScoreSession();
  void Start(StreamTransport* transport, const absl::Status& admission);
  void OnMessage(v1::ScoreCandidatesRequest&& message);
  void OnMalformedMessage(const std::string& expected);
  void OnReadsEnded();
  void OnWriteDone(bool ok);
  void OnCancel();

  RpcDetails details() const;

 private:
  // A candidate from its arrival to its score.
  struct Candidate {
    int64_t index = 0;
    std::string id;
    int64_t size = 0;  // as the machine counts it
    std::vector<int32_t> ids;
  };
  using CandidatePtr = std::shared_ptr<const Candidate>;
  // Work of the strand, in order.
  struct Job {
    enum class Kind { kContent, kSeal, kCandidate, kDispatch };
    Kind kind = Kind::kDispatch;
    ContentPiece content{};
    int64_t index = 0;
    v1::Candidate candidate{};
  };

  ScoreSession(ServiceContext& context, Executor executor, TimePoint deadline);

  // Holds mutex_, and afterwards destroys what was dropped under it.
  class Guard;
  // Everything below with "Locked" needs mutex_.
  absl::Status OpenLocked();
  absl::Status AcceptHeaderLocked(v1::ScoreHeader&& header);
  absl::Status AcceptKeptLocked(const v1::ScoreHeader& header);
  absl::Status AcceptInlineLocked(const v1::ScoreHeader& header);
  void StepLocked(SessionEvent event, Job* job = nullptr);
  void ReleaseLocked();
  void WriteLocked(ScoreActions::Write write);
  void FillProgressLocked(v1::Progress* progress) const;
  void FillSummaryLocked(v1::ScoreSummary* summary) const;
  void FinishLocked(const absl::Status& status);
  void EnqueueLocked(Job job);
  void DispatchLocked();
  void DeliverLocked(const Candidate& candidate, const absl::Status& status,
                     std::vector<v1::Score> scores);
  void ArmTimerLocked();
  TimePoint NextTimerLocked(TimePoint now) const;
  bool AwaitsClientLocked() const;
  void OnTimer();
  void PostEvent(SessionEvent event);

  // The strand; see score_strand.cc.
  void RunStrand();
  int64_t RunJob(Job& job);
  absl::Status Consume(ContentPiece& content, int64_t* bytes);
  absl::Status Seal();
  void Prepare(Job& job);
  absl::StatusOr<std::vector<int32_t>> Tokenize(const v1::Candidate& candidate) const;
  void Dispatch();
  void Score(CandidatePtr candidate, std::shared_ptr<const KeptDocument> document);
  void OnProgress(double fraction);
  void OnDocument(absl::StatusOr<InlineDocument> document);
  void OnScored(const CandidatePtr& candidate, absl::StatusOr<std::vector<v1::Score>> scores);

  ServiceContext& context_;
  Timers& timers_;
  const Executor executor_;
  const TimePoint deadline_;
  const std::shared_ptr<CancellationToken> token_;

  // Fixed by the header, before the strand first runs.
  std::shared_ptr<const Model> model_;
  ScoringOptions scoring_;
  DocumentOptions options_;    // of an inline document
  std::string document_name_;  // of a kept one

  std::unique_ptr<DocumentIntake> intake_;  // the strand's, after the header
  TokenizedDocument tokenized_;             // the strand's; without what the engine took

  mutable std::mutex mutex_;
  ScoreMachine machine_;
  StreamTransport* transport_ = nullptr;
  bool slot_held_ = false;  // one of limits.max_streams
  bool released_ = false;
  bool strand_active_ = false;
  std::deque<Job> jobs_;
  std::shared_ptr<const KeptDocument> document_;  // once it is there; holds its pin
  std::shared_ptr<const KeptDocument> garbage_;   // dropped, to be destroyed without the mutex
  std::deque<CandidatePtr> prepared_;             // to be handed to the engine
  bool dispatch_queued_ = false;
  int in_flight_ = 0;
  TimePoint retry_at_{};                   // the engine's queue was full
  std::deque<v1::CandidateScore> scores_;  // ready to be written
  v1::ScoreCandidatesResponse writing_;    // handed to the transport
  RpcDetails details_;
  int64_t failed_candidates_ = 0;

  // For progress and statistics.
  TimePoint header_at_{}, sealed_at_{}, progress_at_{};
  TimePoint read_since_{}, write_since_{}, first_candidate_at_{}, last_score_at_{};
  double tokenize_seconds_ = 0;  // of the inline document
  double fraction_ = 0;
  int64_t tokens_received_ = 0;
  v1::EncodeStats stats_;
  bool first_score_sent_ = false;
  int64_t buffered_reported_ = 0;
  Timers::Id timer_{};
};

}  // namespace longdoc::service
