// A ScoreSession with every outside influence in the test's hands, like SessionHarness; and kept
// documents made through the fake engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/document.h"
#include "engine/kept_document.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/score_session.h"
#include "tests/support/stream_harness.h"
#include "tests/support/test_context.h"

namespace longdoc::testing {

// Encodes and keeps a text, with passages of four tokens; returns the document's name.
inline std::string Keep(TestContext& test, const std::string& text, bool token_vectors = true) {
  PassageSpec spec;
  spec.size = 4;
  auto builder =
      DocumentBuilder::Create(test.engine.model()->tokenizer(), {spec}, Overflow::kError, {});
  LD_CHECK(builder.ok() && (*builder)->AppendText(text).ok());
  auto document = (*builder)->Finish();
  LD_CHECK(document.ok());
  EncodeTask task;
  task.model = test.engine.model();
  task.ids = document->ids;
  for (const Passage& passage : document->passages) task.spans.push_back(passage.tokens);
  task.keep_token_vectors = token_vectors;
  task.want_cross_kv = true;
  task.cancellation = std::make_shared<CancellationToken>();
  EncodeResult result;
  task.on_done = [&result](absl::StatusOr<EncodeResult> r) { result = *std::move(r); };
  LD_CHECK(test.engine.Submit(std::move(task)).ok());
  while (test.engine.Complete()) {
  }
  KeptDocument kept =
      KeepEncoded(test.engine.model(), std::move(document->ids), std::move(document->passages),
                  "id of " + text, std::move(result));
  // Keys are hashes; their first bytes become part of the name.
  const std::string key = std::to_string(std::hash<std::string>()(text)) + std::string(32, 'k');
  auto pin = test.documents.Add(key, std::move(kept), absl::ZeroDuration(), nullptr);
  LD_CHECK(pin.ok());
  return pin->name();
}

class ScoreHarness : public StreamHarness<service::ScoreSession> {
 public:
  explicit ScoreHarness(std::shared_ptr<TestContext> test, double deadline_seconds = 600)
      : StreamHarness(std::move(test)) {
    session_ =
        service::ScoreSession::Create(test_->context, jobs_.executor(), After(deadline_seconds));
  }
  ~ScoreHarness() {
    EndInOrder();
    session_.reset();
    LD_CHECK(test_->context.open_streams == 0);
    LD_CHECK(test_->documents.stats().pinned_documents == 0);
  }

  void Start(const v1::ScoreHeader& header) {
    started_ = true;
    session_->Start(&transport_, absl::OkStatus());
    v1::ScoreCandidatesRequest message;
    *message.mutable_header() = header;
    Message(std::move(message));
  }
  void Message(v1::ScoreCandidatesRequest message) {
    transport_.EndRead();
    session_->OnMessage(std::move(message));
  }
  void Text(int64_t offset, const std::string& text) {
    v1::ScoreCandidatesRequest message;
    message.mutable_chunk()->set_offset(offset);
    message.mutable_chunk()->set_text(text);
    Message(std::move(message));
  }
  void DocumentEnd() {
    v1::ScoreCandidatesRequest message;
    message.mutable_document_end();
    Message(std::move(message));
  }
  void Candidate(const std::string& text, const std::string& id = "") {
    v1::ScoreCandidatesRequest message;
    message.mutable_candidate()->set_text(text);
    message.mutable_candidate()->set_id(id);
    Message(std::move(message));
  }
  void CandidateIds(const std::vector<int32_t>& ids) {
    v1::ScoreCandidatesRequest message;
    message.mutable_candidate()->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
    Message(std::move(message));
  }
  // The engine does all its tasks, too.
  void RunAll() {
    do {
      if (transport_.finished()) RunJobs();
      Drain();
    } while (test_->engine.Complete() || !jobs_.empty());
    Drain();
  }

  std::vector<v1::CandidateScore> scores() const {
    std::vector<v1::CandidateScore> scores;
    for (const auto& response : transport_.sent<v1::ScoreCandidatesResponse>()) {
      if (response.has_score()) scores.push_back(response.score());
    }
    return scores;
  }
  // The last message; it must be the summary.
  v1::ScoreSummary summary() const {
    const auto sent = transport_.sent<v1::ScoreCandidatesResponse>();
    LD_CHECK(!sent.empty() && sent.back().has_summary());
    return sent.back().summary();
  }
  TestContext& test() { return *test_; }
};

}  // namespace longdoc::testing
