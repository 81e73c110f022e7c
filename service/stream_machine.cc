#include "service/stream_machine.h"

#include <utility>

#include "engine/base/error_reason.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;

}  // namespace

absl::Status FatalStatus(const SessionEvent& event) {
  switch (event.kind) {
    case Kind::kIdleTimeout:
      return WithReason(
          absl::DeadlineExceededError("no message from the client within the idle timeout"),
          "IDLE_TIMEOUT");
    case Kind::kDeadline:
      return WithReason(absl::DeadlineExceededError("deadline passed before the result was sent"),
                        "DEADLINE_EXCEEDED");
    case Kind::kWriteStalled:
      return WithReason(absl::DeadlineExceededError("client does not read its responses"),
                        "READ_STALLED");
    case Kind::kCancelled:
      return WithReason(absl::CancelledError("call was cancelled"), "CANCELLED");
    case Kind::kFault:
      return event.status.ok() ? absl::InternalError("fault without a status") : event.status;
    default:
      return absl::OkStatus();
  }
}

StreamActions StreamMachine::Step(const SessionEvent& event) {
  StreamActions out;
  if (state_ == StreamState::kFinished) return out;
  Handle(event, out);
  PlanIo(out);
  return out;
}

void StreamMachine::Handle(const SessionEvent& event, StreamActions& out) {
  // Completions of operations count even while a final status waits for the outstanding write.
  if (event.kind == Kind::kWriteDone) return OnWriteDone(event.ok, out);
  const bool read_completed = event.kind == Kind::kHeader || event.kind == Kind::kChunk ||
                              event.kind == Kind::kBreak || event.kind == Kind::kEmptyMessage ||
                              event.kind == Kind::kReadsEnded;
  if (read_completed) {
    if (!read_outstanding_) return;  // a read that was never started cannot complete
    read_outstanding_ = false;
  }
  if (event.kind == Kind::kWriteStalled && write_outstanding_ && !aborted_) {
    out.abort = aborted_ = true;
  }
  if (final_) return;
  absl::Status fatal = FatalStatus(event);
  if (!fatal.ok()) {
    if (event.kind == Kind::kWriteStalled && !write_outstanding_) return;
    if (event.kind == Kind::kIdleTimeout && !read_outstanding_) return;
    return End(std::move(fatal), out);
  }
  switch (event.kind) {
    case Kind::kHeader:
    case Kind::kChunk:
    case Kind::kBreak:
    case Kind::kEmptyMessage:
      return OnMessage(event, out);
    case Kind::kReadsEnded:
      return OnReadsEnded(out);
    case Kind::kConsumed:
      return OnConsumed(event.size);
    case Kind::kSubmitted:
      if (state_ == StreamState::kSealed) state_ = StreamState::kQueued;
      return;
    case Kind::kStarted:
      if (state_ == StreamState::kSealed || state_ == StreamState::kQueued) {
        state_ = StreamState::kRunning;
      }
      return;
    case Kind::kEncoded:
      // A fast engine may be done before the thread that submitted says so.
      if (state_ < StreamState::kSealed || state_ >= StreamState::kResponding) return;
      state_ = StreamState::kResponding;
      out.build_frame = frame_building_ = true;
      return;
    case Kind::kFrameReady:
      return OnFrameReady(event.last);
    case Kind::kProgressDue:
      if (state_ != StreamState::kAwaitHeader && state_ < StreamState::kResponding) {
        progress_due_ = true;
      }
      return;
    default:
      return;
  }
}

void StreamMachine::OnMessage(const SessionEvent& event, StreamActions& out) {
  if (event.kind == Kind::kEmptyMessage) {
    if (!event.status.ok()) return End(event.status, out);
    return End(Invalid("message is none of header, chunk and passage_break", "EMPTY_MESSAGE"), out);
  }
  if (event.kind == Kind::kHeader) {
    if (state_ != StreamState::kAwaitHeader) {
      return End(Invalid("second header in one stream", "SECOND_HEADER"), out);
    }
    if (!event.status.ok()) return End(event.status, out);
    state_ = StreamState::kReceiving;
    return;
  }
  if (state_ == StreamState::kAwaitHeader) {
    return End(Invalid("content came before the header", "CONTENT_BEFORE_HEADER"), out);
  }
  if (event.kind == Kind::kChunk) return OnChunk(event, out);
  absl::Status status = content_.OnBreak();
  if (!status.ok()) return End(std::move(status), out);
  out.accept = true;
}

void StreamMachine::OnChunk(const SessionEvent& event, StreamActions& out) {
  absl::Status status = content_.OnChunk(event.offset, event.size, event.ids);
  if (!status.ok()) return End(std::move(status), out);
  pending_bytes_ += event.ids ? 4 * event.size : event.size;
  out.accept = true;
  if (!reading_paused_ && pending_bytes_ >= options_.high_watermark) {
    out.paused = reading_paused_ = true;
  }
}

void StreamMachine::OnReadsEnded(StreamActions& out) {
  if (state_ == StreamState::kAwaitHeader) {
    return End(Invalid("stream ended before the header", "MISSING_HEADER"), out);
  }
  absl::Status status = content_.OnEnd();
  if (!status.ok()) return End(std::move(status), out);
  state_ = StreamState::kSealed;
  out.seal = true;
}

void StreamMachine::OnConsumed(int64_t bytes) {
  pending_bytes_ -= bytes < pending_bytes_ ? bytes : pending_bytes_;
  if (pending_bytes_ <= options_.low_watermark) reading_paused_ = false;
}

void StreamMachine::OnFrameReady(bool last) {
  if (!frame_building_) return;
  frame_building_ = false;
  frame_ready_ = true;
  frame_last_ = last;
}

void StreamMachine::OnWriteDone(bool ok, StreamActions& out) {
  if (!write_outstanding_) return;
  write_outstanding_ = false;
  if (final_) return;
  if (!ok) {
    return End(
        WithReason(absl::CancelledError("client went away while responses were sent"), "CANCELLED"),
        out);
  }
  if (writing_frame_ && writing_last_) End(absl::OkStatus(), out);
}

void StreamMachine::End(absl::Status status, StreamActions& out) {
  if (final_) return;
  final_ = std::move(status);
  frame_ready_ = frame_building_ = progress_due_ = false;
  out.accept = false;
  out.release = true;
}

void StreamMachine::PlanIo(StreamActions& out) {
  if (final_) {
    if (write_outstanding_) return;  // finishing now would be a misuse of gRPC
    out.finish = *final_;
    state_ = StreamState::kFinished;
    return;
  }
  if (!write_outstanding_ && frame_ready_) {
    out.write = StreamActions::Write::kFrame;
    write_outstanding_ = writing_frame_ = true;
    writing_last_ = frame_last_;
    frame_ready_ = false;
    // One frame is built while the one before it is sent; never more.
    if (!frame_last_) out.build_frame = frame_building_ = true;
  } else if (!write_outstanding_ && progress_due_ && state_ < StreamState::kResponding) {
    out.write = StreamActions::Write::kProgress;
    write_outstanding_ = true;
    writing_frame_ = writing_last_ = false;
    progress_due_ = false;
  }
  if (receiving() && !read_outstanding_ && !reading_paused_) {
    out.start_read = read_outstanding_ = true;
  }
}

}  // namespace longdoc::service
