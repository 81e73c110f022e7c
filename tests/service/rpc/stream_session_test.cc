#include "service/stream_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/support/session_harness.h"

namespace longdoc::testing {
namespace {

using service::Limits;

v1::EmbedDocumentResult ResultOf(SessionHarness& harness) {
  return harness.transport().sent().back().result();
}

TEST(StreamSession, WholeDocument) {
  SessionHarness h;
  v1::DocumentHeader header;
  header.set_document_id("d");
  h.Send(header, "the word of the document");
  ASSERT_EQ(h.engine().num_tasks(), 1u);
  EXPECT_EQ(h.context().open_streams, 1);
  h.engine().Complete();
  h.Drain();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_TRUE(h.transport().status().ok()) << h.transport().status();
  const v1::EmbedDocumentResult result = ResultOf(h);
  EXPECT_EQ(result.document_id(), "d");
  EXPECT_EQ(result.model(), "fake");
  EXPECT_EQ(result.stats().encoded_tokens(), 7);  // five words, [CLS] and [SEP]
  EXPECT_EQ(result.vector().data().size(), 64u);
  EXPECT_EQ(h.context().open_streams, 0);
  EXPECT_EQ(h.session().details().tokens, 7);
  EXPECT_EQ(h.session().details().bytes, 24);
  EXPECT_EQ(h.timers().size(), 0u) << "a finished stream leaves no timer";
}

TEST(StreamSession, RefusesBeforeTheFirstReadWhenItMust) {
  {
    SessionHarness h;
    h.context().draining = true;
    h.Start();
    ASSERT_TRUE(h.transport().finished());
    EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReasonOf(h.transport().status()), "DRAINING");
    EXPECT_FALSE(h.transport().reading());
  }
  {
    SessionHarness h;
    h.Start(WithReason(absl::UnauthenticatedError("no token"), "UNAUTHENTICATED"));
    EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kUnauthenticated);
  }
  {
    Limits limits;
    limits.max_streams = 2;
    SessionHarness h(limits);
    h.context().open_streams = 2;
    h.Start();
    EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(h.transport().status()), "TOO_MANY_STREAMS");
    EXPECT_GT(RetryDelaySecondsOf(h.transport().status()), 0);
    EXPECT_EQ(h.context().open_streams, 2);
    h.context().open_streams = 0;
  }
}

struct HeaderCase {
  const char* name;
  void (*change)(v1::DocumentHeader& header);
  absl::StatusCode code;
  const char* reason;
};

class RefusedHeader : public ::testing::TestWithParam<HeaderCase> {};

TEST_P(RefusedHeader, EndsTheStreamBeforeTheBody) {
  Limits limits;
  limits.document.max_tokens = 100'000;
  SessionHarness h(limits);
  h.engine().set_memory_budget(50'000'000);  // 50,000 tokens
  h.Start();
  v1::DocumentHeader header;
  GetParam().change(header);
  h.Header(header);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(h.transport().status().code(), GetParam().code) << h.transport().status();
  EXPECT_EQ(ReasonOf(h.transport().status()), GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(
    Headers, RefusedHeader,
    ::testing::Values(
        HeaderCase{"model", [](v1::DocumentHeader& h) { h.set_model("other"); },
                   absl::StatusCode::kNotFound, "UNKNOWN_MODEL"},
        HeaderCase{"tokens", [](v1::DocumentHeader& h) { h.set_declared_tokens(100'001); },
                   absl::StatusCode::kInvalidArgument, "TOO_MANY_TOKENS"},
        HeaderCase{"memory", [](v1::DocumentHeader& h) { h.set_declared_tokens(60'000); },
                   absl::StatusCode::kResourceExhausted, "DOCUMENT_EXCEEDS_MEMORY"},
        HeaderCase{"bytes", [](v1::DocumentHeader& h) { h.set_declared_bytes(65 << 20); },
                   absl::StatusCode::kInvalidArgument, "DOCUMENT_TOO_LARGE"},
        HeaderCase{"empty", [](v1::DocumentHeader& h) { h.set_declared_bytes(0); },
                   absl::StatusCode::kInvalidArgument, "EMPTY_DOCUMENT"},
        HeaderCase{"dimensions",
                   [](v1::DocumentHeader& h) { h.mutable_vector()->set_dimensions(17); },
                   absl::StatusCode::kInvalidArgument, "INVALID_DIMENSIONS"}),
    [](const ::testing::TestParamInfo<HeaderCase>& info) { return std::string(info.param.name); });

TEST(StreamSession, FaultsInTheContentEndTheStreamWhereTheyAreFound) {
  const struct {
    std::vector<std::string> chunks;
    const char* reason;
  } kCases[] = {{{"ok \xff rest"}, "INVALID_UTF8"},
                {{"half \xc3"}, "INVALID_UTF8"},  // known at the end only
                {{"   \n "}, "EMPTY_DOCUMENT"},
                {{}, "EMPTY_DOCUMENT"}};
  for (const auto& c : kCases) {
    SessionHarness h;
    h.Start();
    h.Header();
    int64_t offset = 0;
    for (const std::string& chunk : c.chunks) {
      h.Text(offset, chunk);
      offset += static_cast<int64_t>(chunk.size());
    }
    h.RunJobs();
    if (!h.transport().finished()) {
      h.HalfClose();
      h.RunJobs();
    }
    ASSERT_TRUE(h.transport().finished()) << c.reason;
    EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(h.transport().status()), c.reason);
    EXPECT_EQ(h.engine().num_tasks(), 0u);
  }
}

TEST(StreamSession, InvalidUtf8NamesTheByte) {
  SessionHarness h;
  h.Start();
  h.Header();
  h.Text(0, "0123456789");
  h.Text(10, "ab\xff");
  h.RunJobs();
  EXPECT_THAT(std::string(h.transport().status().message()), ::testing::HasSubstr("12"));
}

TEST(StreamSession, IdsOutsideTheVocabularyAreFoundWhileTheyArrive) {
  SessionHarness h;
  h.Start();
  h.Header();
  h.Ids(0, {1, 2, 3});
  h.Ids(3, {4, 1'000'000});
  h.RunJobs();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "TOKEN_OUT_OF_VOCABULARY");
  EXPECT_THAT(std::string(h.transport().status().message()), ::testing::HasSubstr("position 4"));
}

TEST(StreamSession, TooManyTokensAreRefusedWhileTheDocumentStillArrives) {
  Limits limits;
  limits.document.max_tokens = 50;
  SessionHarness h(limits);
  h.Start();
  h.Header();
  std::string text;
  for (int i = 0; i < 60; ++i) text += "word ";
  h.Text(0, text);
  h.RunJobs();
  ASSERT_TRUE(h.transport().finished()) << "without waiting for the half-close";
  EXPECT_EQ(ReasonOf(h.transport().status()), "TOO_MANY_TOKENS");
}

TEST(StreamSession, MemoryIsRefusedWhileTheDocumentStillArrives) {
  SessionHarness h;
  h.engine().set_memory_budget(6'000'000);  // 6,000 tokens
  h.Start();
  h.Header();
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "word ";
  h.Text(0, text);
  h.RunJobs();
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "DOCUMENT_EXCEEDS_MEMORY");
}

TEST(StreamSession, TruncationIsReported) {
  Limits limits;
  limits.document.max_tokens = 10;
  SessionHarness h(limits);
  v1::DocumentHeader header;
  header.set_overflow(v1::OVERFLOW_TRUNCATE_END);
  h.Send(header, "the of and to in the of and to in the of and to in");
  h.engine().Complete();
  h.Drain();
  const v1::EncodeStats stats = ResultOf(h).stats();
  EXPECT_TRUE(stats.truncated());
  EXPECT_EQ(stats.encoded_tokens(), 10);
  EXPECT_EQ(stats.input_tokens(), 17);
  EXPECT_EQ(stats.encoded_bytes().end(), 27);
}

TEST(StreamSession, StopsReadingAtTheHighWatermarkAndResumesAtTheLow) {
  Limits limits;
  limits.read_high_watermark_bytes = 300'000;
  SessionHarness h(limits);
  h.Start();
  h.Header();
  const std::string chunk(100'000, ' ');
  h.Text(0, chunk);
  ASSERT_TRUE(h.transport().reading());
  h.Text(100'000, chunk);
  ASSERT_TRUE(h.transport().reading());
  h.Text(200'000, chunk);
  EXPECT_FALSE(h.transport().reading()) << "300,000 bytes wait";
  int slices = 0;
  while (!h.transport().reading() && h.RunOneJob()) ++slices;
  EXPECT_TRUE(h.transport().reading());
  // Slices of 64 KiB: 65,536 + 34,464 + 65,536 bytes are less than 150,000 to go.
  EXPECT_GE(slices, 2);
  EXPECT_LE(slices, 3);
}

TEST(StreamSession, ProgressTellsTheStageAndNeverPilesUp) {
  SessionHarness h;
  v1::DocumentHeader header;
  header.set_progress_interval_seconds(1);
  h.Start();
  h.Header(header);
  h.Text(0, "the word");
  h.RunJobs();
  EXPECT_FALSE(h.transport().writing());
  h.timers().Advance(1.01);
  ASSERT_TRUE(h.transport().writing());
  h.timers().Advance(5);  // the client reads nothing: one message stays under way
  h.WriteDone();
  h.WriteDone();  // what fell due meanwhile is one message
  EXPECT_FALSE(h.transport().writing());
  const v1::Progress receiving = h.transport().sent()[0].progress();
  EXPECT_EQ(receiving.stage(), v1::Progress::STAGE_RECEIVING);
  EXPECT_EQ(receiving.bytes_received(), 8);
  h.HalfClose();
  h.RunJobs();
  h.timers().Advance(1.01);
  h.WriteDone();
  EXPECT_EQ(h.transport().sent().back().progress().stage(), v1::Progress::STAGE_QUEUED);
  h.engine().Progress(0.0);
  h.timers().Advance(1.01);
  h.WriteDone();
  h.engine().Progress(0.5);
  h.timers().Advance(1.01);
  h.WriteDone();
  const v1::Progress half = h.transport().sent().back().progress();
  EXPECT_EQ(half.stage(), v1::Progress::STAGE_ENCODING);
  EXPECT_EQ(half.fraction_encoded(), 0.5);
  EXPECT_NEAR(half.expected_seconds_left(), 2, 0.1) << "half of it took two seconds";
  h.engine().Complete();
  h.Drain();
  EXPECT_TRUE(h.transport().status().ok());
}

TEST(StreamSession, BreaksMakePassages) {
  SessionHarness h;
  v1::DocumentHeader header;
  header.add_passages()->mutable_breaks();
  h.Start();
  h.Header(header);
  h.Text(0, "the word ");
  h.Break();
  h.Text(9, "of a document");
  h.HalfClose();
  h.RunJobs();
  h.engine().Complete();
  h.Drain();
  ASSERT_TRUE(h.transport().status().ok()) << h.transport().status();
  ASSERT_EQ(h.transport().sent().size(), 2u);
  const v1::PassageVectors passages = h.transport().sent()[0].passages();
  ASSERT_EQ(passages.passages_size(), 2);
  EXPECT_EQ(passages.passages(0).bytes().begin(), 0);
  EXPECT_EQ(passages.passages(1).bytes().end(), 22);
}

TEST(StreamSession, BuildsOneFrameAheadAndNoMore) {
  Limits limits;
  limits.max_frame_bytes = 1;  // one vector a frame
  SessionHarness h(limits);
  v1::DocumentHeader header;
  header.add_passages()->set_tokens(1);
  h.Send(header, "the of and to in");
  h.engine().Complete();
  h.RunJobs();
  ASSERT_TRUE(h.transport().writing());
  EXPECT_EQ(h.num_jobs(), 0u) << "waits for the client with one frame ready";
  size_t frames = 0;
  while (h.transport().writing()) {
    h.WriteDone();
    ++frames;
    h.RunJobs();
  }
  EXPECT_EQ(frames, 6u);  // five passages, then the result
  EXPECT_TRUE(h.transport().status().ok());
}

}  // namespace
}  // namespace longdoc::testing
