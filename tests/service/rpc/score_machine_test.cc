#include "service/score_machine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using Write = ScoreActions::Write;

SessionEvent Of(Kind kind, int64_t size = 0) {
  SessionEvent event;
  event.kind = kind;
  event.size = size;
  return event;
}
SessionEvent Text(int64_t offset, int64_t size) {
  SessionEvent event = Of(Kind::kChunk, size);
  event.offset = offset;
  return event;
}
SessionEvent WriteDone(bool ok) {
  SessionEvent event = Of(Kind::kWriteDone);
  event.ok = ok;
  return event;
}
SessionEvent Failing(Kind kind, absl::Status status) {
  SessionEvent event = Of(kind);
  event.status = std::move(status);
  return event;
}

std::string Describe(const ScoreActions& a) {
  std::string out;
  if (a.accept) out += "accept ";
  if (a.paused) out += "paused ";
  if (a.seal) out += "seal ";
  if (a.release) out += "release ";
  if (a.abort) out += "abort ";
  if (a.write == Write::kProgress) out += "progress ";
  if (a.write == Write::kScore) out += "score ";
  if (a.write == Write::kSummary) out += "summary ";
  if (a.start_read) out += "read ";
  if (a.finish) out += "finish:" + (a.finish->ok() ? "OK" : ReasonOf(*a.finish)) + " ";
  if (!out.empty()) out.pop_back();
  return out;
}

const SessionEvent kStart = Of(Kind::kStart);
const SessionEvent kHeader = Of(Kind::kHeader);
const SessionEvent kBreak = Of(Kind::kBreak);
const SessionEvent kDocumentEnd = Of(Kind::kDocumentEnd);
const SessionEvent kCandidate = Of(Kind::kCandidate, 10);
const SessionEvent kEnd = Of(Kind::kReadsEnded);
const SessionEvent kEncoded = Of(Kind::kEncoded);
const SessionEvent kScore = Of(Kind::kScoreReady, 10);
const SessionEvent kProgress = Of(Kind::kProgressDue);
const SessionEvent kCancel = Of(Kind::kCancelled);

constexpr ScoreMachine::Options kSmall = {
    .content_bytes = 100, .waiting_candidates = 4, .waiting_bytes = 1000, .max_candidates = 6};

struct Row {
  const char* name;
  bool inline_document;
  std::vector<std::pair<SessionEvent, std::string>> steps;
};

class ScoreMachineTable : public ::testing::TestWithParam<Row> {};

TEST_P(ScoreMachineTable, GivesTheseActions) {
  ScoreMachine machine(kSmall);
  if (GetParam().inline_document) {
    ContentOrder::Header header;
    header.declared_bytes = 15;
    machine.SetInlineDocument(header);
  }
  size_t i = 0;
  for (const auto& [event, actions] : GetParam().steps) {
    EXPECT_EQ(Describe(machine.Step(event)), actions) << "step " << i;
    ++i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sequences, ScoreMachineTable,
    ::testing::Values(
        Row{"kept_document",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {kCandidate, "accept read"},
             {WriteDone(true), ""},
             {kEnd, ""},
             {kScore, "score"},
             {WriteDone(true), "summary"},
             {WriteDone(true), "release finish:OK"},
             {kCancel, ""}}},
        Row{"inline_document",
            true,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 10), "accept read"},
             {kProgress, "progress"},
             {WriteDone(true), ""},
             {Text(10, 5), "accept read"},
             {kDocumentEnd, "seal read"},
             {kCandidate, "accept read"},
             {kProgress, "progress"},
             {kProgress, ""},
             {kEnd, ""},
             {kEncoded, ""},
             {WriteDone(true), ""},  // no progress once the document is there
             {kScore, "score"},
             {WriteDone(true), "summary"},
             {WriteDone(true), "release finish:OK"}}},
        Row{"scores_wait_for_the_write_before",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kEnd, ""},
             {kScore, "score"},
             {kScore, ""},
             {WriteDone(true), "score"},
             {WriteDone(true), "summary"},
             {WriteDone(true), "release finish:OK"}}},
        Row{"faulty_candidates_do_not_end_it_before_the_document",
            true,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 15), "accept read"},
             {kDocumentEnd, "seal read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {kEnd, ""},
             {WriteDone(true), ""},
             {kEncoded, "summary"},
             {WriteDone(true), "release finish:OK"}}},
        Row{"reading_stops_at_the_watermark_of_candidates",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kCandidate, "accept paused"},
             {kScore, "score"},
             {WriteDone(true), ""},  // three wait: not yet below half
             {kScore, "score"},
             {kScore, ""},
             {WriteDone(true), "score"},
             {WriteDone(true), "read"},
             {kEnd, ""},
             {kScore, "score"},
             {WriteDone(true), "summary"},
             {WriteDone(true), "release finish:OK"}}},
        Row{"and_at_that_of_their_bytes",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {Of(Kind::kCandidate, 1200), "accept paused"},
             {Of(Kind::kScoreReady, 1200), "score"},
             {WriteDone(true), "read"}}},
        Row{"and_at_that_of_content",
            true,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 15), "accept read"},
             {Of(Kind::kConsumed, 15), ""}}},
        Row{"too_many_candidates",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {WriteDone(true), ""},
             {kScore, "score"},
             {WriteDone(true), ""},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {WriteDone(true), ""},
             {kScore, "score"},
             {WriteDone(true), ""},
             {kCandidate, "accept read"},
             {kCandidate, "accept read"},
             {kCandidate, "release finish:TOO_MANY_CANDIDATES"}}},
        Row{"no_candidates",
            false,
            {{kStart, "read"}, {kHeader, "read"}, {kEnd, "release finish:NO_CANDIDATES"}}},
        Row{"no_header", false, {{kStart, "read"}, {kEnd, "release finish:MISSING_HEADER"}}},
        Row{"candidate_before_header",
            false,
            {{kStart, "read"}, {kCandidate, "release finish:CONTENT_BEFORE_HEADER"}}},
        Row{"bad_header",
            false,
            {{kStart, "read"},
             {Failing(Kind::kHeader, WithReason(absl::NotFoundError("x"), "DOCUMENT_EXPIRED")),
              "release finish:DOCUMENT_EXPIRED"}}},
        Row{"second_header",
            false,
            {{kStart, "read"}, {kHeader, "read"}, {kHeader, "release finish:SECOND_HEADER"}}},
        Row{"content_of_a_kept_document",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 1), "release finish:UNEXPECTED_CONTENT"}}},
        Row{"end_of_a_kept_document",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kDocumentEnd, "release finish:UNEXPECTED_CONTENT"}}},
        Row{"candidate_before_document_end",
            true,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 15), "accept read"},
             {kCandidate, "release finish:MISSING_DOCUMENT_END"}}},
        Row{"half_close_before_document_end",
            true,
            {{kStart, "read"}, {kHeader, "read"}, {kEnd, "release finish:MISSING_DOCUMENT_END"}}},
        Row{"declared_size_is_checked",
            true,
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 14), "accept read"},
             {kDocumentEnd, "release finish:DECLARED_SIZE_MISMATCH"}}},
        Row{"breaks_need_to_be_announced",
            true,
            {{kStart, "read"}, {kHeader, "read"}, {kBreak, "release finish:UNEXPECTED_BREAK"}}},
        Row{"empty_message",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {Of(Kind::kEmptyMessage), "release finish:EMPTY_MESSAGE"}}},
        Row{"final_status_waits_for_the_write",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {kCancel, "release"},
             {kScore, ""},
             {WriteDone(true), "finish:CANCELLED"}}},
        Row{"stalled_write_is_aborted_once",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {Of(Kind::kWriteStalled), "release abort"},
             {Of(Kind::kWriteStalled), ""},
             {WriteDone(false), "finish:READ_STALLED"}}},
        Row{"client_gone_while_writing",
            false,
            {{kStart, "read"},
             {kHeader, "read"},
             {kCandidate, "accept read"},
             {kScore, "score"},
             {WriteDone(false), "release finish:CANCELLED"}}}),
    [](const auto& row) { return std::string(row.param.name); });

// Checks the invariants of score_machine.h along one sequence of events.
struct Watched {
  explicit Watched(bool inline_document) {
    if (inline_document) machine.SetInlineDocument({});
  }
  ScoreMachine machine{
      {.content_bytes = 8, .waiting_candidates = 2, .waiting_bytes = 100, .max_candidates = 3}};
  bool reading = false, writing = false, summary_sent = false;
  int64_t accepted = 0, outcomes = 0, content = 0, scores_written = 0;
  int finishes = 0, releases = 0;

  void Step(const SessionEvent& event) {
    const bool was_finished = finishes > 0;
    if (event.kind == Kind::kWriteDone) writing = false;
    if (event.kind == Kind::kScoreReady) ++outcomes;
    switch (event.kind) {
      case Kind::kHeader:
      case Kind::kChunk:
      case Kind::kDocumentEnd:
      case Kind::kCandidate:
      case Kind::kReadsEnded:
        reading = false;
        break;
      default:
        break;
    }
    const ScoreActions a = machine.Step(event);
    if (was_finished) {
      ASSERT_EQ(Describe(a), "") << "after finish";
      return;
    }
    if (a.accept && event.kind == Kind::kCandidate) ++accepted;
    if (a.accept && event.kind == Kind::kChunk) content += event.size;
    if (a.start_read) {
      ASSERT_FALSE(reading) << "two reads";
      reading = true;
      ASSERT_LT(machine.waiting(), 2) << "reads above the watermark";
    }
    if (a.write != Write::kNone) {
      ASSERT_FALSE(writing) << "two writes";
      ASSERT_FALSE(summary_sent) << "something after the summary";
      writing = true;
      scores_written += a.write == Write::kScore;
      summary_sent = a.write == Write::kSummary;
      if (summary_sent) {
        ASSERT_EQ(scores_written, accepted);
      }
    }
    ASSERT_LE(scores_written, outcomes);
    releases += a.release;
    finishes += a.finish.has_value();
    ASSERT_LE(finishes, 1);
    ASSERT_LE(releases, 1);
    if (a.finish) {
      ASSERT_FALSE(writing) << "finish with a write outstanding";
      ASSERT_EQ(releases, 1) << "finish without release";
      ASSERT_FALSE(a.start_read) << "read with finish";
      if (a.finish->ok()) {
        ASSERT_TRUE(summary_sent);
      }
    }
  }
};

// Every order of the events that can come next, `depth` deep.
void Explore(const Watched& at, int depth, int64_t* visited) {
  ++*visited;
  {
    Watched end = at;
    end.Step(kCancel);
    if (end.writing) end.Step(WriteDone(false));
    ASSERT_EQ(end.finishes, 1);
  }
  if (depth == 0) return;
  std::vector<SessionEvent> next = {kCancel,
                                    Of(Kind::kIdleTimeout),
                                    Of(Kind::kWriteStalled),
                                    kProgress,
                                    kEncoded,
                                    Of(Kind::kConsumed, 4),
                                    Failing(Kind::kFault, absl::InternalError("x"))};
  if (at.reading) {
    const ScoreState state = at.machine.state();
    if (state == ScoreState::kAwaitHeader) next.push_back(kHeader);
    if (state == ScoreState::kContent) {
      next.push_back(Text(at.content, 4));
      next.push_back(kDocumentEnd);
    }
    next.push_back(kCandidate);
    next.push_back(kEnd);
  }
  if (at.writing) {
    next.push_back(WriteDone(true));
    next.push_back(WriteDone(false));
  }
  if (at.outcomes < at.accepted) next.push_back(kScore);
  for (const SessionEvent& event : next) {
    Watched after = at;
    after.Step(event);
    if (::testing::Test::HasFatalFailure()) return;
    Explore(after, after.finishes > 0 ? std::min(depth - 1, 1) : depth - 1, visited);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(ScoreMachine, KeepsItsInvariantsUnderEveryInterleaving) {
  struct Prefix {
    bool inline_document;
    std::vector<SessionEvent> events;
  };
  const std::vector<Prefix> kPrefixes = {
      {false, {kStart}},
      {false, {kStart, kHeader, kCandidate, kScore}},
      {false, {kStart, kHeader, kCandidate, kCandidate, kScore, kScore}},
      {true, {kStart, kHeader, Text(0, 4)}},
      {true, {kStart, kHeader, Text(0, 4), kDocumentEnd, kCandidate, kEnd, kEncoded}},
  };
  int64_t visited = 0;
  for (const Prefix& prefix : kPrefixes) {
    Watched watched(prefix.inline_document);
    for (const SessionEvent& event : prefix.events) watched.Step(event);
    ASSERT_FALSE(HasFatalFailure());
    Explore(watched, 6, &visited);
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_GT(visited, 10000);
}

TEST(ScoreMachine, IgnoresWhatNobodyAskedFor) {
  ScoreMachine machine({});
  EXPECT_EQ(Describe(machine.Step(kHeader)), "read");
  EXPECT_EQ(machine.state(), ScoreState::kAwaitHeader);
  EXPECT_EQ(Describe(machine.Step(WriteDone(true))), "");
  EXPECT_EQ(Describe(machine.Step(kScore)), "");
  EXPECT_EQ(Describe(machine.Step(kEncoded)), "");
  EXPECT_FALSE(machine.document_ready());
}

}  // namespace
}  // namespace longdoc::service
