// What the harnesses of streamed sessions share: every outside influence in the test's hands: time,
// the executor's jobs, the engine's answers and the transport's completions. One thread, no
// waiting.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/check.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/session_base.h"
#include "tests/support/job_queue.h"
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

// Whoever derives from it makes the session, and ends with EndInOrder.
template <typename Session>
class StreamHarness {
 public:
  void HalfClose() {
    transport_.EndRead();
    session_->OnReadsEnded();
  }
  void WriteDone(bool ok = true) {
    transport_.EndWrite(ok);
    session_->OnWriteDone(ok);
  }
  bool RunOneJob() { return jobs_.RunOne(); }
  void RunJobs() { jobs_.Run(); }
  // Lets every write succeed and every job run, until nothing moves but the engine.
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
  CheckedTransport& transport() { return transport_; }
  Session& session() { return *session_; }

 protected:
  explicit StreamHarness(std::shared_ptr<TestContext> test) : test_(std::move(test)) {}
  ~StreamHarness() = default;

  service::Timers::TimePoint After(double seconds) const {
    return test_->timers.Now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  }
  // Whatever happened, an orderly end must be reachable.
  void EndInOrder() {
    if (!transport_.finished()) session_->OnCancel();
    if (transport_.writing()) WriteDone(false);
    do {
      RunJobs();
    } while (engine().Complete());
    LD_CHECK(!started_ || transport_.finished());
    LD_CHECK(session_.use_count() == 1);  // nothing holds on to it
  }

  const std::shared_ptr<TestContext> test_;
  JobQueue jobs_;
  CheckedTransport transport_;
  bool started_ = false;
  std::shared_ptr<Session> session_;
};

}  // namespace longdoc::testing
