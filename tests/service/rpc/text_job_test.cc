#include "service/text_job.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/support/job_queue.h"
#include "tests/support/test_context.h"

namespace longdoc::testing {
namespace {

using service::Limits;
using service::TextJob;

class TextJobTest : public ::testing::Test {
 protected:
  explicit TextJobTest(const Limits& limits = SmallLimits()) : test_(limits) {}
  static Limits SmallLimits() {
    Limits limits;
    limits.max_texts = 100;
    limits.max_text_tokens = 10;
    return limits;
  }

  std::shared_ptr<TextJob> Begin(const v1::EmbedTextsRequest& request) {
    auto job = TextJob::Create(
        context_, jobs_.executor(), CancellationToken::Clock::time_point::max(),
        v1::EmbedTextsRequest(request), &response_, [this](const absl::Status& status) {
          EXPECT_FALSE(outcome_.has_value()) << "done twice";
          outcome_ = status;
        });
    job->Start();
    return job;
  }
  void Work() { jobs_.Run(); }
  void Run(const v1::EmbedTextsRequest& request) {
    Begin(request);
    Work();
    while (engine_.Complete()) {
    }
  }
  std::string Reason() const { return outcome_ ? ReasonOf(*outcome_) : "none yet"; }

  TestContext test_;
  FakeEngine& engine_ = test_.engine;
  service::ServiceContext& context_ = test_.context;
  JobQueue jobs_;
  v1::EmbedTextsResponse response_;
  std::optional<absl::Status> outcome_;
};

v1::EmbedTextsRequest Texts(const std::vector<std::string>& texts) {
  v1::EmbedTextsRequest request;
  for (const std::string& text : texts) request.add_inputs()->set_text(text);
  return request;
}

TEST_F(TextJobTest, KeepsOrderAndJudgesEachText) {
  v1::EmbedTextsRequest request = Texts({"the word", "bad \xff", "", "of and to",
                                         "the the the the "
                                         "the the the the the the the"});
  request.add_inputs();  // neither text nor ids
  request.add_inputs()->mutable_token_ids()->add_ids(7);
  request.add_inputs()->mutable_token_ids()->add_ids(1 << 20);
  request.mutable_vector()->set_normalize(false);
  Run(request);
  ASSERT_TRUE(outcome_.has_value());
  ASSERT_TRUE(outcome_->ok()) << *outcome_;
  ASSERT_EQ(response_.items_size(), 8);
  const char* kReasons[] = {
      "", "INVALID_UTF8", "EMPTY_DOCUMENT", "", "TOO_MANY_TOKENS", "EMPTY_INPUT", "", ""};
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(response_.items(i).status().reason(), kReasons[i]) << i;
    EXPECT_EQ(response_.items(i).status().code() == 0, response_.items(i).has_vector()) << i;
  }
  // The vector is that of the text at this place.
  const std::vector<float> expected = FakeEngine::ExpectedVector({7}, 0, 1);
  std::vector<float> got(16);
  std::memcpy(got.data(), response_.items(6).vector().data().data(), 64);
  EXPECT_EQ(got, expected);
  EXPECT_EQ(response_.model(), "fake");
  EXPECT_EQ(response_.items(3).stats().encoded_tokens(), 5);
}

TEST_F(TextJobTest, AllTextsAreSubmittedTogether) {
  Begin(Texts({"the", "of", "and"}));
  EXPECT_EQ(engine_.num_tasks(), 0u) << "tokenized on the pool, not here";
  Work();
  EXPECT_EQ(engine_.num_tasks(), 3u);
  EXPECT_FALSE(outcome_.has_value());
  engine_.Complete();
  engine_.Complete();
  EXPECT_FALSE(outcome_.has_value());
  engine_.Complete();
  EXPECT_TRUE(outcome_->ok());
}

TEST_F(TextJobTest, WholeRequestFaults) {
  const struct {
    v1::EmbedTextsRequest request;
    const char* reason;
  } kCases[] = {
      {Texts({}), "NO_TEXTS"},
      {Texts(std::vector<std::string>(101, "the")), "TOO_MANY_TEXTS"},
      {[] {
         v1::EmbedTextsRequest r = Texts({"the"});
         r.set_model("nope");
         return r;
       }(),
       "UNKNOWN_MODEL"},
      {[] {
         v1::EmbedTextsRequest r = Texts({"the"});
         r.mutable_vector()->set_dimensions(100);
         return r;
       }(),
       "INVALID_DIMENSIONS"},
      {[] {
         v1::EmbedTextsRequest r = Texts({"the"});
         r.mutable_attention()->mutable_window();
         return r;
       }(),
       "INVALID_ATTENTION_POLICY"},
  };
  for (const auto& c : kCases) {
    outcome_.reset();
    response_.Clear();
    Run(c.request);
    EXPECT_EQ(Reason(), c.reason);
    EXPECT_EQ(engine_.num_tasks(), 0u);
  }
  context_.draining = true;
  outcome_.reset();
  Run(Texts({"the"}));
  EXPECT_EQ(Reason(), "DRAINING");
  EXPECT_EQ(outcome_->code(), absl::StatusCode::kUnavailable);
}

TEST_F(TextJobTest, LoadIsTheCallsStatusAndCancelsTheRest) {
  engine_.set_submit_status(
      WithRetryDelay(WithReason(absl::ResourceExhaustedError("full"), "QUEUE_FULL"), 1));
  Run(Texts({"the", "of"}));
  EXPECT_EQ(Reason(), "QUEUE_FULL");
  EXPECT_EQ(RetryDelaySecondsOf(*outcome_), 1);
}

TEST_F(TextJobTest, EngineFailuresStayWithTheirText) {
  Begin(Texts({"the", "of"}));
  Work();
  engine_.Complete(absl::InternalError("values are not finite"));
  engine_.Complete();
  ASSERT_TRUE(outcome_->ok());
  EXPECT_EQ(response_.items(0).status().code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_FALSE(response_.items(0).has_vector());
  EXPECT_TRUE(response_.items(1).has_vector());
}

TEST_F(TextJobTest, CancelEndsAtOnceAndTouchesTheResponseNoMore) {
  for (int stage = 0; stage < 3; ++stage) {
    outcome_.reset();
    response_.Clear();
    std::weak_ptr<TextJob> alive;
    {
      auto job = Begin(Texts({"the", "of"}));
      alive = job;
      if (stage > 0) Work();
      const auto token = engine_.first_token();
      if (stage > 1) engine_.Complete();
      job->Cancel();
      EXPECT_EQ(Reason(), "CANCELLED");
      if (token != nullptr) {
        EXPECT_TRUE(token->cancelled());
      }
      response_.Clear();  // it is gRPC's again
      job->Cancel();
    }
    Work();
    while (engine_.Complete()) {
    }
    EXPECT_EQ(response_.ByteSizeLong(), 0u) << stage;
    EXPECT_TRUE(alive.expired()) << stage;
  }
}

class LargeTextJobTest : public TextJobTest {
 protected:
  LargeTextJobTest() : TextJobTest(LargeLimits()) {}
  static Limits LargeLimits() {
    Limits limits;
    limits.max_texts = 1 << 20;
    return limits;
  }
};

TEST_F(LargeTextJobTest, TooLargeResponsesAreRefusedBeforeTheWork) {
  Run(Texts(std::vector<std::string>(20'000, "the")));
  EXPECT_EQ(Reason(), "RESPONSE_TOO_LARGE");
  EXPECT_EQ(outcome_->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LargeTextJobTest, AcceptedResponsesFitTheClientsDefaultLimit) {
  // As many failing and succeeding texts as are accepted.
  std::vector<std::string> texts;
  for (int i = 0; i < 16'000; ++i) texts.emplace_back(i % 2 == 0 ? "\xff" : "the");
  Run(Texts(texts));
  ASSERT_TRUE(outcome_->ok()) << *outcome_;
  EXPECT_LT(response_.ByteSizeLong(), size_t{4} << 20);
}

}  // namespace
}  // namespace longdoc::testing
