#include "service/score_machine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using Write = ScoreActions::Write;

bool CompletesRead(Kind kind) {
  switch (kind) {
    case Kind::kHeader:
    case Kind::kChunk:
    case Kind::kBreak:
    case Kind::kDocumentEnd:
    case Kind::kCandidate:
    case Kind::kEmptyMessage:
    case Kind::kReadsEnded:
      return true;
    default:
      return false;
  }
}

}  // namespace

ScoreActions ScoreMachine::Step(const SessionEvent& event) {
  ScoreActions out;
  if (state_ == ScoreState::kFinished) return out;
  Handle(event, out);
  PlanReading(out);
  PlanIo(out);
  return out;
}

void ScoreMachine::Handle(const SessionEvent& event, ScoreActions& out) {
  // Completions of operations count even while a final status waits for the outstanding write.
  if (event.kind == Kind::kWriteDone) return OnWriteDone(event.ok, out);
  if (CompletesRead(event.kind)) {
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
    case Kind::kReadsEnded:
      return OnReadsEnded(out);
    case Kind::kConsumed:
      content_bytes_ -= std::min(event.size, content_bytes_);
      return;
    case Kind::kEncoded:
      if (state_ < ScoreState::kCandidates) return;
      document_ready_ = true;
      progress_due_ = false;
      return;
    case Kind::kScoreReady:
      if (scores_ == candidates_) return;  // nobody's
      ++scores_;
      ready_sizes_.push_back(event.size);
      return;
    case Kind::kProgressDue:
      progress_due_ = state_ != ScoreState::kAwaitHeader && !document_ready_;
      return;
    default:
      if (CompletesRead(event.kind)) OnMessage(event, out);
      return;
  }
}

void ScoreMachine::OnMessage(const SessionEvent& event, ScoreActions& out) {
  if (event.kind == Kind::kEmptyMessage) {
    if (!event.status.ok()) return End(event.status, out);
    return End(
        Invalid("message is none of header, chunk, passage_break, document_end and candidate",
                "EMPTY_MESSAGE"),
        out);
  }
  if (event.kind == Kind::kHeader) return OnHeader(event, out);
  if (state_ == ScoreState::kAwaitHeader) {
    return End(Invalid("content or candidate came before the header", "CONTENT_BEFORE_HEADER"),
               out);
  }
  if (event.kind == Kind::kCandidate) return OnCandidate(event, out);
  OnContent(event, out);
}

void ScoreMachine::OnHeader(const SessionEvent& event, ScoreActions& out) {
  if (state_ != ScoreState::kAwaitHeader) {
    return End(Invalid("second header in one stream", "SECOND_HEADER"), out);
  }
  if (!event.status.ok()) return End(event.status, out);
  state_ = inline_document_ ? ScoreState::kContent : ScoreState::kCandidates;
  document_ready_ = !inline_document_;
}

void ScoreMachine::OnContent(const SessionEvent& event, ScoreActions& out) {
  if (state_ != ScoreState::kContent) {
    return End(
        Invalid("content of a document that is kept, or after document_end", "UNEXPECTED_CONTENT"),
        out);
  }
  absl::Status status;
  if (event.kind == Kind::kChunk) {
    status = content_.OnChunk(event.offset, event.size, event.ids);
  } else if (event.kind == Kind::kBreak) {
    status = content_.OnBreak();
  } else {
    status = content_.OnEnd();
  }
  if (!status.ok()) return End(std::move(status), out);
  if (event.kind == Kind::kDocumentEnd) {
    state_ = ScoreState::kCandidates;
    out.seal = true;
    return;
  }
  if (event.kind == Kind::kChunk) content_bytes_ += event.ids ? 4 * event.size : event.size;
  out.accept = true;
}

void ScoreMachine::OnCandidate(const SessionEvent& event, ScoreActions& out) {
  if (state_ == ScoreState::kContent) {
    return End(Invalid("candidate came before document_end", "MISSING_DOCUMENT_END"), out);
  }
  if (candidates_ == options_.max_candidates) {
    return End(Invalid(absl::StrFormat("stream has more than %d candidates, the limit",
                                       options_.max_candidates),
                       "TOO_MANY_CANDIDATES"),
               out);
  }
  ++candidates_;
  ++waiting_;
  waiting_bytes_ += event.size;
  out.accept = true;
}

void ScoreMachine::OnReadsEnded(ScoreActions& out) {
  if (state_ == ScoreState::kAwaitHeader) {
    return End(Invalid("stream ended before the header", "MISSING_HEADER"), out);
  }
  if (state_ == ScoreState::kContent) {
    return End(Invalid("stream ended before document_end", "MISSING_DOCUMENT_END"), out);
  }
  if (candidates_ == 0) return End(Invalid("stream has no candidates", "NO_CANDIDATES"), out);
  state_ = ScoreState::kEnded;
}

void ScoreMachine::OnWriteDone(bool ok, ScoreActions& out) {
  if (!write_outstanding_) return;
  write_outstanding_ = false;
  if (final_) return;
  if (!ok) {
    return End(
        WithReason(absl::CancelledError("client went away while responses were sent"), "CANCELLED"),
        out);
  }
  if (writing_ == Write::kSummary) return End(absl::OkStatus(), out);
  if (writing_ == Write::kScore) {
    --waiting_;
    waiting_bytes_ -= writing_size_;
  }
}

void ScoreMachine::End(absl::Status status, ScoreActions& out) {
  if (final_) return;
  final_ = std::move(status);
  ready_sizes_.clear();
  progress_due_ = false;
  out.accept = false;
  out.release = true;
}

void ScoreMachine::PlanReading(ScoreActions& out) {
  const auto above = [this](int64_t divisor) {
    return content_bytes_ >= options_.content_bytes / divisor ||
           waiting_ >= options_.waiting_candidates / divisor ||
           waiting_bytes_ >= options_.waiting_bytes / divisor;
  };
  if (!reading_paused_ && above(1)) {
    out.paused = reading_paused_ = true;
  } else if (reading_paused_ && !above(2)) {
    reading_paused_ = false;
  }
}

void ScoreMachine::PlanIo(ScoreActions& out) {
  if (final_) {
    if (write_outstanding_) return;  // finishing now would be a misuse of gRPC
    out.finish = *final_;
    state_ = ScoreState::kFinished;
    return;
  }
  if (!write_outstanding_) {
    if (!ready_sizes_.empty()) {
      out.write = Write::kScore;
      writing_size_ = ready_sizes_.front();
      ready_sizes_.pop_front();
    } else if (state_ == ScoreState::kEnded && waiting_ == 0 && document_ready_) {
      out.write = Write::kSummary;
    } else if (progress_due_) {
      out.write = Write::kProgress;
      progress_due_ = false;
    }
    writing_ = out.write;
    write_outstanding_ = out.write != Write::kNone;
  }
  if (!read_outstanding_ && !reading_paused_ && state_ < ScoreState::kEnded) {
    out.start_read = read_outstanding_ = true;
  }
}

}  // namespace longdoc::service
