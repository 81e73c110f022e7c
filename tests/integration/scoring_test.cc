// ScoringService over loopback, with the real engine and small random models.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "tests/integration/scoring_client.h"

namespace longdoc::testing {
namespace {

using ::testing::ElementsAre;

const std::vector<v1::ScoringMethod> kDecoderMethods = {v1::QUERY_LIKELIHOOD, v1::COSINE,
                                                        v1::LATE_INTERACTION};
const std::vector<v1::ScoringMethod> kVectorMethods = {v1::COSINE, v1::LATE_INTERACTION};

// With every method of a longdoc-CoLT5 model.
class ScoringTest : public ::testing::Test {
 protected:
  std::string Keep(const std::string& text) {
    v1::Document document;
    const CallStatus status = KeepText(*harness_, text, &document);
    EXPECT_TRUE(status.ok()) << status.reason << " " << status.status.error_message();
    return document.name();
  }
  std::vector<std::string> Candidates(int count) {
    std::vector<std::string> candidates;
    for (int i = 0; i < count; ++i) candidates.push_back(SampleText(1 + i % 7, 500 + i));
    return candidates;
  }
  DocumentStoreStats StoreStats() { return harness_->server().context().documents.stats(); }

  const std::unique_ptr<RpcHarness> harness_ =
      RpcHarness::WithEngine({}, {}, /*preset=*/"colt5-tiny");
};

void ExpectClose(const v1::CandidateScore& a, const v1::CandidateScore& b, double tolerance) {
  ASSERT_EQ(a.status().code(), 0) << a.status().message();
  ASSERT_EQ(b.status().code(), 0) << b.status().message();
  ASSERT_EQ(a.scores_size(), b.scores_size());
  for (int i = 0; i < a.scores_size(); ++i) {
    EXPECT_EQ(a.scores(i).method(), b.scores(i).method());
    EXPECT_NEAR(a.scores(i).score(), b.scores(i).score(), tolerance)
        << v1::ScoringMethod_Name(a.scores(i).method());
    EXPECT_NEAR(a.scores(i).likelihood().sum(), b.scores(i).likelihood().sum(), 20 * tolerance);
  }
}

TEST_F(ScoringTest, EveryMethodAnswersAndInlineEqualsKept) {
  const std::string text = SampleText(300, 1);
  const std::string name = Keep(text);
  const std::vector<std::string> candidates = Candidates(5);
  v1::ScoreHeader header = NamedHeader(name, kDecoderMethods);
  header.set_token_log_probabilities(true);
  header.set_best_passages(2);
  const ScoreAnswer kept = ScoreTexts(*harness_, header, "", candidates);
  ASSERT_TRUE(kept.ok()) << kept.reason << " " << kept.status.error_message();
  ASSERT_TRUE(kept.has_summary);
  ASSERT_EQ(kept.scores.size(), 5u);
  EXPECT_EQ(kept.summary.candidate_count(), 5);
  EXPECT_EQ(kept.summary.failed_count(), 0);
  EXPECT_EQ(kept.summary.document(), name);
  for (size_t i = 0; i < kept.scores.size(); ++i) {
    const v1::CandidateScore& score = kept.scores[i];
    EXPECT_EQ(score.id(), std::to_string(i));
    ASSERT_EQ(score.scores_size(), 3);
    const v1::Likelihood& likelihood = score.scores(0).likelihood();
    EXPECT_LT(likelihood.sum(), 0);
    EXPECT_NEAR(likelihood.mean() * static_cast<double>(likelihood.token_count()), likelihood.sum(),
                1e-9);
    ASSERT_EQ(likelihood.token_log_probabilities_size(), likelihood.token_count());
    ASSERT_EQ(likelihood.token_ids_size(), likelihood.token_count());
    double sum = 0;
    for (float p : likelihood.token_log_probabilities()) sum += p;
    EXPECT_NEAR(sum, likelihood.sum(), 1e-4);
    for (int m : {1, 2}) {
      EXPECT_LE(std::fabs(score.scores(m).score()), 1.01);
      ASSERT_EQ(score.scores(m).passages_size(), 2);
      const v1::PassageScore& best = score.scores(m).passages(0);
      EXPECT_GE(best.score(), score.scores(m).passages(1).score());
      EXPECT_LT(best.tokens().begin(), best.tokens().end());
      EXPECT_LE(best.bytes().end(), static_cast<int64_t>(text.size()));
    }
    // Every token of the document is in some passage.
    EXPECT_LE(score.scores(2).passages(0).score(), score.scores(2).score() + 1e-6);
  }

  header = InlineHeader(kDecoderMethods);
  header.set_token_log_probabilities(true);
  header.set_best_passages(2);
  const ScoreAnswer sent = ScoreTexts(*harness_, header, text, candidates);
  ASSERT_TRUE(sent.ok()) << sent.reason << " " << sent.status.error_message();
  ASSERT_EQ(sent.scores.size(), 5u);
  for (size_t i = 0; i < 5; ++i) ExpectClose(kept.scores[i], sent.scores[i], 1e-6);
  EXPECT_GT(sent.summary.stats().encoded_tokens(), 300);
  EXPECT_TRUE(harness_->WaitUntilIdle());
  EXPECT_EQ(StoreStats().pinned_documents, 0);
}

TEST_F(ScoringTest, ManyPiecesOfAnInlineDocumentChangeNoBit) {
  const std::string text = SampleText(120, 2);
  v1::ScoreHeader header = InlineHeader(kDecoderMethods);
  const ScoreAnswer first = ScoreTexts(*harness_, header, text, {"the word"});
  const ScoreAnswer second = ScoreTexts(*harness_, header, text, {"the word"});
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first.scores[0].SerializeAsString(), second.scores[0].SerializeAsString());
}

TEST_F(ScoringTest, OrderAndCompanyOfCandidatesChangeNoScore) {
  const std::string name = Keep(SampleText(200, 3));
  const std::vector<std::string> candidates = Candidates(40);
  const v1::ScoreHeader header = NamedHeader(name, kDecoderMethods);
  const ScoreAnswer together = ScoreTexts(*harness_, header, "", candidates);
  std::vector<std::string> reversed(candidates.rbegin(), candidates.rend());
  const ScoreAnswer backwards = ScoreTexts(*harness_, header, "", reversed);
  ASSERT_TRUE(together.ok() && backwards.ok());
  ASSERT_EQ(together.scores.size(), 40u);
  ASSERT_EQ(backwards.scores.size(), 40u);
  for (size_t i = 0; i < 40; ++i) {
    ExpectClose(together.scores[i], backwards.scores[39 - i], 1e-5);
    if (i % 8 != 0) continue;
    const ScoreAnswer alone = ScoreTexts(*harness_, header, "", {candidates[i]});
    ASSERT_TRUE(alone.ok());
    ExpectClose(together.scores[i], alone.scores[0], 1e-5);
  }
}

TEST_F(ScoringTest, FaultsOfCandidatesAreItemStatuses) {
  const std::string name = Keep(SampleText(50, 4));
  const ScoreAnswer answer =
      ScoreTexts(*harness_, NamedHeader(name, {}), "", {"good", "\xff", "", "fine"});
  ASSERT_TRUE(answer.ok());
  ASSERT_EQ(answer.scores.size(), 4u);
  EXPECT_EQ(answer.scores[0].status().code(), 0);
  EXPECT_EQ(answer.scores[0].scores(0).method(), v1::QUERY_LIKELIHOOD) << "the default";
  EXPECT_EQ(answer.scores[1].status().reason(), "INVALID_UTF8");
  EXPECT_EQ(answer.scores[2].status().reason(), "EMPTY_CANDIDATE");
  EXPECT_EQ(answer.scores[3].status().code(), 0);
  EXPECT_EQ(answer.summary.failed_count(), 2);
}

TEST_F(ScoringTest, BadStreamsAreRefusedWithTheirReason) {
  const std::string name = Keep(SampleText(50, 5));
  const auto reason = [this](const v1::ScoreHeader& header, const std::string& text,
                             const std::vector<std::string>& candidates) {
    return ScoreTexts(*harness_, header, text, candidates).reason;
  };
  EXPECT_EQ(reason(NamedHeader(name, {}), "", {}), "NO_CANDIDATES");
  EXPECT_EQ(reason(NamedHeader(name, {v1::CROSS_ENCODER}), "", {"a"}), "METHOD_NOT_SUPPORTED");
  EXPECT_EQ(reason(InlineHeader({}), "", {"a"}), "EMPTY_DOCUMENT");
  EXPECT_EQ(reason(InlineHeader({}), "\xff\xff", {"a"}), "INVALID_UTF8");
  EXPECT_EQ(reason(NamedHeader("what", {}), "", {"a"}), "INVALID_DOCUMENT_NAME");
  const auto other = RpcHarness::WithEngine({}, {}, "colt5-tiny");
  const ScoreAnswer foreign = ScoreTexts(*other, NamedHeader(name, {}), "", {"a"});
  EXPECT_EQ(foreign.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(foreign.reason, "DOCUMENT_FOREIGN");
  grpc::ClientContext context;
  v1::DeleteDocumentRequest request;
  v1::DeleteDocumentResponse response;
  request.set_name(name);
  ASSERT_TRUE(harness_->documents().DeleteDocument(&context, request, &response).ok());
  EXPECT_EQ(reason(NamedHeader(name, {}), "", {"a"}), "DOCUMENT_DELETED");
}

TEST_F(ScoringTest, CancellingWhileScoringLetsGoOfTheDocument) {
  const std::string name = Keep(SampleText(400, 6));
  grpc::ClientContext context;
  auto stream = harness_->scoring().ScoreCandidates(&context);
  v1::ScoreCandidatesRequest request;
  *request.mutable_header() = NamedHeader(name, kDecoderMethods);
  ASSERT_TRUE(stream->Write(request));
  for (const std::string& text : Candidates(50)) {
    request.mutable_candidate()->set_text(text);
    ASSERT_TRUE(stream->Write(request));
  }
  v1::ScoreCandidatesResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(StoreStats().pinned_documents, 1);
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitFor([this] { return StoreStats().pinned_documents == 0; }));
  EXPECT_TRUE(harness_->WaitUntilIdle());
}

TEST_F(ScoringTest, RanksKeptDocumentsAndTexts) {
  const std::string first = Keep(SampleText(80, 7)), second = Keep(SampleText(60, 8));
  for (v1::ScoringMethod method : kDecoderMethods) {
    v1::RankDocumentsRequest request;
    request.mutable_query()->set_text("the long word");
    request.add_documents()->set_name(first);
    request.add_documents()->mutable_text()->set_text(SampleText(60, 8));
    request.add_documents()->set_name("documents/nothing");
    request.add_documents()->set_name(second);
    request.set_method(method);
    grpc::ClientContext context;
    v1::RankDocumentsResponse response;
    const grpc::Status status = harness_->scoring().RankDocuments(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_EQ(response.items_size(), 3) << v1::ScoringMethod_Name(method);
    ASSERT_EQ(response.failures_size(), 1);
    EXPECT_EQ(response.failures(0).index(), 2);
    EXPECT_EQ(response.method(), method);
    std::vector<double> by_index(4);
    for (int i = 0; i < 3; ++i) {
      by_index[response.items(i).index()] = response.items(i).score().score();
      if (i == 0) continue;
      EXPECT_GE(response.items(i - 1).score().score(), response.items(i).score().score());
    }
    EXPECT_NEAR(by_index[1], by_index[3], 1e-5) << "the same document, sent along and kept";
    const ScoreAnswer alone =
        ScoreTexts(*harness_, NamedHeader(first, {method}), "", {"the long word"});
    ASSERT_TRUE(alone.ok());
    EXPECT_NEAR(by_index[0], alone.scores[0].scores(0).score(), 1e-5);
  }
}

TEST_F(ScoringTest, GeneratedTextIsTheSameForTheSameSeedAndScoredAlike) {
  const std::string name = Keep(SampleText(100, 9));
  v1::GenerateTextRequest request;
  request.set_document(name);
  request.mutable_prompt()->set_text("the");
  request.set_max_new_tokens(12);
  const GenerateAnswer greedy = Generate(*harness_, request);
  ASSERT_TRUE(greedy.ok()) << greedy.reason << " " << greedy.status.error_message();
  ASSERT_TRUE(greedy.has_summary);
  EXPECT_EQ(greedy.summary.prompt_tokens(), 1);
  EXPECT_EQ(greedy.summary.generated_tokens(), static_cast<int64_t>(greedy.tokens.size()));
  EXPECT_EQ(greedy.ids(), Generate(*harness_, request).ids());

  // What was generated has, teacher-forced, the probabilities it was generated with.
  grpc::ClientContext context;
  auto stream = harness_->scoring().ScoreCandidates(&context);
  v1::ScoreCandidatesRequest message;
  *message.mutable_header() = NamedHeader(name, {v1::QUERY_LIKELIHOOD});
  message.mutable_header()->set_token_log_probabilities(true);
  ASSERT_TRUE(stream->Write(message));
  v1::TokenizeRequest tokenize;
  v1::TokenizeResponse tokens;
  tokenize.set_text("the");
  grpc::ClientContext tokenize_context;
  ASSERT_TRUE(harness_->models().Tokenize(&tokenize_context, tokenize, &tokens).ok());
  v1::TokenIds& ids = *message.mutable_candidate()->mutable_token_ids();
  ids.add_ids(tokens.tokens(0).id());
  for (const v1::GeneratedToken& token : greedy.tokens) ids.add_ids(token.id());
  ASSERT_TRUE(stream->Write(message));
  stream->WritesDone();
  v1::ScoreCandidatesResponse response;
  ASSERT_TRUE(stream->Read(&response));
  const v1::Likelihood likelihood = response.score().scores(0).likelihood();
  ASSERT_GE(likelihood.token_log_probabilities_size(), static_cast<int>(greedy.tokens.size()) + 1);
  for (size_t i = 0; i < greedy.tokens.size(); ++i) {
    EXPECT_NEAR(likelihood.token_log_probabilities(static_cast<int>(i) + 1),
                greedy.tokens[i].log_probability(), 1e-4);
  }
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());

  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_seed(7);
  const std::vector<int32_t> sampled = Generate(*harness_, request).ids();
  EXPECT_EQ(sampled, Generate(*harness_, request).ids());
  request.mutable_sampling()->set_seed(8);
  EXPECT_NE(sampled, Generate(*harness_, request).ids());
  request.mutable_sampling()->set_top_p(2);
  EXPECT_EQ(Generate(*harness_, request).reason, "INVALID_SAMPLING");
}

TEST_F(ScoringTest, AGenerationCanBeCancelled) {
  v1::GenerateTextRequest request;
  request.set_document(Keep(SampleText(100, 10)));
  request.set_max_new_tokens(2000);
  request.mutable_sampling()->set_temperature(100);  // hardly ever ends by itself
  grpc::ClientContext context;
  auto stream = harness_->scoring().GenerateText(&context, request);
  v1::GenerateTextResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.has_token());
  context.TryCancel();
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitFor([this] { return StoreStats().pinned_documents == 0; }));
  EXPECT_TRUE(harness_->WaitUntilIdle());
}

TEST(ScoringPressure, ADocumentThatIsBeingScoredIsNotEvicted) {
  // Room for two documents of this size and a half.
  v1::Document document;
  int64_t bytes = 0;
  {
    const auto probe = RpcHarness::WithEngine({}, {}, "colt5-tiny");
    ASSERT_TRUE(KeepText(*probe, SampleText(300, 20), &document).ok());
    bytes = document.bytes_held();
  }
  service::DocumentsConfig config;
  config.budget_bytes = bytes * 5 / 2;
  const auto harness = RpcHarness::WithEngine({}, config, "colt5-tiny");
  ASSERT_TRUE(KeepText(*harness, SampleText(300, 20), &document).ok());
  const std::string name = document.name();
  grpc::ClientContext context;
  auto stream = harness->scoring().ScoreCandidates(&context);
  v1::ScoreCandidatesRequest request;
  *request.mutable_header() = NamedHeader(name, {v1::COSINE});
  ASSERT_TRUE(stream->Write(request));
  request.mutable_candidate()->set_text("word");
  v1::ScoreCandidatesResponse response;
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  const double before = response.score().scores(0).score();
  for (int i = 0; i < 5; ++i) {
    const CallStatus status = KeepText(*harness, SampleText(300, 30 + i), &document);
    EXPECT_TRUE(status.ok()) << status.reason;
  }
  EXPECT_GT(harness->server().context().documents.stats().evicted, 0);
  request.mutable_candidate()->set_text("word");
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_NEAR(response.score().scores(0).score(), before, 1e-6);
  stream->WritesDone();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.has_summary());
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(ScoringModels, AnEmbedderScoresByItsVectors) {
  const auto harness = RpcHarness::WithEngine();  // tiny JinaBERT
  const std::string text = SampleText(200, 11);
  v1::Document document;
  ASSERT_TRUE(KeepText(*harness, text, &document).ok());
  const ScoreAnswer kept =
      ScoreTexts(*harness, NamedHeader(document.name(), kVectorMethods), "", {"the word", "of"});
  const ScoreAnswer sent =
      ScoreTexts(*harness, InlineHeader(kVectorMethods), text, {"the word", "of"});
  ASSERT_TRUE(kept.ok() && sent.ok());
  for (size_t i = 0; i < 2; ++i) ExpectClose(kept.scores[i], sent.scores[i], 1e-6);
  const ScoreAnswer standard = ScoreTexts(*harness, NamedHeader(document.name(), {}), "", {"of"});
  ASSERT_TRUE(standard.ok());
  EXPECT_EQ(standard.scores[0].scores(0).method(), v1::COSINE);
  EXPECT_EQ(
      ScoreTexts(*harness, NamedHeader(document.name(), {v1::QUERY_LIKELIHOOD}), "", {"a"}).reason,
      "METHOD_NOT_SUPPORTED");
  v1::GenerateTextRequest request;
  request.set_document(document.name());
  EXPECT_EQ(Generate(*harness, request).reason, "METHOD_NOT_SUPPORTED");
}

TEST(ScoringModels, ARerankerReadsPairs) {
  const auto harness = RpcHarness::WithEngine({}, {}, "reranker-tiny");
  const std::string text = SampleText(100, 12);
  const ScoreAnswer sent = ScoreTexts(*harness, InlineHeader({}), text, {"the word", "of", ""});
  ASSERT_TRUE(sent.ok()) << sent.reason << " " << sent.status.error_message();
  ASSERT_EQ(sent.scores.size(), 3u);
  for (int i : {0, 1}) {
    ASSERT_EQ(sent.scores[i].scores_size(), 1) << sent.scores[i].status().message();
    const v1::Score& score = sent.scores[i].scores(0);
    EXPECT_EQ(score.method(), v1::CROSS_ENCODER);
    EXPECT_NEAR(score.probability(), 1 / (1 + std::exp(-score.score())), 1e-12);
  }
  EXPECT_NE(sent.scores[0].scores(0).score(), sent.scores[1].scores(0).score());
  EXPECT_EQ(sent.scores[2].status().reason(), "EMPTY_CANDIDATE");
  v1::Document document;
  const CallStatus kept = KeepText(*harness, text, &document);
  ASSERT_TRUE(kept.ok()) << kept.reason << " " << kept.status.error_message();
  const ScoreAnswer again =
      ScoreTexts(*harness, NamedHeader(document.name(), {}), "", {"the word"});
  ASSERT_TRUE(again.ok()) << again.reason;
  ExpectClose(again.scores[0], sent.scores[0], 1e-6);

  v1::RankDocumentsRequest request;
  request.mutable_query()->set_text("the word");
  request.add_documents()->mutable_text()->set_text(SampleText(30, 13));
  request.add_documents()->mutable_text()->set_text(text);
  grpc::ClientContext context;
  v1::RankDocumentsResponse response;
  ASSERT_TRUE(harness->scoring().RankDocuments(&context, request, &response).ok());
  ASSERT_EQ(response.items_size(), 2);
  for (const auto& item : response.items()) {
    if (item.index() == 1) {
      EXPECT_NEAR(item.score().score(), sent.scores[0].scores(0).score(), 1e-5);
    }
  }
}

}  // namespace
}  // namespace longdoc::testing
