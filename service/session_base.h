// What the sessions of streamed RPCs share (StreamSession, ScoreSession): a machine joined to a
// transport, the clock and a strand that tokenizes. Knows nothing of gRPC.
//
// Threads: every entry point may be called from any thread at any time. One mutex guards the
// machine; the transport is called under it, so that no operation starts after finish. The strand
// runs jobs on the executor, one at a time and in order, in slices of 64 KiB. Timers hold the
// session weakly, the strand owns it; the session forgets the transport when it asks for finish.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/base/cancellation.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "google/protobuf/message.h"
#include "service/context.h"
#include "service/deadlines.h"
#include "service/document_intake.h"
#include "service/executor.h"
#include "service/invalid.h"
#include "service/rpc_timer.h"
#include "service/stream_machine.h"
#include "service/stream_slot.h"
#include "service/timer_queue.h"

namespace longdoc::service {

// What carries the messages. Called under the session's mutex; must not call back before returning.
class StreamTransport {
 public:
  virtual ~StreamTransport() = default;
  // Completes with the session's function for a message, OnMalformedMessage or OnReadsEnded.
  virtual void StartRead() = 0;
  // `response`, of the call's type, stays untouched until the session's OnWriteDone.
  virtual void StartWrite(const google::protobuf::Message& response) = 0;
  // The last call, exactly once, without a write outstanding.
  virtual void Finish(const absl::Status& status) = 0;
  // Makes the outstanding write fail soon.
  virtual void Abort() = 0;
};

// A Session derives from SessionBase<Session, ...>, befriends it, and brings what the RPCs do
// differently ("Locked" needs mutex_):
//   kStreams, kDoing            what messages call its streams, and its work on the strand
//   Garbage garbage_            what was dropped, to be destroyed once the mutex is free
//   StageLocked()               how far the stream has come
//   ReleaseLocked()             drops what it holds
//   DropStrandLocked()          drops what only the strand touches, now that it never runs again
//   RespondLocked(actions)      does what the machine wants written or built
//   AwaitsClientLocked()        it is the client's turn
//   NextTickLocked(), TickLocked(now)   its own business with the clock
//   Process(job, &cost, &bytes) one job of the strand
// A Job has kinds kContent (with `content`) and kSeal among its own.
template <typename Session, typename Machine, typename Job>
class SessionBase : public std::enable_shared_from_this<Session> {
 public:
  using TimePoint = Timers::TimePoint;

  // Opens the stream: starts the first read, or finishes at once with `admission`, with UNAVAILABLE
  // while draining or with RESOURCE_EXHAUSTED for too many streams. `transport` must stay valid
  // until its Finish was called.
  void Start(StreamTransport* transport, const absl::Status& admission) {
    Guard guard(*this);
    transport_ = transport;
    absl::Status status = admission.ok() ? OpenLocked() : admission;
    if (!status.ok()) return StepLocked({.kind = Kind::kFault, .status = std::move(status)});
    StepLocked({.kind = Kind::kStart});
    ArmTimerLocked();
  }
  // Instead of a message, when the bytes are none of type `expected`.
  void OnMalformedMessage(const std::string& expected) {
    SessionEvent event{.kind = Kind::kEmptyMessage};
    event.status = Invalid(absl::StrCat("message is no ", expected), "MALFORMED_MESSAGE");
    PostEvent(std::move(event));
  }
  void OnReadsEnded() { PostEvent({.kind = Kind::kReadsEnded}); }
  void OnWriteDone(bool ok) {
    Guard guard(*this);
    if (!ok && !machine_.failed()) context_.metrics.Stream(StreamEvent::kClientGone);
    StepLocked({.kind = Kind::kWriteDone, .ok = ok});
  }
  void OnCancel() {
    Guard guard(*this);
    if (transport_ != nullptr && !machine_.failed()) {
      context_.metrics.Stream(StreamEvent::kClientGone);
    }
    // gRPC cancels a call whose deadline passed.
    const bool late = timers_.Now() >= deadline_;
    StepLocked({.kind = late ? Kind::kDeadline : Kind::kCancelled});
  }

  // Looks at the clock; the session's own timer calls it.
  void OnTimer() {
    Guard guard(*this);
    timer_ = {};
    if (transport_ == nullptr) return;
    const TimePoint now = timers_.Now();
    const auto idle = ToChrono(context_.limits.idle_timeout);
    if (machine_.write_outstanding() && now >= write_since_ + idle) {
      StepLocked({.kind = Kind::kWriteStalled});
    } else if (!machine_.failed() && now >= deadline_) {
      StepLocked({.kind = Kind::kDeadline});
    } else if (self().AwaitsClientLocked() && now >= read_since_ + idle) {
      context_.metrics.Stream(StreamEvent::kIdleTimeout);
      StepLocked({.kind = Kind::kIdleTimeout});
    } else {
      self().TickLocked(now);
    }
    ArmTimerLocked();
  }

  RpcDetails details() const {
    std::lock_guard lock(mutex_);
    return details_;
  }

 protected:
  using Kind = SessionEvent::Kind;

  // Holds mutex_, and afterwards destroys what was dropped under it.
  class Guard {
   public:
    explicit Guard(SessionBase& session) : session_(session.self()), lock_(session.mutex_) {}
    ~Guard() {
      garbage_ = std::exchange(session_.garbage_, {});
      lock_.unlock();
    }

   private:
    Session& session_;
    typename Session::Garbage garbage_;
    std::unique_lock<std::mutex> lock_;
  };

  // `deadline`: the client's; cut to the server's limit.
  SessionBase(ServiceContext& context, Executor executor, TimePoint deadline,
              const typename Machine::Options& options)
      : context_(context),
        timers_(context.timers),
        executor_(std::move(executor)),
        deadline_(CutDeadline(deadline, timers_.Now(), context.limits)),
        token_(std::make_shared<CancellationToken>(deadline_)),
        machine_(options),
        slot_(context) {}

  // Also does what the machine answers. `job`: of the message that the event is about.
  void StepLocked(SessionEvent event, Job* job = nullptr) {
    const Stage stage = self().StageLocked();
    const auto actions = machine_.Step(event);
    if (actions.release) {
      details_.reached = stage;
      released_ = true;
      token_->Cancel();
      jobs_.clear();
      self().ReleaseLocked();
      // A running strand drops the rest itself when it comes back.
      if (!strand_active_) self().DropStrandLocked();
    }
    if (actions.paused) context_.metrics.Stream(StreamEvent::kReadPaused);
    if (actions.accept && job != nullptr) EnqueueLocked(std::move(*job));
    if (actions.seal) {
      sealed_at_ = timers_.Now();
      RecordStage(context_, Stage::kReceive, Seconds(sealed_at_ - header_at_), &details_);
      EnqueueLocked({.kind = Job::Kind::kSeal});
    }
    const int64_t buffered = released_ ? 0 : machine_.pending_bytes();
    context_.metrics.StreamBufferedBytes(buffered - buffered_reported_);
    buffered_reported_ = buffered;
    if (transport_ == nullptr) return;
    if (actions.abort) transport_->Abort();
    self().RespondLocked(actions);
    if (actions.start_read) {
      read_since_ = timers_.Now();
      transport_->StartRead();
    }
    if (actions.finish) FinishLocked(*actions.finish);
  }
  void PostEvent(SessionEvent event) {
    Guard guard(*this);
    StepLocked(std::move(event));
  }

  void ArmTimerLocked() {
    DisarmTimerLocked();
    if (transport_ == nullptr) return;
    timer_ = timers_.Schedule(NextTimerLocked(timers_.Now()), [weak = this->weak_from_this()] {
      if (std::shared_ptr<Session> session = weak.lock()) session->OnTimer();
    });
  }

  // A job of the strand, unless the stream was released.
  void EnqueueLocked(Job job) {
    if (released_) return;
    jobs_.push_back(std::move(job));
    if (strand_active_) return;
    strand_active_ = true;
    ScheduleStrandLocked();
  }

  // The next slice of a document's content, on the strand.
  absl::Status Consume(DocumentIntake& intake, ContentPiece& content, int64_t* bytes) {
    const auto start = std::chrono::steady_clock::now();
    absl::Status status = intake.Consume(content, bytes);
    const double seconds = Seconds(std::chrono::steady_clock::now() - start);
    std::lock_guard lock(mutex_);
    tokenize_seconds_ += seconds;
    tokens_received_ = intake.num_tokens();
    return status;
  }
  // The whole document, on the strand.
  absl::StatusOr<TokenizedDocument> FinishIntake(DocumentIntake& intake) {
    const auto start = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(TokenizedDocument document, intake.Finish());
    std::lock_guard lock(mutex_);
    tokenize_seconds_ += Seconds(std::chrono::steady_clock::now() - start);
    RecordStage(context_, Stage::kTokenize, tokenize_seconds_, &details_);
    details_.passages = static_cast<int64_t>(document.passages.size());
    details_.tokens = tokens_received_ = intake.num_tokens();
    return document;
  }
  // What the engine does not know.
  void FillInputStatsLocked(const TokenizedDocument& document, bool has_ids,
                            v1::EncodeStats* stats) const {
    stats->set_input_tokens(document.input_tokens);
    stats->set_truncated(document.truncated);
    if (!has_ids) {
      stats->mutable_encoded_bytes()->set_begin(document.kept.begin);
      stats->mutable_encoded_bytes()->set_end(document.kept.end);
    }
    stats->set_receive_seconds(Seconds(sealed_at_ - header_at_));
    stats->set_tokenize_seconds(tokenize_seconds_);
  }

  ServiceContext& context_;
  Timers& timers_;
  const Executor executor_;
  const TimePoint deadline_;
  const std::shared_ptr<CancellationToken> token_;

  mutable std::mutex mutex_;
  Machine machine_;
  StreamTransport* transport_ = nullptr;
  StreamSlot slot_;
  bool released_ = false;
  RpcDetails details_;

  // For progress and statistics.
  TimePoint header_at_{}, sealed_at_{}, progress_at_{};
  TimePoint read_since_{}, write_since_{};
  double tokenize_seconds_ = 0;
  double fraction_ = 0;
  int64_t tokens_received_ = 0;

 private:
  Session& self() { return static_cast<Session&>(*this); }
  const Session& self() const { return static_cast<const Session&>(*this); }

  absl::Status OpenLocked() {
    RETURN_IF_ERROR(context_.CheckServing());
    return slot_.Take(Session::kStreams);
  }
  void FinishLocked(const absl::Status& status) {
    StreamTransport* transport = std::exchange(transport_, nullptr);
    slot_.Release();
    DisarmTimerLocked();
    transport->Finish(status);
  }

  void DisarmTimerLocked() {
    if (timer_.serial != 0) timers_.Cancel(timer_);
    timer_ = {};
  }
  TimePoint NextTimerLocked(TimePoint now) const {
    const auto idle = ToChrono(context_.limits.idle_timeout);
    TimePoint next = now + idle;  // a write that starts later is watched from then on
    if (machine_.write_outstanding()) next = std::min(next, write_since_ + idle);
    if (machine_.failed()) return std::max(next, now + std::chrono::milliseconds(10));
    next = std::min(next, deadline_);
    if (self().AwaitsClientLocked()) next = std::min(next, read_since_ + idle);
    return std::min(next, self().NextTickLocked());
  }

  void ScheduleStrandLocked() {
    executor_([session = this->shared_from_this()] { session->RunStrand(); });
  }
  // Runs jobs worth one slice, then queues behind the other streams' work.
  void RunStrand() {
    int64_t budget = DocumentIntake::kSliceBytes;
    while (true) {
      Job job;
      {
        Guard guard(*this);
        if (released_) self().DropStrandLocked();
        if (released_ || jobs_.empty()) {
          strand_active_ = false;
          return;
        }
        if (budget <= 0) return ScheduleStrandLocked();
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      budget -= RunJob(job);
      if (job.kind == Job::Kind::kContent && !job.content.done()) {
        std::lock_guard lock(mutex_);
        if (!released_) jobs_.push_front(std::move(job));
      }
    }
  }
  // Returns what it cost, in bytes of text.
  int64_t RunJob(Job& job) {
    int64_t cost = 0, bytes = 0;
    absl::Status status;
    try {
      status = self().Process(job, &cost, &bytes);
    } catch (const std::bad_alloc&) {
      status = WithReason(
          absl::ResourceExhaustedError(absl::StrCat("out of memory while ", Session::kDoing)),
          "OUT_OF_MEMORY");
    }
    if (!status.ok()) {
      PostEvent({.kind = Kind::kFault, .status = std::move(status)});
    } else if (bytes > 0) {
      PostEvent({.kind = Kind::kConsumed, .size = bytes});
    }
    return cost;
  }

  bool strand_active_ = false;
  std::deque<Job> jobs_;
  int64_t buffered_reported_ = 0;
  Timers::Id timer_{};
};

}  // namespace longdoc::service
