#include "service/generate_job.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/error_reason.h"
#include "tests/support/job_queue.h"
#include "tests/support/score_harness.h"

namespace longdoc::testing {
namespace {

// Aborts when the job breaks the rules of gRPC's reactors.
class CheckedWriter final : public service::GenerateTransport {
 public:
  void StartWrite(const v1::GenerateTextResponse& response) override {
    LD_CHECK(!writing && !status);
    writing = true;
    sent.push_back(response);
  }
  void Finish(const absl::Status& final) override {
    LD_CHECK(!writing && !status);
    status = final;
  }
  void Abort() override {
    LD_CHECK(writing && !status);
    aborted = true;
  }
  bool writing = false, aborted = false;
  std::vector<v1::GenerateTextResponse> sent;
  std::optional<absl::Status> status;
};

class GenerateJobTest : public ::testing::Test {
 protected:
  GenerateJobTest() { request_.set_document(Keep(test_, "the long document")); }
  ~GenerateJobTest() override {
    if (job_ == nullptr) return;
    if (!writer_.status) job_->OnCancel();
    if (writer_.writing) WriteDone(false);
    RunJobs();
    while (test_.engine.Complete()) {
    }
    EXPECT_TRUE(writer_.status.has_value());
    EXPECT_EQ(job_.use_count(), 1);
    job_.reset();
    EXPECT_EQ(test_.documents.stats().pinned_documents, 0);
  }
  void Start() {
    job_ = service::GenerateJob::Create(test_.context, jobs_.executor(),
                                        test_.timers.Now() + std::chrono::minutes(5), request_);
    job_->Start(&writer_, absl::OkStatus());
    RunJobs();
  }
  void RunJobs() { jobs_.Run(); }
  void WriteDone(bool ok = true) {
    writer_.writing = false;
    job_->OnWriteDone(ok);
  }
  void Drain() {
    while (writer_.writing) WriteDone();
  }
  std::string Refusal() {
    writer_ = {};
    Start();
    return writer_.status ? ReasonOf(*writer_.status) : "";
  }

  TestContext test_;
  JobQueue jobs_;
  v1::GenerateTextRequest request_;
  CheckedWriter writer_;
  std::shared_ptr<service::GenerateJob> job_;
};

TEST_F(GenerateJobTest, StreamsTokensThenTheSummary) {
  request_.mutable_prompt()->set_text("the words");  // the fake engine repeats it
  request_.set_max_new_tokens(3);
  Start();
  ASSERT_EQ(test_.engine.num_tasks(), 1u);
  EXPECT_EQ(test_.documents.stats().pinned_documents, 1);
  test_.engine.Complete();
  EXPECT_EQ(writer_.sent.size(), 1u) << "one write at a time";
  Drain();
  ASSERT_EQ(writer_.sent.size(), 4u);
  std::string text;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(writer_.sent[i].has_token());
    text += writer_.sent[i].token().text();
    EXPECT_EQ(writer_.sent[i].token().log_probability(),
              FakeEngine::ExpectedLogProb(writer_.sent[i].token().id(), i));
  }
  EXPECT_EQ(text, " the words") << "the word and its continuation";
  const v1::GenerateSummary& summary = writer_.sent[3].summary();
  EXPECT_EQ(summary.finish_reason(), v1::GenerateSummary::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(summary.generated_tokens(), 3);
  EXPECT_EQ(summary.prompt_tokens(), 3);
  EXPECT_EQ(summary.model(), "fake");
  ASSERT_TRUE(writer_.status.has_value());
  EXPECT_TRUE(writer_.status->ok());
}

TEST_F(GenerateJobTest, APromptMayBeEmptyAndTheDefaultFitsTheModel) {
  Start();
  test_.engine.Complete();
  Drain();
  EXPECT_EQ(writer_.sent.size(), 33u) << "32 positions, and the summary";
  EXPECT_EQ(writer_.sent.back().summary().prompt_tokens(), 0);
}

TEST_F(GenerateJobTest, OptionsAreChecked) {
  v1::Sampling& sampling = *request_.mutable_sampling();
  for (float bad : {-1.0f, 101.0f, std::numeric_limits<float>::quiet_NaN()}) {
    sampling.set_temperature(bad);
    EXPECT_EQ(Refusal(), "INVALID_SAMPLING");
  }
  sampling.set_temperature(0);
  for (float bad : {0.0f, 1.5f, std::numeric_limits<float>::quiet_NaN()}) {
    sampling.set_top_p(bad);
    EXPECT_EQ(Refusal(), "INVALID_SAMPLING");
  }
  sampling.set_top_p(0.5f);
  sampling.set_top_k(-1);
  EXPECT_EQ(Refusal(), "INVALID_SAMPLING");
  sampling.set_top_k(0);
  request_.set_max_new_tokens(-1);
  EXPECT_EQ(Refusal(), "INVALID_OPTION");
  request_.set_max_new_tokens(33);
  EXPECT_EQ(Refusal(), "TOO_MANY_TOKENS");
  request_.set_max_new_tokens(0);
  request_.mutable_prompt()->set_text(std::string(80, '.'));
  EXPECT_EQ(Refusal(), "TOO_MANY_TOKENS");
  request_.mutable_prompt()->set_text("\xff");
  EXPECT_EQ(Refusal(), "INVALID_UTF8");
  request_.mutable_prompt()->set_text("");
  ASSERT_TRUE(test_.documents.Delete(request_.document()).ok());
  EXPECT_EQ(Refusal(), "DOCUMENT_DELETED");
  EXPECT_EQ(test_.documents.stats().pinned_documents, 0);
}

TEST_F(GenerateJobTest, ADocumentWithoutDecoderCannotBeContinued) {
  KeptDocument kept;
  kept.model = test_.engine.model();
  kept.ids = {1, 2};
  auto pin =
      test_.documents.Add(std::string(32, 'o'), std::move(kept), absl::ZeroDuration(), nullptr);
  ASSERT_TRUE(pin.ok());
  request_.set_document(pin->name());
  *pin = {};
  EXPECT_EQ(Refusal(), "METHOD_NOT_SUPPORTED");
}

TEST_F(GenerateJobTest, CancellingStopsTheDecoder) {
  Start();
  const auto token = test_.engine.first_token();
  ASSERT_NE(token, nullptr);
  job_->OnCancel();
  ASSERT_TRUE(writer_.status.has_value());
  EXPECT_EQ(ReasonOf(*writer_.status), "CANCELLED");
  EXPECT_TRUE(token->cancelled());
}

TEST_F(GenerateJobTest, ACancelWaitsForTheOutstandingWrite) {
  Start();
  test_.engine.Complete();
  ASSERT_TRUE(writer_.writing);
  job_->OnCancel();
  EXPECT_FALSE(writer_.status.has_value());
  WriteDone(false);
  ASSERT_TRUE(writer_.status.has_value());
  EXPECT_EQ(ReasonOf(*writer_.status), "CANCELLED");
  EXPECT_EQ(writer_.sent.size(), 1u);
}

TEST_F(GenerateJobTest, AClientThatDoesNotReadIsDropped) {
  Start();
  test_.engine.Complete();
  ASSERT_TRUE(writer_.writing);
  test_.timers.Advance(61);
  EXPECT_TRUE(writer_.aborted);
  EXPECT_FALSE(writer_.status.has_value());
  WriteDone(false);
  EXPECT_EQ(ReasonOf(*writer_.status), "READ_STALLED");
}

TEST_F(GenerateJobTest, FailuresOfTheEngineAreTheCalls) {
  Start();
  test_.engine.Complete(WithReason(absl::UnavailableError("stopping"), "DRAINING"));
  ASSERT_TRUE(writer_.status.has_value());
  EXPECT_EQ(ReasonOf(*writer_.status), "DRAINING");
  EXPECT_TRUE(writer_.sent.empty());
}

}  // namespace
}  // namespace longdoc::testing
