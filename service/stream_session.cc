#include "service/stream_session.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "service/deadlines.h"

namespace longdoc::service {

std::shared_ptr<StreamSession> StreamSession::Create(ServiceContext& context,
                                                     std::unique_ptr<DocumentCall> call,
                                                     Executor executor, TimePoint deadline) {
  return std::shared_ptr<StreamSession>(
      new StreamSession(context, std::move(call), std::move(executor), deadline));
}

StreamSession::StreamSession(ServiceContext& context, std::unique_ptr<DocumentCall> call,
                             Executor executor, TimePoint deadline)
    : SessionBase(
          context, std::move(executor), deadline,
          {context.limits.read_high_watermark_bytes, context.limits.read_high_watermark_bytes / 2}),
      document_(std::make_unique<Document>()),
      next_frame_(call->NewResponse()),
      writing_(call->NewResponse()) {
  document_->call = std::move(call);
}

StreamSession::~StreamSession() {
  if (slot_.held()) context_.metrics.Bug("stream_session_not_finished");
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

Stage StreamSession::StageLocked() const {
  switch (machine_.state()) {
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

bool StreamSession::AwaitsClientLocked() const {
  return machine_.read_outstanding() && !machine_.failed() &&
         machine_.state() <= StreamState::kReceiving;
}

bool StreamSession::OffersProgressLocked() const {
  return !machine_.failed() && machine_.state() >= StreamState::kReceiving &&
         machine_.state() <= StreamState::kRunning;
}

StreamSession::TimePoint StreamSession::NextTickLocked() const {
  if (!OffersProgressLocked()) return TimePoint::max();
  return progress_at_ + ToChrono(absl::Seconds(options_.progress_interval_seconds));
}

void StreamSession::TickLocked(TimePoint now) {
  if (!OffersProgressLocked() || Seconds(now - progress_at_) < options_.progress_interval_seconds) {
    return;
  }
  progress_at_ = now;
  StepLocked({.kind = Kind::kProgressDue});
}

void StreamSession::RespondLocked(const StreamActions& actions) {
  if (actions.write != StreamActions::Write::kNone) WriteLocked(actions.write);
  if (actions.build_frame) EnqueueLocked({.kind = Job::Kind::kFrame});
  if (actions.finish && actions.finish->ok()) {
    RecordStage(context_, Stage::kSend, Seconds(timers_.Now() - encoded_at_), &details_);
  }
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

}  // namespace longdoc::service
