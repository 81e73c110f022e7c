// One ScoreCandidates call: the protocol (ScoreMachine) joined to the document, kept or inline, the
// engine, the clock and a transport. Knows nothing of gRPC.
//
// Threads: see SessionBase. Tokenization and submission run on its strand. A kept document is
// pinned from the header to the end of the last work on it; up to kMaxInFlight candidates are with
// the engine, which batches them with those of other streams.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/kept_document.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/context.h"
#include "service/document_intake.h"
#include "service/inline_document.h"
#include "service/request_options.h"
#include "service/score_machine.h"
#include "service/scoring.h"
#include "service/session_base.h"

namespace longdoc::service {

// Work of the strand, in order.
struct ScoreJob {
  enum class Kind { kContent, kSeal, kCandidate, kDispatch };
  Kind kind = Kind::kDispatch;
  ContentPiece content{};
  int64_t index = 0;
  v1::Candidate candidate{};
};

class ScoreSession final : public SessionBase<ScoreSession, ScoreMachine, ScoreJob> {
 public:
  static constexpr int kMaxInFlight = 128;

  // As StreamSession has them.
  static std::shared_ptr<ScoreSession> Create(ServiceContext& context, Executor executor,
                                              TimePoint deadline);
  ~ScoreSession();
  void OnMessage(v1::ScoreCandidatesRequest&& message);
  // As SessionBase does; and the time that a client has begins again.
  void OnWriteDone(bool ok);

 private:
  friend SessionBase;

  using Job = ScoreJob;
  // A candidate from its arrival to its score.
  struct Candidate {
    int64_t index = 0;
    std::string id;
    int64_t size = 0;  // as the machine counts it
    std::vector<int32_t> ids;
  };
  using CandidatePtr = std::shared_ptr<const Candidate>;
  ScoreSession(ServiceContext& context, Executor executor, TimePoint deadline);

  // What SessionBase asks for.
  static constexpr char kStreams[] = "streams";
  static constexpr char kDoing[] = "scoring";
  struct Garbage {
    std::shared_ptr<const KeptDocument> document;
    std::unique_ptr<DocumentIntake> intake;
  };
  Stage StageLocked() const;
  void ReleaseLocked();
  void DropStrandLocked() { garbage_.intake = std::move(intake_); }
  void RespondLocked(const ScoreActions& actions);
  bool AwaitsClientLocked() const;
  TimePoint NextTickLocked() const;
  void TickLocked(TimePoint now);
  absl::Status Process(Job& job, int64_t* cost, int64_t* bytes);

  absl::Status AcceptHeaderLocked(v1::ScoreHeader&& header);
  absl::Status AcceptKeptLocked(const v1::ScoreHeader& header);
  absl::Status AcceptInlineLocked(const v1::ScoreHeader& header);
  void WriteLocked(ScoreActions::Write write);
  void FillProgressLocked(v1::Progress* progress) const;
  void FillSummaryLocked(v1::ScoreSummary* summary) const;
  void DispatchLocked();
  void DeliverLocked(const Candidate& candidate, const absl::Status& status,
                     std::vector<v1::Score> scores);

  // The strand; see score_strand.cc.
  absl::Status Seal();
  void Prepare(Job& job);
  absl::StatusOr<std::vector<int32_t>> Tokenize(const v1::Candidate& candidate) const;
  void Dispatch();
  void Score(CandidatePtr candidate, std::shared_ptr<const KeptDocument> document);
  void OnProgress(double fraction);
  void OnDocument(absl::StatusOr<InlineDocument> document);
  void OnScored(const CandidatePtr& candidate, absl::StatusOr<std::vector<v1::Score>> scores);

  // Fixed by the header, before the strand first runs.
  std::shared_ptr<const Model> model_;
  ScoringOptions scoring_;
  DocumentOptions options_;    // of an inline document
  std::string document_name_;  // of a kept one

  std::unique_ptr<DocumentIntake> intake_;  // the strand's, after the header

  // These need mutex_.
  std::shared_ptr<const KeptDocument> document_;  // once it is there; holds its pin
  Garbage garbage_;
  std::deque<CandidatePtr> prepared_;  // to be handed to the engine
  bool dispatch_queued_ = false;
  int in_flight_ = 0;
  TimePoint retry_at_{};                   // the engine's queue was full
  std::deque<v1::CandidateScore> scores_;  // ready to be written
  v1::ScoreCandidatesResponse writing_;    // handed to the transport
  int64_t failed_candidates_ = 0;

  // For statistics.
  TimePoint first_candidate_at_{}, last_score_at_{};
  v1::EncodeStats stats_;
  bool first_score_sent_ = false;
};

}  // namespace longdoc::service
