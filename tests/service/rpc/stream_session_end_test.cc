// What ends a stream before its answer: silence, deadlines, cancels, faults of the engine.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engine/base/error_reason.h"
#include "tests/support/session_harness.h"

namespace longdoc::testing {
namespace {

using service::Limits;

TEST(StreamSession, IdleClientIsDroppedButNotAWaitingOne) {
  Limits limits;
  limits.idle_timeout = absl::Seconds(30);
  SessionHarness h(limits);
  v1::DocumentHeader header;
  header.set_progress_interval_seconds(3600);
  h.Start();
  h.timers().Advance(29);
  h.Header(header);
  h.timers().Advance(29);
  EXPECT_FALSE(h.transport().finished()) << "a message came meanwhile";
  h.timers().Advance(2);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(h.transport().status()), "IDLE_TIMEOUT");

  SessionHarness waiting(limits);
  waiting.Send(header, "the word");
  waiting.timers().Advance(100);  // the engine is slow; that is not the client's fault
  EXPECT_FALSE(waiting.transport().finished());
}

TEST(StreamSession, DeadlineIsTheClientsOrTheServersWhicheverIsSooner) {
  Limits limits;
  limits.idle_timeout = absl::Hours(10);
  limits.max_deadline = absl::Seconds(100);
  for (const double client : {50.0, 5000.0}) {
    SessionHarness h(limits, client);
    v1::DocumentHeader header;
    header.set_progress_interval_seconds(3600);
    h.Send(header, "the word");
    const double deadline = std::min(client, 100.0);
    h.timers().Advance(deadline - 1);
    ASSERT_FALSE(h.transport().finished());
    EXPECT_FALSE(h.engine().first_token()->cancelled());
    h.timers().Advance(1.5);
    ASSERT_TRUE(h.transport().finished());
    EXPECT_EQ(ReasonOf(h.transport().status()), "DEADLINE_EXCEEDED");
    EXPECT_TRUE(h.engine().first_token()->cancelled());
  }
}

TEST(StreamSession, ClientThatReadsNothingIsCutOff) {
  Limits limits;
  limits.idle_timeout = absl::Seconds(30);
  SessionHarness h(limits);
  h.Send(v1::DocumentHeader(), "the word");
  h.engine().Complete();
  h.RunJobs();
  ASSERT_TRUE(h.transport().writing());
  h.timers().Advance(61);
  EXPECT_TRUE(h.transport().aborted());
  EXPECT_FALSE(h.transport().finished()) << "a write is outstanding";
  h.WriteDone(false);
  ASSERT_TRUE(h.transport().finished());
  EXPECT_EQ(ReasonOf(h.transport().status()), "READ_STALLED");
}

TEST(StreamSession, CancelAtEveryStageLetsGoOfEverything) {
  for (int stage = 0; stage < 8; ++stage) {
    SessionHarness h;
    v1::DocumentHeader header;
    header.add_passages()->set_tokens(2);
    header.set_token_vectors(true);
    h.Start();
    if (stage > 0) h.Header(header);
    if (stage > 1) h.Text(0, std::string(200'000, 'a'));
    if (stage > 2) h.RunOneJob();  // in the middle of the chunk
    if (stage > 3) {
      h.HalfClose();
      h.RunJobs();
    }
    if (stage > 4) h.engine().Progress(0.5);
    const auto token = h.engine().first_token();
    if (stage > 5) h.engine().Complete();
    if (stage > 6) h.RunJobs();  // the first frame is being written
    h.session().OnCancel();
    if (h.transport().writing()) h.WriteDone(false);
    ASSERT_TRUE(h.transport().finished()) << stage;
    EXPECT_EQ(h.transport().status().code(), absl::StatusCode::kCancelled) << stage;
    if (token != nullptr) {
      EXPECT_TRUE(token->cancelled()) << stage;
    }
    EXPECT_EQ(h.context().open_streams, 0) << stage;
    h.session().OnCancel();  // late events do nothing
    h.session().OnReadsEnded();
    h.session().OnTimer();
  }  // the harness checks that nothing holds on to the session
}

TEST(StreamSession, VectorsAreDroppedWithTheCancelledRequest) {
  SessionHarness h;
  v1::DocumentHeader header;
  header.set_token_vectors(true);
  h.Send(header, "the word");
  auto owner = std::make_shared<int>(0);
  std::weak_ptr<const void> alive = owner;
  h.engine().set_next_owner(std::move(owner));
  h.engine().Complete();
  h.RunJobs();
  ASSERT_FALSE(alive.expired());
  h.session().OnCancel();
  EXPECT_TRUE(alive.expired()) << "before the outstanding write ends";
  h.WriteDone(false);
}

TEST(StreamSession, EngineFailuresArePassedOn) {
  SessionHarness refused;
  refused.engine().set_submit_status(
      WithRetryDelay(WithReason(absl::ResourceExhaustedError("queue is full"), "QUEUE_FULL"), 2.5));
  refused.Send(v1::DocumentHeader(), "the word");
  ASSERT_TRUE(refused.transport().finished());
  EXPECT_EQ(ReasonOf(refused.transport().status()), "QUEUE_FULL");
  EXPECT_EQ(RetryDelaySecondsOf(refused.transport().status()), 2.5);

  SessionHarness failed;
  failed.Send(v1::DocumentHeader(), "the word");
  failed.engine().Complete(absl::InternalError("values are not finite"));
  ASSERT_TRUE(failed.transport().finished());
  EXPECT_EQ(failed.transport().status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace longdoc::testing
