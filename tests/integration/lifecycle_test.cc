// Over loopback: cancels, deadlines, stalls, load and drain.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {
namespace {

// A document that keeps two cores busy for a while, however fast they are.
std::string LongText() { return SampleText(60'000, 9); }

// Sends a long document and returns once the engine runs it.
void SendLong(RpcHarness& harness, DocumentCall& call, const v1::DocumentHeader& header) {
  const std::string text = LongText();
  ASSERT_TRUE(call.Header(header));
  for (size_t at = 0; at < text.size(); at += 100'000) {
    ASSERT_TRUE(call.Text(static_cast<int64_t>(at), text.substr(at, 100'000)));
  }
  call.HalfClose();
  ASSERT_TRUE(WaitFor([&] { return harness.engine().stats().running_tasks > 0; }));
}

TEST(Lifecycle, CancelInTheMiddleOfTheForwardPassFreesItsMemory) {
  auto harness = RpcHarness::WithEngine();
  v1::DocumentHeader header;
  header.mutable_attention()->mutable_exact();
  header.set_token_vectors(true);
  DocumentCall call(*harness);
  SendLong(*harness, call, header);
  EXPECT_GT(harness->engine().stats().reserved_bytes, 0);
  call.Cancel();
  double seconds = 0;
  ASSERT_TRUE(harness->WaitUntilIdle(&seconds));
  RecordProperty("seconds_until_memory_was_free", std::to_string(seconds));
  std::printf("memory was free %.0f ms after the cancel\n", seconds * 1000);
  EXPECT_EQ(call.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Lifecycle, ClientDeadlineEndsTheForwardPass) {
  auto harness = RpcHarness::WithEngine();
  v1::DocumentHeader header;
  header.mutable_attention()->mutable_exact();
  DocumentCall call(*harness, /*deadline_seconds=*/0.5);
  const std::string text = LongText();
  call.Header(header);
  for (size_t at = 0; at < text.size(); at += 100'000) {
    if (!call.Text(static_cast<int64_t>(at), text.substr(at, 100'000))) break;
  }
  call.HalfClose();
  EXPECT_EQ(call.Finish().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(harness->WaitUntilIdle());
}

TEST(Lifecycle, ServersDeadlineHasAReason) {
  service::Limits limits;
  limits.max_deadline = absl::Milliseconds(200);
  auto harness = RpcHarness::WithFake(limits);
  DocumentCall call(*harness);
  call.Header({});
  call.Text(0, "the");
  call.HalfClose();
  const DocumentAnswer answer = call.Finish();
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(answer.reason, "DEADLINE_EXCEEDED");
  ASSERT_NE(harness->fake().first_token(), nullptr);
  EXPECT_TRUE(harness->fake().first_token()->cancelled());
  harness->fake().Complete();
}

TEST(Lifecycle, IdleClientIsDropped) {
  service::Limits limits;
  limits.idle_timeout = absl::Milliseconds(200);
  auto harness = RpcHarness::WithFake(limits);
  DocumentCall call(*harness);
  call.Header({});
  call.Text(0, "the");
  const DocumentAnswer answer = call.Finish();  // without half-close
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(answer.reason, "IDLE_TIMEOUT");
  EXPECT_TRUE(harness->WaitUntilIdle());
}

TEST(Lifecycle, SlowReaderGetsEverythingInOrder) {
  service::Limits limits;
  limits.max_frame_bytes = 4096;
  auto harness = RpcHarness::WithEngine(limits);
  v1::DocumentHeader header;
  header.set_token_vectors(true);
  header.add_passages()->set_tokens(8);
  const std::string text = SampleText(3000, 4);
  DocumentCall call(*harness);
  call.Header(header);
  call.Text(0, text);
  call.HalfClose();
  int reads = 0;
  const DocumentAnswer answer = call.Finish([&reads] {
    if (++reads < 100) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.result_was_last);
  EXPECT_LE(answer.largest_frame, 4096u);
  EXPECT_GT(answer.token_frames.size(), 100u);
  int64_t tokens = 0;
  for (const v1::TokenVectors& frame : answer.token_frames) {
    ASSERT_EQ(frame.first_token(), tokens);
    tokens += frame.token_count();
  }
  EXPECT_EQ(tokens, answer.result.stats().encoded_tokens());
  for (size_t i = 0; i < answer.passages.size(); ++i) {
    EXPECT_EQ(answer.passages[i].index(), static_cast<int>(i));
  }
}

TEST(Lifecycle, ClientThatReadsNothingIsCutOffAndFreesItsMemory) {
  service::Limits limits;
  limits.idle_timeout = absl::Milliseconds(500);
  auto harness = RpcHarness::WithEngine(limits);
  v1::DocumentHeader header;
  header.set_token_vectors(true);
  DocumentCall call(*harness);
  call.Header(header);
  call.Text(0, SampleText(12'000, 4));  // 5 MB of vectors do not fit the windows of HTTP/2
  call.HalfClose();
  ASSERT_TRUE(WaitFor([&] { return harness->engine().stats().tokens_encoded > 10'000; }));
  EXPECT_TRUE(harness->WaitUntilIdle());
}

TEST(Lifecycle, ProgressComesWhileTheServerWorks) {
  auto harness = RpcHarness::WithFake();
  v1::DocumentHeader header;
  header.set_progress_interval_seconds(0.05);
  DocumentCall call(*harness);
  call.Header(header);
  call.Text(0, "the word");
  v1::EmbedDocumentResponse response;
  ASSERT_TRUE(call.Read(&response));
  EXPECT_EQ(response.progress().stage(), v1::Progress::STAGE_RECEIVING);
  call.HalfClose();
  ASSERT_TRUE(harness->fake().WaitForTasks(1));
  harness->fake().Progress(0.25);
  do {
    ASSERT_TRUE(call.Read(&response));
  } while (response.progress().stage() != v1::Progress::STAGE_ENCODING);
  EXPECT_EQ(response.progress().fraction_encoded(), 0.25);
  harness->fake().Complete();
  EXPECT_TRUE(call.Finish().status.ok());
}

TEST(Lifecycle, LoadComesWithARetryDelay) {
  auto harness = RpcHarness::WithFake();
  harness->fake().set_submit_status(
      WithRetryDelay(WithReason(absl::ResourceExhaustedError("queue is full"), "QUEUE_FULL"), 2.5));
  const DocumentAnswer answer = EmbedText(*harness, {}, "the");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(answer.reason, "QUEUE_FULL");
  EXPECT_EQ(answer.retry_delay, "2.5");
  EXPECT_EQ(answer.retry_pushback, "2500");
}

TEST(Lifecycle, RefusalForGoodTellsGrpcNotToRetry) {
  auto harness = RpcHarness::WithFake();
  harness->fake().set_submit_status(
      WithReason(absl::ResourceExhaustedError("too large"), "DOCUMENT_EXCEEDS_MEMORY"));
  const DocumentAnswer answer = EmbedText(*harness, {}, "the");
  EXPECT_EQ(answer.reason, "DOCUMENT_EXCEEDS_MEMORY");
  EXPECT_EQ(answer.retry_delay, "");
  EXPECT_EQ(answer.retry_pushback, "-1");
}

TEST(Lifecycle, StreamsAreCounted) {
  service::Limits limits;
  limits.max_streams = 2;
  auto harness = RpcHarness::WithFake(limits);
  DocumentCall first(*harness), second(*harness);
  ASSERT_TRUE(first.Header({}));
  ASSERT_TRUE(second.Header({}));
  ASSERT_TRUE(WaitFor([&] { return harness->server().context().open_streams == 2; }));
  const DocumentAnswer third = EmbedText(*harness, {}, "the");
  EXPECT_EQ(third.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(third.reason, "TOO_MANY_STREAMS");
  EXPECT_FALSE(third.retry_delay.empty());
  first.Cancel();
  first.Finish();
  ASSERT_TRUE(WaitFor([&] { return harness->server().context().open_streams == 1; }));
  std::thread engine([&] {
    if (harness->fake().WaitForTasks(1)) harness->fake().Complete();
  });
  EXPECT_TRUE(EmbedText(*harness, {}, "the").status.ok());
  engine.join();
  second.Cancel();
  second.Finish();
}

TEST(Lifecycle, RequestIdIsEchoedOrMade) {
  auto harness = RpcHarness::WithFake();
  DocumentCall given(*harness, 60, "my-request-7");
  given.HalfClose();
  EXPECT_EQ(given.Finish().request_id, "my-request-7");
  DocumentCall made(*harness);
  made.HalfClose();
  EXPECT_EQ(made.Finish().request_id.size(), 32u);
}

TEST(Lifecycle, DrainFinishesWhatRunsAndRefusesWhatIsNew) {
  auto harness = RpcHarness::WithFake();
  DocumentCall running(*harness);
  running.Header({});
  running.Text(0, "the");
  running.HalfClose();
  ASSERT_TRUE(harness->fake().WaitForTasks(1));
  DocumentCall undecided(*harness);  // open, but no header yet
  ASSERT_TRUE(WaitFor([&] { return harness->server().context().open_streams == 2; }));
  std::thread drain([&] { harness->server().Drain(); });
  ASSERT_TRUE(WaitFor([&] { return harness->server().context().draining.load(); }));
  const DocumentAnswer fresh = EmbedText(*harness, {}, "the");
  EXPECT_EQ(fresh.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(fresh.reason, "DRAINING");
  undecided.Header({});
  EXPECT_EQ(undecided.Finish().reason, "DRAINING");
  harness->fake().Complete();
  EXPECT_TRUE(running.Finish().status.ok());
  drain.join();
}

}  // namespace
}  // namespace longdoc::testing
