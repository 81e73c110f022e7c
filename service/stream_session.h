// One streamed document, of EmbedDocument or EncodeDocument: the protocol (StreamMachine) joined to
// the tokenizer, the engine, the clock and a transport. What the RPCs do differently is the
// business of their DocumentCall. Knows nothing of gRPC.
//
// Threads: see SessionBase. Tokenization and the making of answers run on its strand. Callbacks of
// the engine own the session, never the transport.
//
// Memory: unprocessed content up to the high watermark plus one message, 20 bytes per token, the
// vectors, what the call holds, and two responses. All of it is dropped at finish, cancel or fault;
// what the engine holds goes when it next looks at the cancellation token.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "google/protobuf/message.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/context.h"
#include "service/document_call.h"
#include "service/document_intake.h"
#include "service/request_options.h"
#include "service/session_base.h"
#include "service/stream_machine.h"

namespace longdoc::service {

// Work of the strand, in order.
struct StreamJob {
  enum class Kind { kContent, kSeal, kFrame };
  Kind kind = Kind::kContent;
  ContentPiece content{};
};

class StreamSession final : public SessionBase<StreamSession, StreamMachine, StreamJob> {
 public:
  // `deadline`: the client's; cut to the server's limit. The context and the executor must outlive
  // the session.
  static std::shared_ptr<StreamSession> Create(ServiceContext& context,
                                               std::unique_ptr<DocumentCall> call,
                                               Executor executor, TimePoint deadline);
  ~StreamSession();

  void OnInput(DocumentInput&& input);
  template <typename Request>
  void OnMessage(Request&& message) {
    OnInput(TakeInput(std::forward<Request>(message)));
  }

 private:
  friend SessionBase;

  using Job = StreamJob;
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

  // What SessionBase asks for.
  static constexpr char kStreams[] = "documents";
  static constexpr char kDoing[] = "processing the document";
  struct Garbage {
    std::unique_ptr<Document> document;
    std::unique_ptr<EncodeResult> result;
  };
  Stage StageLocked() const;
  void ReleaseLocked() { garbage_.result = std::move(result_); }
  void DropStrandLocked() { garbage_.document = std::move(document_); }
  void RespondLocked(const StreamActions& actions);
  bool AwaitsClientLocked() const;
  TimePoint NextTickLocked() const;
  void TickLocked(TimePoint now);
  absl::Status Process(Job& job, int64_t* cost, int64_t* bytes);

  absl::Status AcceptHeaderLocked(const DocumentInput& input);
  void WriteLocked(StreamActions::Write write);
  void FillProgressLocked(v1::Progress* progress) const;
  bool OffersProgressLocked() const;

  // The strand; see stream_work.cc.
  absl::Status Seal();
  absl::Status Submit();
  absl::Status BuildFrame();
  void OnProgress(double fraction);
  void OnEncoded(absl::StatusOr<EncodeResult> result);
  v1::EncodeStats MakeStats(const EncodeResult* encoded) const;

  // Fixed by the header, before the strand first runs.
  std::shared_ptr<const Model> model_;
  DocumentOptions options_;

  // These need mutex_, but for what the strand owns.
  std::unique_ptr<Document> document_;
  std::unique_ptr<EncodeResult> result_;  // until the strand makes an answer of it
  Garbage garbage_;
  std::unique_ptr<google::protobuf::Message> next_frame_;  // being built, or ready
  std::unique_ptr<google::protobuf::Message> writing_;     // handed to the transport

  // For progress and statistics.
  TimePoint encoded_at_{}, encoding_since_{};
  double expected_seconds_ = 0;
  bool first_frame_sent_ = false;
};

}  // namespace longdoc::service
