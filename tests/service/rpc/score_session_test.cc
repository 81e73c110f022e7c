#include "service/score_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error_reason.h"
#include "engine/similarity.h"
#include "tests/support/score_harness.h"

namespace longdoc::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kText[] = "the long document of words and the end to it all";

class ScoreSessionTest : public ::testing::Test {
 protected:
  v1::ScoreHeader Kept(std::vector<v1::ScoringMethod> methods = {}) {
    if (name_.empty()) name_ = Keep(*test_, kText);
    v1::ScoreHeader header;
    header.set_name(name_);
    for (v1::ScoringMethod method : methods) header.add_methods(method);
    return header;
  }
  static v1::ScoreHeader Inline(std::vector<v1::ScoringMethod> methods = {}) {
    v1::ScoreHeader header;
    header.mutable_inline_()->add_passages()->set_tokens(4);
    for (v1::ScoringMethod method : methods) header.add_methods(method);
    return header;
  }
  std::vector<int32_t> Ids(const std::string& text) {
    return test_->engine.model()->tokenizer().Encode(text, false)->ids;
  }
  double ExpectedSum(const std::string& text) {
    std::vector<int32_t> targets = Ids(text);
    targets.push_back(test_->engine.model()->tokenizer().special().sep);
    double sum = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
      sum += FakeEngine::ExpectedLogProb(targets[i], static_cast<int64_t>(i));
    }
    return sum;
  }
  std::string RefusalOf(const v1::ScoreHeader& header) {
    ScoreHarness h(test_);
    h.Start(header);
    if (!h.transport().finished()) return "";
    message_ = std::string(h.transport().status().message());
    return ReasonOf(h.transport().status());
  }

  const std::shared_ptr<TestContext> test_ = std::make_shared<TestContext>();
  std::string name_, message_;
};

TEST_F(ScoreSessionTest, SendsScoresAsTheyAreReadyAndTheSummaryLast) {
  v1::ScoreHeader header = Kept();
  header.set_token_log_probabilities(true);
  ScoreHarness h(test_);
  h.Start(header);
  h.Candidate("the word", "a");
  h.Candidate("of", "b");
  h.RunJobs();
  ASSERT_EQ(h.engine().num_tasks(), 2u);
  h.engine().CompleteNewest();
  h.Drain();
  ASSERT_EQ(h.scores().size(), 1u);
  EXPECT_EQ(h.scores()[0].index(), 1);
  EXPECT_EQ(h.scores()[0].id(), "b");
  h.HalfClose();
  h.RunAll();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_TRUE(h.transport().status().ok());
  ASSERT_EQ(h.scores().size(), 2u);
  const v1::CandidateScore first = h.scores()[1];
  EXPECT_EQ(first.index(), 0);
  EXPECT_EQ(first.status().code(), 0);
  ASSERT_EQ(first.scores_size(), 1);
  EXPECT_EQ(first.scores(0).method(), v1::QUERY_LIKELIHOOD);
  const v1::Likelihood& likelihood = first.scores(0).likelihood();
  EXPECT_EQ(likelihood.token_count(), 3);
  EXPECT_NEAR(likelihood.sum(), ExpectedSum("the word"), 1e-6);
  EXPECT_NEAR(likelihood.mean(), ExpectedSum("the word") / 3, 1e-6);
  EXPECT_EQ(first.scores(0).score(), likelihood.mean());
  EXPECT_EQ(likelihood.token_log_probabilities_size(), 3);
  EXPECT_EQ(likelihood.token_ids(2), test_->engine.model()->tokenizer().special().sep);
  EXPECT_EQ(h.summary().candidate_count(), 2);
  EXPECT_EQ(h.summary().failed_count(), 0);
  EXPECT_EQ(h.summary().document(), name_);
  EXPECT_EQ(h.summary().model(), "fake");
}

TEST_F(ScoreSessionTest, InlineScoresAreThoseOfTheKeptDocument) {
  const std::vector<v1::ScoringMethod> methods = {v1::COSINE, v1::QUERY_LIKELIHOOD,
                                                  v1::LATE_INTERACTION};
  std::string bytes[2];
  for (bool inline_document : {false, true}) {
    v1::ScoreHeader header = inline_document ? Inline(methods) : Kept(methods);
    header.set_best_passages(3);
    ScoreHarness h(test_);
    h.Start(header);
    if (inline_document) {
      h.Text(0, std::string(kText).substr(0, 7));
      h.Text(7, std::string(kText).substr(7));
      h.DocumentEnd();
    }
    for (const char* candidate : {"the word", "long document", "all of it"}) {
      h.Candidate(candidate);
    }
    h.HalfClose();
    h.RunAll();
    ASSERT_TRUE(h.transport().finished());
    ASSERT_TRUE(h.transport().status().ok()) << h.transport().status();
    ASSERT_EQ(h.scores().size(), 3u);
    for (const v1::CandidateScore& score : h.scores()) {
      bytes[inline_document] += score.SerializeAsString();
      ASSERT_EQ(score.scores_size(), 3);
      EXPECT_EQ(score.scores(0).method(), v1::COSINE);
      EXPECT_EQ(score.scores(0).passages_size(), 3);
      EXPECT_EQ(score.scores(2).method(), v1::LATE_INTERACTION);
      EXPECT_EQ(score.scores(2).passages_size(), 3);
      EXPECT_GE(score.scores(2).passages(0).score(), score.scores(2).passages(1).score());
      EXPECT_LE(score.scores(2).passages(0).score(), score.scores(2).score() + 1e-6);
    }
    EXPECT_EQ(h.summary().document().empty(), inline_document);
    EXPECT_EQ(h.summary().has_stats(), inline_document);
    if (inline_document) {
      EXPECT_GT(h.summary().stats().encoded_tokens(), 5);
      EXPECT_EQ(h.summary().stats().encoded_bytes().end(),
                static_cast<int64_t>(std::string(kText).size()));
    }
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST_F(ScoreSessionTest, CosineIsThatOfTheVectors) {
  ScoreHarness h(test_);
  h.Start(Kept({v1::COSINE}));
  h.Candidate("long words");
  h.HalfClose();
  h.RunAll();
  ASSERT_EQ(h.scores().size(), 1u);
  const auto candidate = test_->engine.model()->tokenizer().Encode("long words", true)->ids;
  const auto document = test_->engine.model()->tokenizer().Encode(kText, true)->ids;
  const auto vector = [](const std::vector<int32_t>& ids) {
    return FakeEngine::ExpectedVector(ids, 0, static_cast<int64_t>(ids.size()));
  };
  EXPECT_NEAR(h.scores()[0].scores(0).score(),
              CosineSimilarity(vector(candidate), vector(document)), 1e-6);
  ASSERT_EQ(h.scores()[0].scores(0).passages_size(), 1);  // the default
  EXPECT_LT(h.scores()[0].scores(0).passages(0).bytes().begin(),
            h.scores()[0].scores(0).passages(0).bytes().end());
}

TEST_F(ScoreSessionTest, FaultsOfCandidatesAreTheirOwn) {
  ScoreHarness h(test_);
  h.Start(Kept());
  h.Candidate("\xff");
  h.Candidate("");
  h.Candidate("  ");
  h.CandidateIds(std::vector<int32_t>(32, 7));  // with [SEP] one too many for the decoder
  h.CandidateIds({1, 99999});
  h.Candidate("word", std::string(257, 'x'));
  h.Candidate(std::string(65537, 'a'));
  h.Message([] {
    v1::ScoreCandidatesRequest message;
    message.mutable_candidate()->set_id("nothing");
    return message;
  }());
  h.CandidateIds(std::vector<int32_t>(31, 7));
  h.HalfClose();
  h.RunAll();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_TRUE(h.transport().status().ok());
  std::vector<std::string> reasons(9);
  for (const v1::CandidateScore& score : h.scores()) {
    reasons[score.index()] = score.status().reason();
    EXPECT_EQ(score.status().code() == 0, score.scores_size() == 1);
  }
  EXPECT_THAT(reasons, ::testing::ElementsAre("INVALID_UTF8", "EMPTY_CANDIDATE", "EMPTY_CANDIDATE",
                                              "CANDIDATE_TOO_LONG", "TOKEN_OUT_OF_VOCABULARY",
                                              "INVALID_CANDIDATE_ID", "TEXT_TOO_LARGE",
                                              "EMPTY_CANDIDATE", ""));
  EXPECT_EQ(h.summary().candidate_count(), 9);
  EXPECT_EQ(h.summary().failed_count(), 8);
}

TEST_F(ScoreSessionTest, HeadersAreCheckedWhenTheyArrive) {
  EXPECT_EQ(RefusalOf({}), "MISSING_DOCUMENT");
  v1::ScoreHeader header;
  header.set_name("nonsense");
  EXPECT_EQ(RefusalOf(header), "INVALID_DOCUMENT_NAME");
  EXPECT_EQ(RefusalOf(Kept({v1::CROSS_ENCODER})), "METHOD_NOT_SUPPORTED");
  EXPECT_THAT(message_, HasSubstr("QUERY_LIKELIHOOD, COSINE, LATE_INTERACTION"));
  EXPECT_EQ(RefusalOf(Inline({v1::CROSS_ENCODER})), "METHOD_NOT_SUPPORTED");
  EXPECT_EQ(RefusalOf(Kept({v1::COSINE, v1::COSINE})), "INVALID_OPTION");
  EXPECT_EQ(RefusalOf(Kept({static_cast<v1::ScoringMethod>(17)})), "INVALID_OPTION");
  for (int count : {-1, 65}) {
    header = Kept();
    header.set_best_passages(count);
    EXPECT_EQ(RefusalOf(header), "INVALID_OPTION");
  }
  header = Inline();
  header.mutable_inline_()->set_token_vectors(true);
  EXPECT_EQ(RefusalOf(header), "INVALID_OPTION");
  header = Inline();
  header.mutable_inline_()->set_model("other");
  EXPECT_EQ(RefusalOf(header), "UNKNOWN_MODEL");
  const std::string without = Keep(*test_, "no token vectors here", /*token_vectors=*/false);
  header.set_name(without);
  header.add_methods(v1::LATE_INTERACTION);
  EXPECT_EQ(RefusalOf(header), "METHOD_NOT_SUPPORTED");
  ASSERT_TRUE(test_->documents.Delete(without).ok());
  EXPECT_EQ(RefusalOf(header), "DOCUMENT_DELETED");
  EXPECT_EQ(RefusalOf(Kept()), "");
}

TEST_F(ScoreSessionTest, CandidatesWaitForTheDocument) {
  ScoreHarness h(test_);
  h.Start(Inline());
  h.Text(0, kText);
  h.DocumentEnd();
  h.Candidate("word");
  h.Candidate("\xff");  // told at once
  h.RunJobs();
  EXPECT_EQ(h.engine().num_tasks(), 1u) << "the document only";
  h.engine().Progress(0.5);
  test_->timers.Advance(0.6);
  h.Drain();
  const auto sent = h.transport().sent<v1::ScoreCandidatesResponse>();
  ASSERT_EQ(sent.size(), 2u);
  EXPECT_EQ(sent[0].score().status().reason(), "INVALID_UTF8");
  EXPECT_EQ(sent[1].progress().stage(), v1::Progress::STAGE_ENCODING);
  EXPECT_EQ(sent[1].progress().fraction_encoded(), 0.5);
  for (int i = 0; i < 8; ++i) {
    test_->timers.Advance(5);  // not the client's fault
    h.Drain();
  }
  EXPECT_FALSE(h.transport().finished());
  h.engine().Complete();
  h.Drain();
  EXPECT_EQ(h.engine().num_tasks(), 1u) << "the candidate";
  ASSERT_FALSE(h.transport().finished());
  h.HalfClose();
  h.RunAll();
  EXPECT_TRUE(h.transport().status().ok());
  EXPECT_EQ(h.scores().size(), 2u);
}

TEST_F(ScoreSessionTest, FewAreWithTheEngineAtOnce) {
  ScoreHarness h(test_);
  h.Start(Kept());
  constexpr size_t kMany = 300;
  for (size_t i = 0; i < kMany; ++i) h.Candidate("word");
  h.RunJobs();
  EXPECT_EQ(h.engine().num_tasks(), static_cast<size_t>(service::ScoreSession::kMaxInFlight));
  h.HalfClose();
  h.RunAll();
  EXPECT_TRUE(h.transport().status().ok());
  EXPECT_EQ(h.scores().size(), kMany);
}

TEST_F(ScoreSessionTest, AFullQueueIsWaitedFor) {
  ScoreHarness h(test_);
  h.Start(Kept());
  test_->engine.set_submit_status(
      WithRetryDelay(WithReason(absl::ResourceExhaustedError("full"), "QUEUE_FULL"), 0.5));
  h.Candidate("word");
  h.Candidate("of");
  h.HalfClose();
  h.RunAll();
  EXPECT_TRUE(h.scores().empty());
  test_->timers.Advance(0.4);
  h.RunAll();
  EXPECT_EQ(h.engine().num_tasks(), 0u);
  test_->engine.set_submit_status(absl::OkStatus());
  test_->timers.Advance(0.2);
  h.RunAll();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(h.scores().size(), 2u);
  EXPECT_EQ(h.scores()[0].index(), 0);
}

TEST_F(ScoreSessionTest, TheEnginesEndIsTheStreams) {
  ScoreHarness h(test_);
  h.Start(Kept());
  h.Candidate("word");
  h.Candidate("of");
  h.RunJobs();
  h.engine().Complete(absl::InternalError("not finite"));  // of one candidate
  h.Drain();
  ASSERT_EQ(h.scores().size(), 1u);
  EXPECT_EQ(h.scores()[0].status().code(), static_cast<int>(absl::StatusCode::kInternal));
  h.engine().Complete(WithReason(absl::UnavailableError("stopping"), "DRAINING"));
  h.Drain();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "DRAINING");
}

TEST_F(ScoreSessionTest, CancellingLetsGoOfTheDocumentOnceTheEngineHas) {
  const v1::ScoreHeader header = Kept();
  ScoreHarness h(test_);
  h.Start(header);
  EXPECT_EQ(test_->documents.stats().pinned_documents, 1);
  h.Candidate("word");
  h.RunJobs();
  ASSERT_NE(h.engine().first_token(), nullptr);
  ASSERT_TRUE(test_->documents.Delete(name_).ok());
  EXPECT_GT(test_->documents.stats().held.total(), 0) << "in use";
  h.session().OnCancel();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "CANCELLED");
  EXPECT_TRUE(h.engine().first_token()->cancelled());
  h.engine().Complete();
  EXPECT_EQ(test_->documents.stats().held.total(), 0);
}

TEST_F(ScoreSessionTest, AnIdleClientIsDroppedWhenItIsItsTurn) {
  ScoreHarness h(test_);
  h.Start(Kept());
  h.Candidate("word");
  h.RunJobs();
  test_->timers.Advance(100);
  EXPECT_FALSE(h.transport().finished()) << "it waits for its score";
  h.engine().Complete();
  h.Drain();
  test_->timers.Advance(25);
  EXPECT_FALSE(h.transport().finished());
  test_->timers.Advance(10);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "IDLE_TIMEOUT");
}

TEST_F(ScoreSessionTest, AClientThatDoesNotReadIsDropped) {
  ScoreHarness h(test_);
  h.Start(Kept());
  h.Candidate("word");
  h.RunJobs();
  h.engine().Complete();
  ASSERT_TRUE(h.transport().writing());
  test_->timers.Advance(61);
  EXPECT_TRUE(h.transport().aborted());
  h.WriteDone(false);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "READ_STALLED");
}

TEST_F(ScoreSessionTest, MalformedMessagesAreNamed) {
  ScoreHarness h(test_);
  h.Start(Kept());
  h.transport().EndRead();
  h.session().OnMalformedMessage("ScoreCandidatesRequest");
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "MALFORMED_MESSAGE");
}

TEST_F(ScoreSessionTest, DeadlineEndsIt) {
  const v1::ScoreHeader header = Kept();
  ScoreHarness h(test_, /*deadline_seconds=*/5);
  h.Start(header);
  h.Candidate("word");
  h.RunJobs();
  test_->timers.Advance(6);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "DEADLINE_EXCEEDED");
}

}  // namespace
}  // namespace longdoc::testing
