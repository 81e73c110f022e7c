#include "service/stream_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using TimePoint = Timers::TimePoint;

constexpr double kTooManyStreamsRetrySeconds = 1;

Stage StageOf(StreamState state) {
  switch (state) {
    case StreamState::kSealed:
      return Stage::kTokenize;
    case StreamState::kQueued:
      return Stage::kQueue;
    case StreamState::kRunning:
      return Stage::kEncode;
    case StreamState::kResponding:
    case StreamState::kFinished:
      return Stage::kSend;
    default:
      return Stage::kReceive;
  }
}

}  // namespace

class StreamSession::Guard {
 public:
  explicit Guard(StreamSession& session) : session_(session), lock_(session.mutex_) {}
  ~Guard() {
    garbage_ = std::move(session_.garbage_);
    garbage_result_ = std::move(session_.garbage_result_);
    lock_.unlock();
  }

 private:
  StreamSession& session_;
  std::unique_ptr<Document> garbage_;
  std::unique_ptr<EncodeResult> garbage_result_;
  std::unique_lock<std::mutex> lock_;
};

std::shared_ptr<StreamSession> StreamSession::Create(ServiceContext& context,
                                                     std::unique_ptr<DocumentCall> call,
                                                     Executor executor, TimePoint deadline) {
  deadline = CutDeadline(deadline, context.timers.Now(), context.limits);
  return std::shared_ptr<StreamSession>(
      new StreamSession(context, std::move(call), std::move(executor), deadline));
}

StreamSession::StreamSession(ServiceContext& context, std::unique_ptr<DocumentCall> call,
                             Executor executor, TimePoint deadline)
    : context_(context),
      timers_(context.timers),
      executor_(std::move(executor)),
      deadline_(deadline),
      token_(std::make_shared<CancellationToken>(deadline)),
      machine_(
          {context.limits.read_high_watermark_bytes, context.limits.read_high_watermark_bytes / 2}),
      document_(std::make_unique<Document>()),
      next_frame_(call->NewResponse()),
      writing_(call->NewResponse()) {
  document_->call = std::move(call);
}

StreamSession::~StreamSession() {
  if (slot_held_) context_.metrics.Bug("stream_session_not_finished");
}

void StreamSession::Start(StreamTransport* transport, const absl::Status& admission) {
  Guard guard(*this);
  transport_ = transport;
  absl::Status status = admission.ok() ? OpenLocked() : admission;
  if (!status.ok()) return StepLocked({.kind = Kind::kFault, .status = std::move(status)});
  StepLocked({.kind = Kind::kStart});
  ArmTimerLocked();
}

absl::Status StreamSession::OpenLocked() {
  RETURN_IF_ERROR(context_.CheckServing());
  const int64_t open = context_.open_streams.fetch_add(1) + 1;
  if (open > context_.limits.max_streams) {
    context_.open_streams.fetch_sub(1);
    return WithRetryDelay(WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                                         "%d documents are open on this server, the limit is %d",
                                         open - 1, context_.limits.max_streams)),
                                     "TOO_MANY_STREAMS"),
                          kTooManyStreamsRetrySeconds);
  }
  slot_held_ = true;
  context_.metrics.StreamsOpen(1);
  return absl::OkStatus();
}

void StreamSession::OnInput(DocumentInput&& input) {
  Guard guard(*this);
  SessionEvent event;
  Job job;
  switch (input.kind) {
    case DocumentInput::Kind::kHeader:
      event.kind = Kind::kHeader;
      if (machine_.state() == StreamState::kAwaitHeader && !machine_.failed()) {
        event.status = AcceptHeaderLocked(input);
      }
      break;
    case DocumentInput::Kind::kChunk:
      if (input.chunk.content_case() == v1::DocumentChunk::CONTENT_NOT_SET) {
        event.kind = Kind::kEmptyMessage;
        break;
      }
      event.kind = Kind::kChunk;
      event.offset = input.chunk.offset();
      event.ids = input.chunk.has_token_ids();
      job.content = ContentPiece::Take(std::move(input.chunk));
      event.size = job.content.size();
      break;
    case DocumentInput::Kind::kBreak:
      event.kind = Kind::kBreak;
      break;
    case DocumentInput::Kind::kNone:
      event.kind = Kind::kEmptyMessage;
      break;
  }
  const int64_t bytes = job.content.bytes();
  details_.bytes += bytes;
  if (bytes > 0) context_.metrics.BytesReceived(bytes);
  const bool header = event.kind == Kind::kHeader;
  StepLocked(std::move(event), &job);
  if (header) ArmTimerLocked();  // progress begins
}

absl::Status StreamSession::AcceptHeaderLocked(const DocumentInput& input) {
  RETURN_IF_ERROR(context_.CheckServing());
  ASSIGN_OR_RETURN(model_, context_.FindModel(input.header.model()));
  details_.model = model_->name();
  ASSIGN_OR_RETURN(options_, ParseDocumentHeader(input.header, model_->info().dimensions,
                                                 context_.limits.document));
  details_.document_id = options_.document_id;
  RETURN_IF_ERROR(document_->call->AcceptHeader(input, model_, &options_));
  ASSIGN_OR_RETURN(document_->intake, DocumentIntake::Create(context_, model_, options_));
  machine_.SetHeader({options_.has_breaks(), options_.declared_bytes, options_.declared_tokens});
  header_at_ = progress_at_ = timers_.Now();
  context_.metrics.AttentionMode(options_.attention);
  return absl::OkStatus();
}

void StreamSession::OnMalformedMessage(const std::string& expected) {
  Guard guard(*this);
  SessionEvent event{.kind = Kind::kEmptyMessage};
  event.status =
      WithReason(absl::InvalidArgumentError("message is no " + expected), "MALFORMED_MESSAGE");
  StepLocked(std::move(event));
}

void StreamSession::OnReadsEnded() {
  Guard guard(*this);
  StepLocked({.kind = Kind::kReadsEnded});
}

void StreamSession::OnWriteDone(bool ok) {
  Guard guard(*this);
  if (!ok && !machine_.failed()) context_.metrics.Stream(StreamEvent::kClientGone);
  StepLocked({.kind = Kind::kWriteDone, .ok = ok});
}

void StreamSession::OnCancel() {
  Guard guard(*this);
  if (transport_ != nullptr && !machine_.failed()) {
    context_.metrics.Stream(StreamEvent::kClientGone);
  }
  // gRPC cancels a call whose deadline passed.
  const bool late = timers_.Now() >= deadline_;
  StepLocked({.kind = late ? Kind::kDeadline : Kind::kCancelled});
}

void StreamSession::OnTimer() {
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
  } else if (OffersProgressLocked() &&
             Seconds(now - progress_at_) >= options_.progress_interval_seconds) {
    progress_at_ = now;
    StepLocked({.kind = Kind::kProgressDue});
  }
  ArmTimerLocked();
}

bool StreamSession::AwaitsClientLocked() const {
  return machine_.read_outstanding() && !machine_.failed() &&
         machine_.state() <= StreamState::kReceiving;
}

bool StreamSession::OffersProgressLocked() const {
  return !machine_.failed() && machine_.state() >= StreamState::kReceiving &&
         machine_.state() <= StreamState::kRunning;
}

StreamSession::TimePoint StreamSession::NextTimerLocked(TimePoint now) const {
  const auto idle = ToChrono(context_.limits.idle_timeout);
  TimePoint next = now + idle;  // a write that starts later is watched from then on
  if (machine_.write_outstanding()) next = std::min(next, write_since_ + idle);
  if (machine_.failed()) return std::max(next, now + std::chrono::milliseconds(10));
  next = std::min(next, deadline_);
  if (AwaitsClientLocked()) next = std::min(next, read_since_ + idle);
  if (OffersProgressLocked()) {
    const auto interval = ToChrono(absl::Seconds(options_.progress_interval_seconds));
    next = std::min(next, progress_at_ + interval);
  }
  return next;
}

void StreamSession::ArmTimerLocked() {
  if (timer_.serial != 0) timers_.Cancel(timer_);
  timer_ = {};
  if (transport_ == nullptr) return;
  timer_ = timers_.Schedule(NextTimerLocked(timers_.Now()), [weak = weak_from_this()] {
    if (std::shared_ptr<StreamSession> self = weak.lock()) self->OnTimer();
  });
}

void StreamSession::StepLocked(SessionEvent event, Job* content) {
  const StreamState before = machine_.state();
  const StreamActions actions = machine_.Step(event);
  if (actions.release) {
    details_.reached = StageOf(before);
    ReleaseLocked();
  }
  if (actions.paused) context_.metrics.Stream(StreamEvent::kReadPaused);
  if (actions.accept && content != nullptr) EnqueueLocked(std::move(*content));
  if (actions.seal) {
    sealed_at_ = timers_.Now();
    context_.metrics.StageSeconds(Stage::kReceive, Seconds(sealed_at_ - header_at_));
    EnqueueLocked({.kind = Job::Kind::kSeal});
  }
  const int64_t buffered = released_ ? 0 : machine_.pending_bytes();
  if (buffered != buffered_reported_) {
    context_.metrics.StreamBufferedBytes(buffered - buffered_reported_);
    buffered_reported_ = buffered;
  }
  if (transport_ == nullptr) return;
  if (actions.abort) transport_->Abort();
  if (actions.write != StreamActions::Write::kNone) WriteLocked(actions.write);
  if (actions.build_frame) EnqueueLocked({.kind = Job::Kind::kFrame});
  if (actions.start_read) {
    read_since_ = timers_.Now();
    transport_->StartRead();
  }
  if (actions.finish) FinishLocked(*actions.finish);
}

void StreamSession::ReleaseLocked() {
  released_ = true;
  token_->Cancel();
  jobs_.clear();
  garbage_result_ = std::move(result_);
  // A running strand destroys the document itself when it comes back.
  if (!strand_active_) garbage_ = std::move(document_);
}

void StreamSession::WriteLocked(StreamActions::Write write) {
  const TimePoint now = timers_.Now();
  if (write == StreamActions::Write::kFrame) {
    std::swap(writing_, next_frame_);
    if (!first_frame_sent_) context_.metrics.TimeToFirstResult(Seconds(now - header_at_));
    first_frame_sent_ = true;
  } else {
    writing_->Clear();
    FillProgressLocked(document_->call->MutableProgress(writing_.get()));
  }
  write_since_ = now;
  transport_->StartWrite(*writing_);
}

void StreamSession::FillProgressLocked(v1::Progress* progress) const {
  progress->set_bytes_received(details_.bytes);
  progress->set_tokens_received(tokens_received_);
  if (machine_.state() == StreamState::kReceiving) {
    progress->set_stage(v1::Progress::STAGE_RECEIVING);
    return;
  }
  progress->set_expected_seconds_left(expected_seconds_);
  if (machine_.state() != StreamState::kRunning) {
    progress->set_stage(v1::Progress::STAGE_QUEUED);
    return;
  }
  progress->set_stage(v1::Progress::STAGE_ENCODING);
  progress->set_fraction_encoded(fraction_);
  constexpr double kEnoughToExtrapolate = 0.02;
  if (fraction_ > kEnoughToExtrapolate) {
    progress->set_expected_seconds_left(Seconds(timers_.Now() - encoding_since_) * (1 - fraction_) /
                                        fraction_);
  } else {
    progress->set_expected_seconds_left(expected_seconds_ * (1 - fraction_));
  }
}

void StreamSession::FinishLocked(const absl::Status& status) {
  StreamTransport* transport = std::exchange(transport_, nullptr);
  if (slot_held_) {
    slot_held_ = false;
    context_.open_streams.fetch_sub(1);
    context_.metrics.StreamsOpen(-1);
  }
  if (timer_.serial != 0) timers_.Cancel(timer_);
  timer_ = {};
  if (status.ok()) {
    context_.metrics.StageSeconds(Stage::kSend, Seconds(timers_.Now() - encoded_at_));
  }
  transport->Finish(status);
}

void StreamSession::EnqueueLocked(Job job) {
  if (released_) return;
  jobs_.push_back(std::move(job));
  if (strand_active_) return;
  strand_active_ = true;
  executor_([self = shared_from_this()] { self->RunStrand(); });
}

void StreamSession::PostEvent(SessionEvent event) {
  Guard guard(*this);
  StepLocked(std::move(event));
}

RpcDetails StreamSession::details() const {
  std::lock_guard lock(mutex_);
  return details_;
}

}  // namespace longdoc::service
