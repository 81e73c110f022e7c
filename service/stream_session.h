// One streamed document, of EmbedDocument or EncodeDocument: the protocol (StreamMachine) joined to
// the tokenizer, the engine, the clock and a transport. What the RPCs do differently is the
// business of their DocumentCall. Knows nothing of gRPC.
//
// Threads: every entry point may be called from any thread at any time. One mutex guards the
// machine; the transport is called under it, so that no operation starts after finish. Tokenization
// and the making of answers run as a strand (one job at a time, in order) on the executor, in
// slices of 64 KiB. Callbacks of the engine and of timers own or weakly hold the session, never
// the transport; the session forgets the transport when it asks for finish.
//
// Memory: unprocessed content up to the high watermark plus one message, 20 bytes per token, the
// vectors, what the call holds, and two responses. All of it is dropped at finish, cancel or fault;
// what the engine holds goes when it next looks at the cancellation token.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "engine/base/cancellation.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "google/protobuf/message.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/context.h"
#include "service/document_call.h"
#include "service/document_intake.h"
#include "service/request_options.h"
#include "service/rpc_timer.h"
#include "service/stream_machine.h"
#include "service/timer_queue.h"

namespace longdoc::service {

// What carries the messages. Called under the session's mutex; must not call back before returning.
class StreamTransport {
 public:
  virtual ~StreamTransport() = default;
  // Completes with StreamSession::OnInput, OnMalformedMessage or OnReadsEnded.
  virtual void StartRead() = 0;
  // `response`, of the call's type, stays untouched until StreamSession::OnWriteDone.
  virtual void StartWrite(const google::protobuf::Message& response) = 0;
  // The last call, exactly once, without a write outstanding.
  virtual void Finish(const absl::Status& status) = 0;
  // Makes the outstanding write fail soon.
  virtual void Abort() = 0;
};

class StreamSession : public std::enable_shared_from_this<StreamSession> {
 public:
  using TimePoint = Timers::TimePoint;
  // Runs a job later on another thread. Must not run it before returning.
  using Executor = std::function<void(absl::AnyInvocable<void() &&>)>;

  // `deadline`: the client's; cut to the server's limit. The context and the executor must outlive
  // the session.
  static std::shared_ptr<StreamSession> Create(ServiceContext& context,
                                               std::unique_ptr<DocumentCall> call,
                                               Executor executor, TimePoint deadline);
  ~StreamSession();

  // Opens the stream: starts the first read, or finishes at once with `admission`, with UNAVAILABLE
  // while draining or with RESOURCE_EXHAUSTED for too many streams. `transport` must stay valid
  // until its Finish was called.
  void Start(StreamTransport* transport, const absl::Status& admission);
  void OnInput(DocumentInput&& input);
  template <typename Request>
  void OnMessage(Request&& message) {
    OnInput(TakeInput(std::forward<Request>(message)));
  }
  // Instead of OnInput, when the bytes are no message of type `expected`.
  void OnMalformedMessage(const std::string& expected);
  void OnReadsEnded();
  void OnWriteDone(bool ok);
  void OnCancel();
  // Looks at the clock; the session's own timer calls it.
  void OnTimer();

  RpcDetails details() const;

 private:
  // Work of the strand, in order.
  struct Job {
    enum class Kind { kContent, kSeal, kFrame };
    Kind kind = Kind::kContent;
    ContentPiece content{};
  };
  // The document in all its stages. Once the header is accepted only the strand touches it (but for
  // the call's const functions); whoever ends the stream destroys it when the strand does not run.
  struct Document {
    std::unique_ptr<DocumentCall> call;
    std::unique_ptr<DocumentIntake> intake;
    TokenizedDocument tokenized;  // until it is answered
    bool encoded = false;         // or needs no encode
    bool answered = false;
  };

  StreamSession(ServiceContext& context, std::unique_ptr<DocumentCall> call, Executor executor,
                TimePoint deadline);

  // Holds mutex_, and afterwards destroys what was dropped under it.
  class Guard;
  // Everything below with "Locked" needs mutex_.
  void StepLocked(SessionEvent event, Job* content = nullptr);
  void ReleaseLocked();
  void FinishLocked(const absl::Status& status);
  void WriteLocked(StreamActions::Write write);
  void FillProgressLocked(v1::Progress* progress) const;
  void EnqueueLocked(Job job);
  void ArmTimerLocked();
  absl::Status OpenLocked();
  absl::Status AcceptHeaderLocked(const DocumentInput& input);
  TimePoint NextTimerLocked(TimePoint now) const;
  bool OffersProgressLocked() const;
  bool AwaitsClientLocked() const;

  // The strand; see stream_work.cc.
  void RunStrand();
  int64_t RunJob(Job& job);
  absl::Status Consume(ContentPiece& content, int64_t* bytes);
  absl::Status Seal();
  absl::Status Submit();
  absl::Status BuildFrame();
  void OnProgress(double fraction);
  void OnEncoded(absl::StatusOr<EncodeResult> result);
  void PostEvent(SessionEvent event);
  v1::EncodeStats MakeStats(const EncodeResult* encoded) const;

  ServiceContext& context_;
  Timers& timers_;
  const Executor executor_;
  const TimePoint deadline_;
  const std::shared_ptr<CancellationToken> token_;

  // Fixed by the header, before the strand first runs.
  std::shared_ptr<const Model> model_;
  DocumentOptions options_;

  mutable std::mutex mutex_;
  StreamMachine machine_;
  StreamTransport* transport_ = nullptr;
  bool slot_held_ = false;  // one of limits.max_streams
  bool released_ = false;
  bool strand_active_ = false;
  std::deque<Job> jobs_;
  std::unique_ptr<Document> document_;
  std::unique_ptr<EncodeResult> result_;  // until the strand makes an answer of it
  // Dropped, and to be destroyed once the mutex is free (Guard does).
  std::unique_ptr<Document> garbage_;
  std::unique_ptr<EncodeResult> garbage_result_;
  std::unique_ptr<google::protobuf::Message> next_frame_;  // being built, or ready
  std::unique_ptr<google::protobuf::Message> writing_;     // handed to the transport
  RpcDetails details_;

  // For progress and statistics.
  TimePoint header_at_{}, sealed_at_{}, encoded_at_{}, encoding_since_{};
  TimePoint read_since_{}, write_since_{}, progress_at_{};
  double tokenize_seconds_ = 0;
  double expected_seconds_ = 0;
  double fraction_ = 0;
  int64_t tokens_received_ = 0;
  bool first_frame_sent_ = false;
  int64_t buffered_reported_ = 0;
  Timers::Id timer_{};
};

}  // namespace longdoc::service
