// A StreamSession with every outside influence in the test's hands: time, the executor's jobs, the
// engine's answers and the transport's completions. One thread, no waiting.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "engine/base/check.h"
#include "service/stream_session.h"
#include "tests/support/test_context.h"

namespace longdoc::testing {

// Aborts when the session breaks the rules of gRPC's reactors.
class CheckedTransport final : public service::StreamTransport {
 public:
  void StartRead() override {
    LD_CHECK(!finished() && !reading_);
    reading_ = true;
  }
  void StartWrite(const google::protobuf::Message& response) override {
    LD_CHECK(!finished() && !writing_);
    writing_ = true;
    response_ = &response;
    bytes_ = response.SerializeAsString();
  }
  void Finish(const absl::Status& status) override {
    LD_CHECK(!finished() && !writing_);
    status_ = status;
  }
  void Abort() override {
    LD_CHECK(!finished() && writing_);
    aborted_ = true;
  }

  // The test completes an operation: it ends here first, then the session is told.
  void EndRead() {
    LD_CHECK(reading_);
    reading_ = false;
  }
  void EndWrite(bool ok) {
    LD_CHECK(writing_);
    // The session must not touch a message that is being sent.
    LD_CHECK(response_->SerializeAsString() == bytes_);
    writing_ = false;
    if (ok) sent_bytes_.push_back(bytes_);
    response_ = nullptr;
  }
  bool reading() const { return reading_; }
  bool writing() const { return writing_; }
  bool aborted() const { return aborted_; }
  bool finished() const { return status_.has_value(); }
  const absl::Status& status() const { return *status_; }
  // What the client has got.
  template <typename Response = v1::EmbedDocumentResponse>
  std::vector<Response> sent() const {
    std::vector<Response> messages(sent_bytes_.size());
    for (size_t i = 0; i < messages.size(); ++i) {
      LD_CHECK(messages[i].ParseFromString(sent_bytes_[i]));
    }
    return messages;
  }

 private:
  bool reading_ = false, writing_ = false, aborted_ = false;
  const google::protobuf::Message* response_ = nullptr;
  std::string bytes_;
  std::optional<absl::Status> status_;
  std::vector<std::string> sent_bytes_;
};

using MakeCall = std::unique_ptr<service::DocumentCall> (*)(const service::ServiceContext&);

// Either has a TestContext of its own, or shares one with other sessions.
class SessionHarness {
 public:
  explicit SessionHarness(const service::Limits& limits = {}, double deadline_seconds = 600,
                          MakeCall make_call = service::MakeEmbedCall)
      : SessionHarness(std::make_shared<TestContext>(limits), deadline_seconds, make_call) {}
  SessionHarness(std::shared_ptr<TestContext> test, double deadline_seconds, MakeCall make_call)
      : test_(std::move(test)) {
    session_ = service::StreamSession::Create(
        context(), make_call(context()),
        [this](absl::AnyInvocable<void() &&> job) { jobs_.push_back(std::move(job)); },
        timers().Now() + std::chrono::milliseconds(static_cast<int64_t>(deadline_seconds * 1000)));
  }
  ~SessionHarness() {
    // Whatever happened, an orderly end must be reachable.
    if (!transport_.finished()) session_->OnCancel();
    if (transport_.writing()) WriteDone(false);
    RunJobs();
    while (engine().Complete()) {
    }
    RunJobs();
    LD_CHECK(!started_ || transport_.finished());
    LD_CHECK(test_.use_count() > 1 || context().open_streams == 0);  // of others, maybe
    LD_CHECK(session_.use_count() == 1);                             // nothing holds on to it
  }

  void Start(const absl::Status& admission = absl::OkStatus()) {
    started_ = true;
    session_->Start(&transport_, admission);
  }
  template <typename Request>
  void Message(Request message) {
    transport_.EndRead();
    session_->OnInput(service::TakeInput(std::move(message)));
  }
  void Header(const v1::DocumentHeader& header = {}) {
    v1::EmbedDocumentRequest message;
    *message.mutable_header() = header;
    Message(std::move(message));
  }
  void Header(const v1::EncodeDocumentHeader& header) {
    v1::EncodeDocumentRequest message;
    *message.mutable_header() = header;
    Message(std::move(message));
  }
  void Text(int64_t offset, std::string text) {
    v1::EmbedDocumentRequest message;
    message.mutable_chunk()->set_offset(offset);
    message.mutable_chunk()->set_text(std::move(text));
    Message(std::move(message));
  }
  void Ids(int64_t offset, const std::vector<int32_t>& ids) {
    v1::EmbedDocumentRequest message;
    message.mutable_chunk()->set_offset(offset);
    message.mutable_chunk()->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    Message(std::move(message));
  }
  void Break() {
    v1::EmbedDocumentRequest message;
    message.mutable_passage_break();
    Message(std::move(message));
  }
  // All of it, up to the engine's task.
  template <typename HeaderMessage>
  void Send(const HeaderMessage& header, const std::string& text) {
    Start();
    Header(header);
    Text(0, text);
    HalfClose();
    RunJobs();
  }
  void HalfClose() {
    transport_.EndRead();
    session_->OnReadsEnded();
  }
  void WriteDone(bool ok = true) {
    transport_.EndWrite(ok);
    session_->OnWriteDone(ok);
  }
  bool RunOneJob() {
    if (jobs_.empty()) return false;
    absl::AnyInvocable<void()&&> job = std::move(jobs_.front());
    jobs_.pop_front();
    std::move(job)();
    return true;
  }
  void RunJobs() {
    while (RunOneJob()) {
    }
  }
  // Lets every write succeed and every job run, until nothing moves.
  void Drain() {
    while (true) {
      if (transport_.writing()) {
        WriteDone();
      } else if (!RunOneJob()) {
        return;
      }
    }
  }

  FakeEngine& engine() { return test_->engine; }
  ManualTimers& timers() { return test_->timers; }
  CheckedTransport& transport() { return transport_; }
  service::StreamSession& session() { return *session_; }
  service::ServiceContext& context() { return test_->context; }
  DocumentStore& documents() { return test_->documents; }
  service::Metrics& metrics() { return test_->metrics; }
  size_t num_jobs() const { return jobs_.size(); }

 private:
  const std::shared_ptr<TestContext> test_;
  std::deque<absl::AnyInvocable<void() &&>> jobs_;
  CheckedTransport transport_;
  bool started_ = false;
  std::shared_ptr<service::StreamSession> session_;
};

}  // namespace longdoc::testing
