// A StreamSession with every outside influence in the test's hands.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/check.h"
#include "service/stream_session.h"
#include "tests/support/stream_harness.h"
#include "tests/support/test_context.h"

namespace longdoc::testing {

using MakeCall = std::unique_ptr<service::DocumentCall> (*)(const service::ServiceContext&);

// Either has a TestContext of its own, or shares one with other sessions.
class SessionHarness : public StreamHarness<service::StreamSession> {
 public:
  explicit SessionHarness(const service::Limits& limits = {}, double deadline_seconds = 600,
                          MakeCall make_call = service::MakeEmbedCall)
      : SessionHarness(std::make_shared<TestContext>(limits), deadline_seconds, make_call) {}
  SessionHarness(std::shared_ptr<TestContext> test, double deadline_seconds, MakeCall make_call)
      : StreamHarness(std::move(test)) {
    session_ = service::StreamSession::Create(context(), make_call(context()), jobs_.executor(),
                                              After(deadline_seconds));
  }
  ~SessionHarness() {
    EndInOrder();
    LD_CHECK(test_.use_count() > 1 || context().open_streams == 0);  // of others, maybe
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

  ManualTimers& timers() { return test_->timers; }
  service::ServiceContext& context() { return test_->context; }
  DocumentStore& documents() { return test_->documents; }
  service::Metrics& metrics() { return test_->metrics; }
  size_t num_jobs() const { return jobs_.size(); }
};

}  // namespace longdoc::testing
