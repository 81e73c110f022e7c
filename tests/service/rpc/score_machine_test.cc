#include "service/score_machine.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/service/rpc/machine_helpers.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using Write = ScoreActions::Write;

const SessionEvent kBreak = Of(Kind::kBreak);
const SessionEvent kDocumentEnd = Of(Kind::kDocumentEnd);
const SessionEvent kCandidate = Of(Kind::kCandidate, 10);
const SessionEvent kScore = Of(Kind::kScoreReady, 10);

constexpr ScoreMachine::Options kSmall = {
    .content_bytes = 100, .waiting_candidates = 4, .waiting_bytes = 1000, .max_candidates = 6};

struct Row {
  const char* name;
  bool inline_document;
  Steps steps;
};

class ScoreMachineTable : public ::testing::TestWithParam<Row> {};

TEST_P(ScoreMachineTable, GivesTheseActions) {
  ScoreMachine machine(kSmall);
  if (GetParam().inline_document) {
    ContentOrder::Header header;
    header.declared_bytes = 15;
    machine.SetInlineDocument(header);
  }
  ExpectSteps(machine, GetParam().steps);
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
struct Watched : WatchedIo {
  explicit Watched(bool inline_document) {
    if (inline_document) machine.SetInlineDocument({});
  }
  ScoreMachine machine{
      {.content_bytes = 8, .waiting_candidates = 2, .waiting_bytes = 100, .max_candidates = 3}};
  bool summary_sent = false;
  int64_t accepted = 0, outcomes = 0, content = 0, scores_written = 0;

  void Step(const SessionEvent& event) {
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
    if (a.accept && event.kind == Kind::kCandidate) ++accepted;
    if (a.accept && event.kind == Kind::kChunk) content += event.size;
    if (a.start_read) {
      ASSERT_LT(machine.waiting(), 2) << "reads above the watermark";
    }
    if (a.write != Write::kNone) {
      ASSERT_FALSE(summary_sent) << "something after the summary";
      scores_written += a.write == Write::kScore;
      summary_sent = a.write == Write::kSummary;
      if (summary_sent) {
        ASSERT_EQ(scores_written, accepted);
      }
    }
    ASSERT_LE(scores_written, outcomes);
    Check(a);
    if (a.finish && a.finish->ok()) {
      ASSERT_TRUE(summary_sent);
    }
  }
  std::vector<SessionEvent> Next() const {
    std::vector<SessionEvent> next = {kCancel,
                                      Of(Kind::kIdleTimeout),
                                      Of(Kind::kWriteStalled),
                                      kProgress,
                                      kEncoded,
                                      Of(Kind::kConsumed, 4),
                                      Failing(Kind::kFault, absl::InternalError("x"))};
    if (reading) {
      const ScoreState state = machine.state();
      if (state == ScoreState::kAwaitHeader) next.push_back(kHeader);
      if (state == ScoreState::kContent) {
        next.push_back(Text(content, 4));
        next.push_back(kDocumentEnd);
      }
      next.push_back(kCandidate);
      next.push_back(kEnd);
    }
    if (outcomes < accepted) next.push_back(kScore);
    return next;
  }
};

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
    ExploreAfter(prefix.events, Watched(prefix.inline_document), &visited);
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
