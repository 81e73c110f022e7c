// The protocol of ScoreCandidates as a pure state machine: events in, actions out.
//
//   header → [content → document_end] → candidates → half-close        scores as ready → summary
//
// Like StreamMachine it knows nothing of gRPC, threads, clocks or the engine, and is not
// thread-safe. Candidates may come while the document is still being encoded; they wait.
//
// Invariants, for any sequence of events:
//   - at most one read and one write are outstanding;
//   - exactly one finish, never while a write is outstanding, and nothing after it;
//   - `release` is asked for exactly once, together with or before the finish;
//   - a candidate counts as waiting from its arrival until its score was sent; reading stops above
//     the watermarks of waiting candidates and of unprocessed content;
//   - the summary is written only when the document is there and every candidate's score was sent.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/status/status.h"
#include "service/content_order.h"
#include "service/stream_machine.h"

namespace longdoc::service {

enum class ScoreState {
  kAwaitHeader,
  kContent,     // of an inline document
  kCandidates,  // the document is kept, or whole
  kEnded,       // half-closed; scores are outstanding
  kFinished,    // finish was asked for; every later event is ignored
};

struct ScoreActions {
  enum class Write { kNone, kProgress, kScore, kSummary };
  bool start_read = false;
  Write write = Write::kNone;
  bool accept = false;   // the content or candidate of this event is to be processed
  bool seal = false;     // the inline document is whole: tokenize the rest, encode
  bool paused = false;   // a high watermark was crossed by this event
  bool release = false;  // stop all work for this stream and drop what it holds
  bool abort = false;    // break the connection's stream: the outstanding write will not end
  std::optional<absl::Status> finish;
};

class ScoreMachine {
 public:
  // Reading stops at a high watermark, and goes on when all are at half of theirs or below.
  struct Options {
    int64_t content_bytes = 4 << 20;    // unprocessed; an id counts 4
    int64_t waiting_candidates = 1024;  // not yet scored and sent
    int64_t waiting_bytes = 4 << 20;    // of those
    int64_t max_candidates = 100'000;   // of the stream: a limit, not a watermark
  };

  explicit ScoreMachine(const Options& options) : options_(options) {}

  // Before the kHeader event whose verdict is OK.
  void SetInlineDocument(const ContentOrder::Header& header) {
    inline_document_ = true;
    content_.SetHeader(header);
  }
  // Understands kStart, kHeader, kChunk, kBreak, kDocumentEnd, kCandidate, kEmptyMessage,
  // kReadsEnded, kConsumed (content), kEncoded (the document is there), kScoreReady, kProgressDue,
  // kWriteDone and what ends any stream. One kScoreReady for each accepted candidate, with its
  // size.
  [[nodiscard]] ScoreActions Step(const SessionEvent& event);

  ScoreState state() const { return state_; }
  bool document_ready() const { return document_ready_; }
  bool read_outstanding() const { return read_outstanding_; }
  bool write_outstanding() const { return write_outstanding_; }
  bool failed() const { return final_.has_value(); }
  int64_t pending_bytes() const { return content_bytes_ + waiting_bytes_; }
  int64_t candidates() const { return candidates_; }
  int64_t waiting() const { return waiting_; }

 private:
  void Handle(const SessionEvent& event, ScoreActions& out);
  void OnMessage(const SessionEvent& event, ScoreActions& out);
  void OnHeader(const SessionEvent& event, ScoreActions& out);
  void OnContent(const SessionEvent& event, ScoreActions& out);
  void OnCandidate(const SessionEvent& event, ScoreActions& out);
  void OnReadsEnded(ScoreActions& out);
  void OnWriteDone(bool ok, ScoreActions& out);
  void End(absl::Status status, ScoreActions& out);
  void PlanReading(ScoreActions& out);
  void PlanIo(ScoreActions& out);

  const Options options_;
  ContentOrder content_;
  bool inline_document_ = false;
  ScoreState state_ = ScoreState::kAwaitHeader;
  bool document_ready_ = false;
  bool read_outstanding_ = false;
  bool write_outstanding_ = false;
  ScoreActions::Write writing_ = ScoreActions::Write::kNone;
  int64_t writing_size_ = 0;         // of the candidate whose score is being written
  std::deque<int64_t> ready_sizes_;  // of the candidates whose scores wait to be written
  bool progress_due_ = false;
  bool reading_paused_ = false;
  bool aborted_ = false;
  int64_t content_bytes_ = 0;
  int64_t candidates_ = 0;
  int64_t scores_ = 0;  // outcomes told so far
  int64_t waiting_ = 0;
  int64_t waiting_bytes_ = 0;
  std::optional<absl::Status> final_;
};

}  // namespace longdoc::service
