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

using Kind = SessionEvent::Kind;

constexpr double kTooManyStreamsRetrySeconds = 1;

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

class ScoreSession::Guard {
 public:
  explicit Guard(ScoreSession& session) : session_(session), lock_(session.mutex_) {}
  ~Guard() {
    garbage_ = std::move(session_.garbage_);
    lock_.unlock();
  }

 private:
  ScoreSession& session_;
  std::shared_ptr<const KeptDocument> garbage_;
  std::unique_lock<std::mutex> lock_;
};

std::shared_ptr<ScoreSession> ScoreSession::Create(ServiceContext& context, Executor executor,
                                                   TimePoint deadline) {
  deadline = CutDeadline(deadline, context.timers.Now(), context.limits);
  return std::shared_ptr<ScoreSession>(new ScoreSession(context, std::move(executor), deadline));
}

ScoreSession::ScoreSession(ServiceContext& context, Executor executor, TimePoint deadline)
    : context_(context),
      timers_(context.timers),
      executor_(std::move(executor)),
      deadline_(deadline),
      token_(std::make_shared<CancellationToken>(deadline)),
      machine_(MachineOptions(context.limits)) {}

ScoreSession::~ScoreSession() {
  if (slot_held_) context_.metrics.Bug("score_session_not_finished");
}

void ScoreSession::Start(StreamTransport* transport, const absl::Status& admission) {
  Guard guard(*this);
  transport_ = transport;
  absl::Status status = admission.ok() ? OpenLocked() : admission;
  if (!status.ok()) return StepLocked({.kind = Kind::kFault, .status = std::move(status)});
  StepLocked({.kind = Kind::kStart});
  ArmTimerLocked();
}

absl::Status ScoreSession::OpenLocked() {
  RETURN_IF_ERROR(context_.CheckServing());
  const int64_t open = context_.open_streams.fetch_add(1) + 1;
  if (open > context_.limits.max_streams) {
    context_.open_streams.fetch_sub(1);
    return WithRetryDelay(WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                                         "%d streams are open on this server, the limit is %d",
                                         open - 1, context_.limits.max_streams)),
                                     "TOO_MANY_STREAMS"),
                          kTooManyStreamsRetrySeconds);
  }
  slot_held_ = true;
  context_.metrics.StreamsOpen(1);
  return absl::OkStatus();
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

void ScoreSession::OnMalformedMessage(const std::string& expected) {
  SessionEvent event{.kind = Kind::kEmptyMessage};
  event.status = Invalid(absl::StrCat("message is no ", expected), "MALFORMED_MESSAGE");
  PostEvent(std::move(event));
}

void ScoreSession::OnReadsEnded() { PostEvent({.kind = Kind::kReadsEnded}); }

void ScoreSession::OnWriteDone(bool ok) {
  Guard guard(*this);
  if (!ok && !machine_.failed()) context_.metrics.Stream(StreamEvent::kClientGone);
  read_since_ = timers_.Now();  // a client may think about the scores before it goes on
  StepLocked({.kind = Kind::kWriteDone, .ok = ok});
}

void ScoreSession::OnCancel() {
  Guard guard(*this);
  if (transport_ != nullptr && !machine_.failed()) {
    context_.metrics.Stream(StreamEvent::kClientGone);
  }
  // gRPC cancels a call whose deadline passed.
  const bool late = timers_.Now() >= deadline_;
  StepLocked({.kind = late ? Kind::kDeadline : Kind::kCancelled});
}

void ScoreSession::StepLocked(SessionEvent event, Job* job) {
  const ScoreState before = machine_.state();
  const bool document_ready = machine_.document_ready();
  const ScoreActions actions = machine_.Step(event);
  if (actions.release) {
    details_.reached = before <= ScoreState::kContent ? Stage::kReceive
                       : document_ready               ? Stage::kSend
                                                      : Stage::kEncode;
    ReleaseLocked();
  }
  if (actions.paused) context_.metrics.Stream(StreamEvent::kReadPaused);
  if (actions.accept && job != nullptr) EnqueueLocked(std::move(*job));
  if (actions.seal) {
    sealed_at_ = timers_.Now();
    context_.metrics.StageSeconds(Stage::kReceive, Seconds(sealed_at_ - header_at_));
    EnqueueLocked({.kind = Job::Kind::kSeal});
  }
  const int64_t buffered = released_ ? 0 : machine_.pending_bytes();
  context_.metrics.StreamBufferedBytes(buffered - buffered_reported_);
  buffered_reported_ = buffered;
  if (transport_ == nullptr) return;
  if (actions.abort) transport_->Abort();
  if (actions.write != ScoreActions::Write::kNone) WriteLocked(actions.write);
  if (actions.start_read) {
    read_since_ = timers_.Now();
    transport_->StartRead();
  }
  if (actions.finish) FinishLocked(*actions.finish);
}

void ScoreSession::ReleaseLocked() {
  released_ = true;
  token_->Cancel();
  jobs_.clear();
  prepared_.clear();
  scores_.clear();
  garbage_ = std::move(document_);
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
  summary->set_score_seconds(Seconds(last_score_at_ - first_candidate_at_));
  if (document_name_.empty()) *summary->mutable_stats() = stats_;
}

void ScoreSession::FinishLocked(const absl::Status& status) {
  StreamTransport* transport = std::exchange(transport_, nullptr);
  if (slot_held_) {
    slot_held_ = false;
    context_.open_streams.fetch_sub(1);
    context_.metrics.StreamsOpen(-1);
  }
  if (timer_.serial != 0) timers_.Cancel(timer_);
  timer_ = {};
  transport->Finish(status);
}

bool ScoreSession::AwaitsClientLocked() const {
  if (!machine_.read_outstanding() || machine_.failed()) return false;
  // Without a candidate to wait for, it is the client's turn; or else its own encode's.
  return machine_.state() <= ScoreState::kContent ||
         (machine_.document_ready() && machine_.waiting() == 0);
}

ScoreSession::TimePoint ScoreSession::NextTimerLocked(TimePoint now) const {
  const auto idle = ToChrono(context_.limits.idle_timeout);
  TimePoint next = now + idle;  // a write that starts later is watched from then on
  if (machine_.write_outstanding()) next = std::min(next, write_since_ + idle);
  if (machine_.failed()) return std::max(next, now + std::chrono::milliseconds(10));
  next = std::min(next, deadline_);
  if (AwaitsClientLocked()) next = std::min(next, read_since_ + idle);
  if (retry_at_ != TimePoint{}) next = std::min(next, retry_at_);
  if (machine_.state() != ScoreState::kAwaitHeader && !machine_.document_ready()) {
    next =
        std::min(next, progress_at_ + ToChrono(absl::Seconds(options_.progress_interval_seconds)));
  }
  return next;
}

void ScoreSession::ArmTimerLocked() {
  if (timer_.serial != 0) timers_.Cancel(timer_);
  timer_ = {};
  if (transport_ == nullptr) return;
  timer_ = timers_.Schedule(NextTimerLocked(timers_.Now()), [weak = weak_from_this()] {
    if (std::shared_ptr<ScoreSession> self = weak.lock()) self->OnTimer();
  });
}

void ScoreSession::OnTimer() {
  Guard guard(*this);
  timer_ = {};
  if (transport_ == nullptr) return;
  const TimePoint now = timers_.Now();
  const auto idle = ToChrono(context_.limits.idle_timeout);
  if (machine_.write_outstanding() && now >= write_since_ + idle) {
    StepLocked({.kind = Kind::kWriteStalled});
  } else if (!machine_.failed() && now >= deadline_) {
    StepLocked({.kind = Kind::kDeadline});
  } else if (AwaitsClientLocked() && now >= read_since_ + idle) {
    context_.metrics.Stream(StreamEvent::kIdleTimeout);
    StepLocked({.kind = Kind::kIdleTimeout});
  } else {
    if (retry_at_ != TimePoint{} && now >= retry_at_) {
      retry_at_ = {};
      DispatchLocked();
    }
    if (now >= progress_at_ + ToChrono(absl::Seconds(options_.progress_interval_seconds))) {
      progress_at_ = now;
      StepLocked({.kind = Kind::kProgressDue});
    }
  }
  ArmTimerLocked();
}

void ScoreSession::PostEvent(SessionEvent event) {
  Guard guard(*this);
  StepLocked(std::move(event));
}

RpcDetails ScoreSession::details() const {
  std::lock_guard lock(mutex_);
  return details_;
}

}  // namespace longdoc::service
