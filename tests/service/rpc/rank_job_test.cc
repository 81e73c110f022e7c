#include "service/rank_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/support/job_queue.h"
#include "tests/support/score_harness.h"

namespace longdoc::testing {
namespace {

using ::testing::ElementsAre;

class RankJobTest : public ::testing::Test {
 protected:
  ~RankJobTest() override {
    RunAll();
    job_.reset();
    EXPECT_EQ(test_.documents.stats().pinned_documents, 0);
  }
  void AddText(const std::string& text) {
    request_.add_documents()->mutable_text()->set_text(text);
  }
  void Start() {
    job_ = service::RankJob::Create(
        test_.context, jobs_.executor(), std::chrono::steady_clock::now() + std::chrono::minutes(5),
        v1::RankDocumentsRequest(request_), &response_, [this](const absl::Status& status) {
          EXPECT_FALSE(status_.has_value()) << "twice";
          status_ = status;
        });
    job_->Start();
  }
  void RunAll() {
    do {
      jobs_.Run();
    } while (test_.engine.Complete());
  }
  std::string Reason() { return status_ ? ReasonOf(*status_) : "not done"; }
  std::string ReasonOfAll() {
    status_.reset();
    Start();
    RunAll();
    return Reason();
  }
  std::vector<int> Order() const {
    std::vector<int> order;
    for (const auto& item : response_.items()) order.push_back(item.index());
    return order;
  }

  TestContext test_;
  JobQueue jobs_;
  v1::RankDocumentsRequest request_;
  v1::RankDocumentsResponse response_;
  std::optional<absl::Status> status_;
  std::shared_ptr<service::RankJob> job_;
};

TEST_F(RankJobTest, OrdersKeptDocumentsAndTextsByScore) {
  const std::string same = Keep(test_, "long document");
  request_.mutable_query()->set_text("long document");
  request_.set_method(v1::COSINE);
  AddText("to and to");
  AddText("a long document");
  request_.add_documents()->set_name(same);
  AddText("long document");
  Start();
  RunAll();
  ASSERT_EQ(Reason(), "");
  ASSERT_TRUE(status_->ok());
  ASSERT_EQ(response_.items_size(), 4);
  // Two have the query's own vector: equal, so in the order of the request.
  EXPECT_THAT(Order(), ElementsAre(2, 3, 1, 0));
  EXPECT_NEAR(response_.items(0).score().score(), 1, 1e-6);
  EXPECT_EQ(response_.items(0).score().method(), v1::COSINE);
  EXPECT_GE(response_.items(1).score().score(), response_.items(2).score().score());
  EXPECT_EQ(response_.method(), v1::COSINE);
  EXPECT_EQ(response_.model(), "fake");
}

TEST_F(RankJobTest, TopNKeepsTheBest) {
  request_.mutable_query()->set_text("long document");
  request_.set_method(v1::LATE_INTERACTION);
  AddText("to and to");
  AddText("a long document");
  request_.set_top_n(1);
  Start();
  RunAll();
  EXPECT_THAT(Order(), ElementsAre(1));
  EXPECT_EQ(response_.failures_size(), 0);
}

TEST_F(RankJobTest, LikelihoodIsTheDefault) {
  request_.mutable_query()->set_text("word");
  AddText("the document");
  Start();
  RunAll();
  EXPECT_EQ(response_.method(), v1::QUERY_LIKELIHOOD);
  ASSERT_EQ(response_.items_size(), 1);
  EXPECT_EQ(response_.items(0).score().likelihood().token_count(), 2);
}

TEST_F(RankJobTest, FaultyDocumentsAreFailuresOfTheirOwn) {
  request_.mutable_query()->set_text("word");
  request_.set_method(v1::LATE_INTERACTION);
  AddText("\xff");
  request_.add_documents()->set_name("documents/test-unknown");
  request_.add_documents();
  request_.add_documents()->set_name(Keep(test_, "without token vectors", false));
  AddText("good");
  AddText("");
  Start();
  RunAll();
  ASSERT_TRUE(status_.has_value() && status_->ok());
  EXPECT_THAT(Order(), ElementsAre(4));
  ASSERT_EQ(response_.failures_size(), 5);
  std::vector<std::string> reasons;
  for (const auto& failure : response_.failures()) reasons.push_back(failure.status().reason());
  EXPECT_EQ(reasons[0], "INVALID_UTF8");
  EXPECT_EQ(reasons[2], "EMPTY_INPUT");
  EXPECT_EQ(reasons[3], "METHOD_NOT_SUPPORTED");
  EXPECT_EQ(reasons[4], "EMPTY_DOCUMENT");
  EXPECT_EQ(response_.failures(1).index(), 1);
  EXPECT_NE(response_.failures(1).status().code(), 0);
}

TEST_F(RankJobTest, WhatIsWrongWithTheRequestIsItsStatus) {
  request_.mutable_query()->set_text("word");
  EXPECT_EQ(ReasonOfAll(), "NO_DOCUMENTS");
  AddText("a");
  request_.set_top_n(-1);
  EXPECT_EQ(ReasonOfAll(), "INVALID_OPTION");
  request_.set_top_n(0);
  request_.set_method(v1::CROSS_ENCODER);
  EXPECT_EQ(ReasonOfAll(), "METHOD_NOT_SUPPORTED");
  request_.set_method(v1::COSINE);
  request_.set_model("other");
  EXPECT_EQ(ReasonOfAll(), "UNKNOWN_MODEL");
  request_.clear_model();
  request_.mutable_query()->set_text("");
  EXPECT_EQ(ReasonOfAll(), "EMPTY_CANDIDATE");
  request_.mutable_query()->set_text("word");
  for (int i = 0; i < 256; ++i) AddText("a");
  EXPECT_EQ(ReasonOfAll(), "TOO_MANY_DOCUMENTS");
}

TEST_F(RankJobTest, LoadAndCancellationEndTheCall) {
  request_.mutable_query()->set_text("word");
  AddText("a");
  AddText("the");
  test_.engine.set_submit_status(
      WithRetryDelay(WithReason(absl::ResourceExhaustedError("full"), "QUEUE_FULL"), 1));
  EXPECT_EQ(ReasonOfAll(), "QUEUE_FULL");
  test_.engine.set_submit_status(absl::OkStatus());
  status_.reset();
  Start();
  jobs_.Run();
  ASSERT_GT(test_.engine.num_tasks(), 0u);
  job_->Cancel();
  EXPECT_EQ(Reason(), "CANCELLED");
  EXPECT_TRUE(test_.engine.first_token()->cancelled());
}

}  // namespace
}  // namespace longdoc::testing
