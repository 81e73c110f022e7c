// EncodeDocument: a StreamSession that puts its document into the store.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/support/session_harness.h"

namespace longdoc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EncodeCallTest : public ::testing::Test {
 protected:
  explicit EncodeCallTest(int64_t budget_bytes = 1 << 20)
      : test_(std::make_shared<TestContext>(service::Limits(), budget_bytes)) {}
  ~EncodeCallTest() override { EXPECT_EQ(test_->context.open_streams, 0); }

  std::unique_ptr<SessionHarness> NewSession() {
    return std::make_unique<SessionHarness>(test_, 600, service::MakeEncodeCall);
  }
  // The whole stream; the status must be OK.
  v1::EncodeDocumentResult Encode(const v1::EncodeDocumentHeader& header, const std::string& text) {
    auto h = NewSession();
    h->Send(header, text);
    return Finish(*h);
  }
  v1::EncodeDocumentResult Finish(SessionHarness& h) {
    test_->engine.Complete();
    h.Drain();
    EXPECT_TRUE(h.transport().finished());
    if (!h.transport().status().ok()) {
      ADD_FAILURE() << h.transport().status();
      return {};
    }
    return h.transport().sent<v1::EncodeDocumentResponse>().back().result();
  }
  std::string RefusalOf(const v1::EncodeDocumentHeader& header, const std::string& text) {
    auto h = NewSession();
    h->Start();
    h->Header(header);
    if (!h->transport().finished()) {
      h->Text(0, text);
      h->HalfClose();
      h->RunJobs();
    }
    if (!h->transport().finished()) return "";
    status_ = h->transport().status();
    return ReasonOf(status_);
  }
  DocumentStoreStats stats() const { return test_->documents.stats(); }

  const std::shared_ptr<TestContext> test_;
  absl::Status status_;  // of the last refusal
};

v1::EncodeDocumentHeader RichHeader() {
  v1::EncodeDocumentHeader header;
  header.mutable_document()->set_document_id("mine");
  header.mutable_document()->add_passages()->set_tokens(3);
  header.mutable_document()->set_token_vectors(true);
  header.set_ttl_seconds(50);
  return header;
}

float FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// bf16 of unit length, in the direction of `expected`.
void ExpectDirection(const uint16_t* bits, const std::vector<float>& expected) {
  double dot = 0, length = 0, norm = 0;
  for (size_t c = 0; c < expected.size(); ++c) {
    const double v = FromBf16(bits[c]);
    dot += v * expected[c];
    length += v * v;
    norm += expected[c] * expected[c];
  }
  EXPECT_NEAR(length, 1, 0.01);
  EXPECT_GT(dot / std::sqrt(length * norm), 0.9999);
}

TEST_F(EncodeCallTest, KeepsWhatScoringNeeds) {
  const v1::EncodeDocumentResult result = Encode(RichHeader(), "the word of the document");
  EXPECT_FALSE(result.reused());
  EXPECT_EQ(result.stats().encoded_tokens(), 7);
  EXPECT_EQ(result.stats().encoded_bytes().end(), 24);
  const v1::Document& document = result.document();
  EXPECT_THAT(document.name(), HasSubstr("documents/test-"));
  EXPECT_EQ(document.document_id(), "mine");
  EXPECT_EQ(document.model(), "fake");
  EXPECT_EQ(document.model_revision(), "r1");
  EXPECT_EQ(document.token_count(), 7);
  EXPECT_EQ(document.passage_count(), 2);
  EXPECT_TRUE(document.has_token_vectors());
  EXPECT_THAT(document.methods(),
              ElementsAre(v1::QUERY_LIKELIHOOD, v1::COSINE, v1::LATE_INTERACTION));
  EXPECT_EQ(document.expire_time().seconds() - document.create_time().seconds(), 50);

  const auto pin = test_->documents.Find(document.name());
  ASSERT_TRUE(pin.ok()) << pin.status();
  const KeptDocument& kept = **pin;
  EXPECT_EQ(kept.tokens(), 7);
  EXPECT_EQ(kept.vector, FakeEngine::ExpectedVector(kept.ids, 0, 7));
  ASSERT_EQ(kept.passages.size(), 2u);
  ASSERT_EQ(kept.passage_vectors.size(), 2u * 16);
  for (size_t p = 0; p < 2; ++p) {
    const TokenSpan tokens = kept.passages[p].tokens;
    ExpectDirection(kept.passage_vectors.data() + 16 * p,
                    FakeEngine::ExpectedVector(kept.ids, tokens.begin, tokens.end));
  }
  ASSERT_NE(kept.token_vectors, nullptr);
  ASSERT_EQ(kept.token_vectors->tokens, 7);
  ASSERT_EQ(kept.token_vectors->dimensions, 16);
  for (int64_t t = 0; t < 7; ++t) {
    ExpectDirection(kept.token_vectors->data() + 16 * t,
                    FakeEngine::ExpectedVector(kept.ids, t, t + 1));
  }
  ASSERT_NE(kept.cross_kv, nullptr);
  EXPECT_EQ(kept.cross_kv->tokens, 7);

  EXPECT_EQ(document.bytes_held(), kept.bytes());
  EXPECT_EQ(stats().held.total(), kept.bytes());
  EXPECT_EQ(stats().reserved_bytes, 0);
  EXPECT_EQ(stats().pinned_documents, 1) << "ours; the stream's own is gone";
}

TEST_F(EncodeCallTest, TheSameContentIsNotEncodedAgainHoweverItIsCut) {
  const v1::EncodeDocumentResult first = Encode(RichHeader(), "the word of the document");
  auto h = NewSession();
  v1::EncodeDocumentHeader header = RichHeader();
  // What does not change the encoded document does not matter.
  header.mutable_document()->set_document_id("another");
  header.mutable_document()->set_declared_bytes(24);
  header.mutable_document()->set_progress_interval_seconds(2);
  header.set_ttl_seconds(500);
  h->Start();
  h->Header(header);
  h->Text(0, "the wo");
  h->Text(6, "");
  h->Text(6, "rd of the document");
  h->HalfClose();
  h->RunJobs();
  EXPECT_EQ(test_->engine.num_tasks(), 0u);
  const v1::EncodeDocumentResult second = Finish(*h);
  EXPECT_TRUE(second.reused());
  EXPECT_EQ(second.document().name(), first.document().name());
  EXPECT_EQ(second.document().document_id(), "mine");
  EXPECT_EQ(second.stats().input_tokens(), 7);
  EXPECT_EQ(second.stats().encoded_tokens(), 0);
  EXPECT_EQ(second.document().expire_time().seconds() - second.document().create_time().seconds(),
            500);
  EXPECT_EQ(stats().documents, 1);
  EXPECT_EQ(stats().reused, 1);
}

TEST_F(EncodeCallTest, WhatChangesTheEncodedDocumentMakesAnother) {
  const std::string text = "the word of the document";
  std::vector<v1::EncodeDocumentHeader> headers(6, RichHeader());
  headers[1].mutable_document()->mutable_passages(0)->set_tokens(4);
  headers[2].mutable_document()->add_passages()->mutable_sentences();
  headers[3].mutable_document()->set_token_vectors(false);
  headers[4].mutable_document()->mutable_attention()->mutable_exact();
  headers[5].mutable_document()->set_overflow(v1::OVERFLOW_TRUNCATE_END);
  for (const auto& header : headers) EXPECT_FALSE(Encode(header, text).reused());
  EXPECT_FALSE(Encode(RichHeader(), text + ".").reused());
  auto h = NewSession();
  h->Start();
  h->Header(RichHeader());
  const auto ids = test_->documents.Find(Encode(RichHeader(), text).document().name());
  ASSERT_TRUE(ids.ok());
  h->Ids(0, (*ids)->ids);
  h->HalfClose();
  h->RunJobs();
  EXPECT_FALSE(Finish(*h).reused()) << "the ids have no positions in a text";
  EXPECT_EQ(stats().documents, 8);
}

TEST_F(EncodeCallTest, RefusesWhatMakesNoSense) {
  v1::EncodeDocumentHeader header;
  header.mutable_document()->mutable_vector();
  EXPECT_EQ(RefusalOf(header, "the"), "INVALID_OPTION");
  header = {};
  header.mutable_document()->set_omit_document_vector(true);
  header.mutable_document()->set_token_vectors(true);
  EXPECT_EQ(RefusalOf(header, "the"), "INVALID_OPTION");
  for (const double ttl : {0.0, -1.0, 1e9, std::nan(""), HUGE_VAL}) {
    header = {};
    header.set_ttl_seconds(ttl);
    EXPECT_EQ(RefusalOf(header, "the"), "INVALID_TTL") << ttl;
  }
  header = {};
  header.mutable_document()->set_model("other");
  EXPECT_EQ(RefusalOf(header, "the"), "UNKNOWN_MODEL");
  EXPECT_EQ(RefusalOf({}, " "), "EMPTY_DOCUMENT");
}

TEST_F(EncodeCallTest, TwoAtOnceWithTheSameContentBecomeOne) {
  auto first = NewSession(), second = NewSession();
  first->Send(RichHeader(), "the word");
  second->Send(RichHeader(), "the word");
  EXPECT_EQ(test_->engine.num_tasks(), 2u);
  const int64_t reserved = stats().reserved_bytes;
  EXPECT_GT(reserved, 0);
  const std::string name = Finish(*first).document().name();
  EXPECT_EQ(stats().reserved_bytes, reserved / 2);
  EXPECT_EQ(Finish(*second).document().name(), name);
  EXPECT_EQ(stats().documents, 1);
  EXPECT_EQ(stats().reserved_bytes, 0);
}

TEST_F(EncodeCallTest, CancelAtEveryStageGivesTheRoomBack) {
  for (int stage = 0; stage < 6; ++stage) {
    auto h = NewSession();
    h->Start();
    if (stage > 0) h->Header(RichHeader());
    if (stage > 1) h->Text(0, "the word");
    if (stage > 2) {
      h->HalfClose();
      h->RunJobs();
      EXPECT_GT(stats().reserved_bytes, 0);
    }
    if (stage > 3) test_->engine.Complete();
    if (stage > 4) h->RunJobs();  // it is in the store, the answer is being written
    h->session().OnCancel();
    h->RunJobs();  // the strand may still have to let go
    EXPECT_EQ(stats().reserved_bytes, 0) << stage;
    if (h->transport().writing()) h->WriteDone(false);
    ASSERT_TRUE(h->transport().finished());
    EXPECT_EQ(h->transport().status().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(stats().documents, stage > 4 ? 1 : 0) << stage;
    EXPECT_EQ(stats().pinned_documents, 0) << stage;
    while (test_->engine.Complete()) {
    }
  }
}

TEST_F(EncodeCallTest, FailedEncodesKeepNothing) {
  auto h = NewSession();
  h->Send(RichHeader(), "the word");
  test_->engine.Complete(absl::InternalError("values are not finite"));
  h->RunJobs();
  ASSERT_TRUE(h->transport().finished());
  EXPECT_EQ(h->transport().status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(stats().documents, 0);
  EXPECT_EQ(stats().reserved_bytes, 0);
}

TEST_F(EncodeCallTest, ProgressComesInTheResponsesOfThisCall) {
  auto h = NewSession();
  v1::EncodeDocumentHeader header;
  header.mutable_document()->set_progress_interval_seconds(1);
  h->Send(header, "the word");
  h->timers().Advance(1.01);
  h->WriteDone();
  EXPECT_EQ(h->transport().sent<v1::EncodeDocumentResponse>().back().progress().stage(),
            v1::Progress::STAGE_QUEUED);
  Finish(*h);
}

// 3,000 bytes: room for one of the documents below, not for two.
class SmallStoreTest : public EncodeCallTest {
 protected:
  SmallStoreTest() : EncodeCallTest(3000) {}
  static std::string Words(int count, const std::string& word) {
    std::string text;
    for (int i = 0; i < count; ++i) text += word + " ";
    return text;
  }
};

TEST_F(SmallStoreTest, MakesRoomAndRefusesWhatNeverFits) {
  v1::EncodeDocumentHeader header;
  header.mutable_document()->set_token_vectors(true);
  const auto first = Encode(header, Words(40, "the")).document();
  EXPECT_GT(first.bytes_held(), 1500);
  const auto second = Encode(header, Words(40, "of")).document();
  EXPECT_EQ(ReasonOf(test_->documents.Find(first.name()).status()), "DOCUMENT_EVICTED");
  EXPECT_TRUE(test_->documents.Find(second.name()).ok());

  EXPECT_EQ(RefusalOf(header, Words(90, "to")), "DOCUMENT_BUDGET_EXCEEDED");
  EXPECT_EQ(status_.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status_.message()), HasSubstr("3000"));
  EXPECT_LT(RetryDelaySecondsOf(status_), 0);
  EXPECT_EQ(stats().evicted, 1) << "nothing was evicted for it";

  header.mutable_document()->set_declared_tokens(92);
  auto h = NewSession();
  h->Start();
  h->Header(header);
  ASSERT_TRUE(h->transport().finished()) << "before the content";
  EXPECT_EQ(ReasonOf(h->transport().status()), "DOCUMENT_BUDGET_EXCEEDED");

  // While all is in use, a retry may help.
  header.mutable_document()->clear_declared_tokens();
  const auto pin = test_->documents.Find(second.name());
  EXPECT_EQ(RefusalOf(header, Words(40, "and")), "DOCUMENT_BUDGET_EXCEEDED");
  EXPECT_GT(RetryDelaySecondsOf(status_), 0);
  EXPECT_EQ(stats().held.total(), second.bytes_held());
}

}  // namespace
}  // namespace longdoc::testing
