// The protocol of EmbedDocument as a pure state machine: events in, actions out.
//
// Knows order, offsets, flow control and "exactly one finish"; knows nothing of gRPC, protobuf,
// threads, clocks or the engine, so that every interleaving can be tested. Not thread-safe: the
// session calls it under its mutex.
//
// Invariants, for any sequence of events:
//   - at most one read and one write are outstanding;
//   - exactly one finish, never while a write is outstanding, and nothing after it;
//   - `release` is asked for exactly once, together with or before the finish;
//   - reading stops at the high watermark of unprocessed bytes and resumes at the low one.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "service/content_order.h"

namespace longdoc::service {

enum class StreamState {
  kAwaitHeader,
  kReceiving,   // header accepted; content arrives
  kSealed,      // half-closed; the rest is tokenized
  kQueued,      // handed to the engine
  kRunning,     // the engine has begun
  kResponding,  // vectors are there; frames go out
  kFinished,    // finish was asked for; every later event is ignored
};

struct SessionEvent {
  enum class Kind {
    kStart,         // the stream is open
    kHeader,        // `status`: the verdict about the header, if one was awaited
    kChunk,         // `offset`, `size` and `ids`
    kBreak,         // passage border
    kDocumentEnd,   // ScoreCandidates: the inline document is whole
    kCandidate,     // ScoreCandidates: `size` bytes to be scored
    kEmptyMessage,  // a message of no kind that we know
    kReadsEnded,    // half-close
    kConsumed,      // `size` bytes were processed
    kSubmitted,     // the engine took the document
    kStarted,       // the engine began
    kEncoded,       // vectors are there
    kFrameReady,    // a response was built; `last`: it is the result
    kScoreReady,    // ScoreCandidates: the outcome of a candidate of `size` bytes is there
    kProgressDue,   // time to tell the client
    kWriteDone,     // `ok`
    kIdleTimeout,   // nothing from the client for too long
    kDeadline,      // the deadline passed
    kWriteStalled,  // the client reads nothing for too long
    kCancelled,     // by the client, its connection or the server's stop
    kFault,         // `status`: whatever else went wrong
  };
  Kind kind = Kind::kStart;
  int64_t offset = 0;
  int64_t size = 0;  // of a chunk: bytes, or ids
  bool ids = false;
  bool ok = true;
  bool last = false;
  absl::Status status{};
};

// The status of an event that ends every stream from outside; OK for every other event.
absl::Status FatalStatus(const SessionEvent& event);

struct StreamActions {
  enum class Write { kNone, kProgress, kFrame };
  bool start_read = false;
  Write write = Write::kNone;
  bool accept = false;       // the message of this event is to be processed
  bool seal = false;         // no more content: tokenize the rest, submit
  bool build_frame = false;  // build the next response, then kFrameReady
  bool paused = false;       // the high watermark was crossed by this event
  bool release = false;      // stop all work for this stream and drop what it holds
  bool abort = false;        // break the connection's stream: the outstanding write will not end
  std::optional<absl::Status> finish;
};

class StreamMachine {
 public:
  // Bytes of unprocessed content (an id counts 4).
  struct Options {
    int64_t high_watermark = 4 << 20;
    int64_t low_watermark = 2 << 20;
  };
  using Header = ContentOrder::Header;

  explicit StreamMachine(const Options& options) : options_(options) {}

  // Before the kHeader event whose verdict is OK.
  void SetHeader(const Header& header) { content_.SetHeader(header); }
  [[nodiscard]] StreamActions Step(const SessionEvent& event);

  StreamState state() const { return state_; }
  bool read_outstanding() const { return read_outstanding_; }
  bool write_outstanding() const { return write_outstanding_; }
  bool failed() const { return final_.has_value(); }
  int64_t pending_bytes() const { return pending_bytes_; }
  int64_t received() const { return content_.received(); }  // bytes or ids

 private:
  void Handle(const SessionEvent& event, StreamActions& out);
  void OnMessage(const SessionEvent& event, StreamActions& out);
  void OnChunk(const SessionEvent& event, StreamActions& out);
  void OnReadsEnded(StreamActions& out);
  void OnFrameReady(bool last);
  void OnConsumed(int64_t bytes);
  void OnWriteDone(bool ok, StreamActions& out);
  void End(absl::Status status, StreamActions& out);
  void PlanIo(StreamActions& out);
  bool receiving() const {
    return state_ == StreamState::kAwaitHeader || state_ == StreamState::kReceiving;
  }

  const Options options_;
  ContentOrder content_;
  StreamState state_ = StreamState::kAwaitHeader;
  bool read_outstanding_ = false;
  bool write_outstanding_ = false;
  bool writing_frame_ = false;
  bool writing_last_ = false;
  bool frame_building_ = false;
  bool frame_ready_ = false;
  bool frame_last_ = false;
  bool progress_due_ = false;
  bool reading_paused_ = false;
  bool aborted_ = false;
  int64_t pending_bytes_ = 0;
  std::optional<absl::Status> final_;
};

}  // namespace longdoc::service
