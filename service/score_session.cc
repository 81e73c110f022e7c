#include "service/score_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

ScoreMachine::Options MachineOptions(const Limits& limits) {
  ScoreMachine::Options options;
  options.content_bytes = options.waiting_bytes = limits.read_high_watermark_bytes;
  options.max_candidates = limits.max_candidates;
  return options;
}

absl::Status ParseScoring(const v1::ScoreHeader& header, const Methods& possible,
                          const std::string& subject, ScoringOptions* options) {
  const auto& asked = header.methods();
  ASSIGN_OR_RETURN(
      options->methods,
      ResolveMethods({asked.data(), static_cast<size_t>(asked.size())}, possible, subject));
  options->token_log_probabilities = header.token_log_probabilities();
  if (!header.has_best_passages()) return absl::OkStatus();
  options->best_passages = header.best_passages();
  if (options->best_passages >= 0 && options->best_passages <= kMaxBestPassages) {
    return absl::OkStatus();
  }
  return Invalid(absl::StrFormat("best_passages must be in [0, %d], got %d", kMaxBestPassages,
                                 options->best_passages),
                 "INVALID_OPTION");
}

}  // namespace

std::shared_ptr<ScoreSession> ScoreSession::Create(ServiceContext& context, Executor executor,
                                                   TimePoint deadline) {
  return std::shared_ptr<ScoreSession>(new ScoreSession(context, std::move(executor), deadline));
}

ScoreSession::ScoreSession(ServiceContext& context, Executor executor, TimePoint deadline)
    : SessionBase(context, std::move(executor), deadline, MachineOptions(context.limits)) {}

ScoreSession::~ScoreSession() {
  if (slot_.held()) context_.metrics.Bug("score_session_not_finished");
}

void ScoreSession::OnMessage(v1::ScoreCandidatesRequest&& message) {
  Guard guard(*this);
  SessionEvent event{.kind = Kind::kEmptyMessage};
  Job job;
  int64_t bytes = 0;
  if (message.has_header()) {
    event.kind = Kind::kHeader;
    if (machine_.state() == ScoreState::kAwaitHeader && !machine_.failed()) {
      event.status = AcceptHeaderLocked(std::move(*message.mutable_header()));
    }
  } else if (message.has_chunk() &&
             message.chunk().content_case() != v1::DocumentChunk::CONTENT_NOT_SET) {
    event.kind = Kind::kChunk;
    event.offset = message.chunk().offset();
    event.ids = message.chunk().has_token_ids();
    job.kind = Job::Kind::kContent;
    job.content = ContentPiece::Take(std::move(*message.mutable_chunk()));
    event.size = job.content.size();
    bytes = job.content.bytes();
  } else if (message.has_passage_break()) {
    event.kind = Kind::kBreak;
    job.kind = Job::Kind::kContent;
  } else if (message.has_document_end()) {
    event.kind = Kind::kDocumentEnd;
  } else if (message.has_candidate()) {
    event.kind = Kind::kCandidate;
    event.size = bytes = static_cast<int64_t>(message.candidate().ByteSizeLong());
    job.kind = Job::Kind::kCandidate;
    job.index = machine_.candidates();
    job.candidate = std::move(*message.mutable_candidate());
    if (first_candidate_at_ == TimePoint{}) first_candidate_at_ = timers_.Now();
  }
  details_.bytes += bytes;
  if (bytes > 0) context_.metrics.BytesReceived(bytes);
  const bool header = event.kind == Kind::kHeader;
  StepLocked(std::move(event), &job);
  if (header) ArmTimerLocked();  // progress begins
}

absl::Status ScoreSession::AcceptHeaderLocked(v1::ScoreHeader&& header) {
  RETURN_IF_ERROR(context_.CheckServing());
  header_at_ = progress_at_ = timers_.Now();
  switch (header.document_case()) {
    case v1::ScoreHeader::kName:
      return AcceptKeptLocked(header);
    case v1::ScoreHeader::kInline:
      return AcceptInlineLocked(header);
    case v1::ScoreHeader::DOCUMENT_NOT_SET:
      break;
  }
  return Invalid("header names no document, and has none inline", "MISSING_DOCUMENT");
}

absl::Status ScoreSession::AcceptKeptLocked(const v1::ScoreHeader& header) {
  ASSIGN_OR_RETURN(DocumentStore::Pin pin, context_.documents.Find(header.name()));
  details_.document_id = pin->document_id;
  details_.model = pin->model->name();
  RETURN_IF_ERROR(ParseScoring(
      header, MethodsOf(*pin),
      absl::StrFormat("document \"%s\" of model \"%s\"", pin.name(), pin->model->name()),
      &scoring_));
  document_name_ = pin.name();
  model_ = pin->model;
  document_ = PinnedDocument(std::move(pin));
  return absl::OkStatus();
}

absl::Status ScoreSession::AcceptInlineLocked(const v1::ScoreHeader& header) {
  const v1::DocumentHeader& document = header.inline_();
  ASSIGN_OR_RETURN(model_, context_.FindModel(document.model()));
  details_.model = model_->name();
  RETURN_IF_ERROR(ParseScoring(header, MethodsOf(*model_),
                               absl::StrFormat("a document by model \"%s\"", model_->name()),
                               &scoring_));
  if (document.has_vector() || document.omit_document_vector() || document.token_vectors()) {
    return Invalid(
        "vector, token_vectors and omit_document_vector do not apply to a document that is scored",
        "INVALID_OPTION");
  }
  ASSIGN_OR_RETURN(
      options_, ParseDocumentHeader(document, model_->info().dimensions, context_.limits.document));
  AskForScoring(scoring_.methods, &options_);
  details_.document_id = options_.document_id;
  ASSIGN_OR_RETURN(intake_, DocumentIntake::Create(context_, model_, options_));
  machine_.SetInlineDocument(
      {options_.has_breaks(), options_.declared_bytes, options_.declared_tokens});
  context_.metrics.AttentionMode(options_.attention);
  return absl::OkStatus();
}

void ScoreSession::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    read_since_ = timers_.Now();  // a client may think about the scores before it goes on
  }
  SessionBase::OnWriteDone(ok);
}

Stage ScoreSession::StageLocked() const {
  if (machine_.state() <= ScoreState::kContent) return Stage::kReceive;
  return machine_.document_ready() ? Stage::kSend : Stage::kEncode;
}

void ScoreSession::ReleaseLocked() {
  prepared_.clear();
  scores_.clear();
  garbage_.document = std::move(document_);
}

void ScoreSession::RespondLocked(const ScoreActions& actions) {
  if (actions.write != ScoreActions::Write::kNone) WriteLocked(actions.write);
}

void ScoreSession::WriteLocked(ScoreActions::Write write) {
  writing_.Clear();
  write_since_ = timers_.Now();
  switch (write) {
    case ScoreActions::Write::kScore:
      writing_.mutable_score()->Swap(&scores_.front());
      scores_.pop_front();
      if (!first_score_sent_) {
        context_.metrics.TimeToFirstResult(Seconds(write_since_ - header_at_));
      }
      first_score_sent_ = true;
      break;
    case ScoreActions::Write::kSummary:
      FillSummaryLocked(writing_.mutable_summary());
      break;
    default:
      FillProgressLocked(writing_.mutable_progress());
      break;
  }
  transport_->StartWrite(writing_);
}

void ScoreSession::FillProgressLocked(v1::Progress* progress) const {
  progress->set_bytes_received(details_.bytes);
  progress->set_tokens_received(tokens_received_);
  progress->set_fraction_encoded(fraction_);
  progress->set_stage(machine_.state() == ScoreState::kContent ? v1::Progress::STAGE_RECEIVING
                      : fraction_ == 0                         ? v1::Progress::STAGE_QUEUED
                                                               : v1::Progress::STAGE_ENCODING);
}

void ScoreSession::FillSummaryLocked(v1::ScoreSummary* summary) const {
  summary->set_model(model_->name());
  summary->set_model_revision(model_->revision());
  summary->set_document(document_name_);
  summary->set_candidate_count(machine_.candidates());
  summary->set_failed_count(failed_candidates_);
  summary->set_score_seconds(details_.score_seconds);
  if (document_name_.empty()) *summary->mutable_stats() = stats_;
}

bool ScoreSession::AwaitsClientLocked() const {
  if (!machine_.read_outstanding() || machine_.failed()) return false;
  // Without a candidate to wait for, it is the client's turn; or else its own encode's.
  return machine_.state() <= ScoreState::kContent ||
         (machine_.document_ready() && machine_.waiting() == 0);
}

ScoreSession::TimePoint ScoreSession::NextTickLocked() const {
  TimePoint next = TimePoint::max();
  if (retry_at_ != TimePoint{}) next = retry_at_;
  if (machine_.state() != ScoreState::kAwaitHeader && !machine_.document_ready()) {
    next =
        std::min(next, progress_at_ + ToChrono(absl::Seconds(options_.progress_interval_seconds)));
  }
  return next;
}

void ScoreSession::TickLocked(TimePoint now) {
  if (retry_at_ != TimePoint{} && now >= retry_at_) {
    retry_at_ = {};
    DispatchLocked();
  }
  if (now >= progress_at_ + ToChrono(absl::Seconds(options_.progress_interval_seconds))) {
    progress_at_ = now;
    StepLocked({.kind = Kind::kProgressDue});
  }
}

}  // namespace longdoc::service
