// The strand of a ScoreSession: tokenization and submission, and what comes back from the engine.

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/item_status.h"
#include "service/response_frames.h"
#include "service/score_session.h"

namespace longdoc::service {

absl::Status ScoreSession::Process(Job& job, int64_t* cost, int64_t* bytes) {
  *cost = 256;
  switch (job.kind) {
    case Job::Kind::kContent: {
      absl::Status status = Consume(*intake_, job.content, bytes);
      *cost = 1 + *bytes;
      return status;
    }
    case Job::Kind::kSeal:
      return Seal();
    case Job::Kind::kCandidate:
      *cost += static_cast<int64_t>(job.candidate.ByteSizeLong());
      Prepare(job);
      return absl::OkStatus();
    case Job::Kind::kDispatch:
      Dispatch();
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

// The inline document is whole.
absl::Status ScoreSession::Seal() {
  ASSIGN_OR_RETURN(TokenizedDocument document, FinishIntake(*intake_));
  {
    std::lock_guard lock(mutex_);
    FillInputStatsLocked(document, intake_->has_ids(), &stats_);
  }
  intake_.reset();
  EncodeInline(
      context_, executor_, model_, scoring_.methods, options_, std::move(document), token_,
      [self = shared_from_this()](double fraction) { self->OnProgress(fraction); },
      [self = shared_from_this()](absl::StatusOr<InlineDocument> encoded) {
        self->OnDocument(std::move(encoded));
      });
  return absl::OkStatus();
}

void ScoreSession::OnProgress(double fraction) {
  std::lock_guard lock(mutex_);
  fraction_ = std::clamp(fraction, fraction_, 1.0);  // never goes back
}

void ScoreSession::OnDocument(absl::StatusOr<InlineDocument> document) {
  if (!document.ok()) {
    return PostEvent({.kind = Kind::kFault, .status = WithDefaultReason(document.status())});
  }
  v1::EncodeStats encoded;
  FillEncodeStats(document->stats, &encoded);
  std::shared_ptr<const KeptDocument> dropped;  // destroyed without the mutex
  std::lock_guard lock(mutex_);
  RecordEncode(context_, document->stats, &details_);
  if (released_) {
    dropped = std::move(document->document);
    return;
  }
  encoded.MergeFrom(stats_);  // what the engine does not know
  stats_.Swap(&encoded);
  document_ = std::move(document->document);
  StepLocked({.kind = Kind::kEncoded});
  DispatchLocked();
}

// Tokenizes a candidate. What is wrong with it is its own status.
void ScoreSession::Prepare(Job& job) {
  auto candidate = std::make_shared<Candidate>();
  candidate->index = job.index;
  candidate->size = static_cast<int64_t>(job.candidate.ByteSizeLong());
  absl::StatusOr<std::vector<int32_t>> ids = Tokenize(job.candidate);
  candidate->id = std::move(*job.candidate.mutable_id());
  if (candidate->id.size() > static_cast<size_t>(kMaxCandidateIdBytes)) candidate->id.clear();
  if (ids.ok()) candidate->ids = *std::move(ids);
  std::lock_guard lock(mutex_);
  if (released_) return;
  if (!ids.ok()) return DeliverLocked(*candidate, ids.status(), {});
  details_.tokens += static_cast<int64_t>(candidate->ids.size());
  prepared_.push_back(std::move(candidate));
  DispatchLocked();
}

absl::StatusOr<std::vector<int32_t>> ScoreSession::Tokenize(const v1::Candidate& candidate) const {
  const int64_t id_bytes = static_cast<int64_t>(candidate.id().size());
  if (id_bytes > kMaxCandidateIdBytes) {
    return WithReason(absl::InvalidArgumentError(absl::StrFormat("id has %d bytes, the limit is %d",
                                                                 id_bytes, kMaxCandidateIdBytes)),
                      "INVALID_CANDIDATE_ID");
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, TokenizeInput(context_, *model_, candidate));
  RETURN_IF_ERROR(
      CheckCandidateLength(context_, *model_, scoring_.methods, static_cast<int64_t>(ids.size())));
  return ids;
}

void ScoreSession::DispatchLocked() {
  if (dispatch_queued_ || released_ || prepared_.empty() || document_ == nullptr ||
      in_flight_ >= kMaxInFlight || retry_at_ != TimePoint{}) {
    return;
  }
  dispatch_queued_ = true;
  EnqueueLocked({.kind = Job::Kind::kDispatch});
}

// Hands prepared candidates to the engine, as many as it may have of this stream.
void ScoreSession::Dispatch() {
  while (true) {
    CandidatePtr candidate;
    std::shared_ptr<const KeptDocument> document;
    {
      std::lock_guard lock(mutex_);
      dispatch_queued_ = false;
      if (released_ || prepared_.empty() || in_flight_ >= kMaxInFlight ||
          retry_at_ != TimePoint{}) {
        return;
      }
      candidate = std::move(prepared_.front());
      prepared_.pop_front();
      document = document_;
      ++in_flight_;
    }
    Score(std::move(candidate), std::move(document));
  }
}

void ScoreSession::Score(CandidatePtr candidate, std::shared_ptr<const KeptDocument> document) {
  std::vector<int32_t> ids = candidate->ids;
  EncodeCandidate(context_, executor_, model_, std::move(ids), scoring_, token_,
                  [self = shared_from_this(), candidate, document = std::move(document)](
                      absl::StatusOr<std::shared_ptr<const EncodedCandidate>> encoded) {
                    if (!encoded.ok()) return self->OnScored(candidate, encoded.status());
                    ScorePair(self->context_, document, *encoded, self->scoring_, self->token_,
                              [self, candidate](absl::StatusOr<std::vector<v1::Score>> scores) {
                                self->OnScored(candidate, std::move(scores));
                              });
                  });
}

void ScoreSession::OnScored(const CandidatePtr& candidate,
                            absl::StatusOr<std::vector<v1::Score>> scores) {
  constexpr double kLongestRetryDelay = 1;
  const absl::Status& status = scores.status();
  const bool queue_full = IsLoad(status) && !absl::IsUnavailable(status);
  if (EndsCall(status) && !queue_full) {
    return PostEvent({.kind = Kind::kFault, .status = WithDefaultReason(status)});
  }
  std::lock_guard lock(mutex_);
  --in_flight_;
  if (released_) return;
  if (queue_full) {
    // The stream waits instead of failing: it has been admitted.
    prepared_.push_front(candidate);
    const double delay = std::min(RetryDelaySecondsOf(status), kLongestRetryDelay);
    retry_at_ = timers_.Now() + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                    std::chrono::duration<double>(delay));
    return ArmTimerLocked();
  }
  DeliverLocked(*candidate, status, scores.ok() ? *std::move(scores) : std::vector<v1::Score>());
  DispatchLocked();
}

void ScoreSession::DeliverLocked(const Candidate& candidate, const absl::Status& status,
                                 std::vector<v1::Score> scores) {
  v1::CandidateScore& out = scores_.emplace_back();
  out.set_index(candidate.index);
  out.set_id(candidate.id);
  FillItemStatus(status, out.mutable_status());
  for (v1::Score& score : scores) out.add_scores()->Swap(&score);
  if (!status.ok()) ++failed_candidates_;
  ++details_.items;
  last_score_at_ = timers_.Now();
  details_.score_seconds = Seconds(last_score_at_ - first_candidate_at_);
  StepLocked({.kind = Kind::kScoreReady, .size = candidate.size});
}

}  // namespace longdoc::service
