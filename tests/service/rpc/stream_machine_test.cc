#include "service/stream_machine.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "tests/service/rpc/machine_helpers.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using Write = StreamActions::Write;

SessionEvent Ids(int64_t offset, int64_t size) {
  SessionEvent event = Text(offset, size);
  event.ids = true;
  return event;
}
SessionEvent Consumed(int64_t size) { return Of(Kind::kConsumed, size); }
SessionEvent Frame(bool last) {
  SessionEvent event = Of(Kind::kFrameReady);
  event.last = last;
  return event;
}
SessionEvent Fault(absl::Status status) { return Failing(Kind::kFault, std::move(status)); }

struct Row {
  const char* name;
  Steps steps;
};

class StreamMachineTable : public ::testing::TestWithParam<Row> {};

TEST_P(StreamMachineTable, GivesTheseActions) {
  StreamMachine machine({.high_watermark = 100, .low_watermark = 50});
  ExpectSteps(machine, GetParam().steps);
}

INSTANTIATE_TEST_SUITE_P(
    Sequences, StreamMachineTable,
    ::testing::Values(
        Row{"whole_document",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 10), "accept read"},
             {Text(10, 5), "accept read"},
             {kEnd, "seal"},
             {Of(Kind::kSubmitted), ""},
             {Of(Kind::kStarted), ""},
             {kEncoded, "build"},
             {Frame(false), "build frame"},
             {WriteDone(true), ""},
             {Frame(true), "frame"},
             {WriteDone(true), "release finish:OK"},
             {kCancel, ""}}},
        Row{"frame_ready_while_writing",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 1), "accept read"},
             {kEnd, "seal"},
             {kEncoded, "build"},
             {Frame(false), "build frame"},
             {Frame(true), ""},
             {WriteDone(true), "frame"},
             {WriteDone(true), "release finish:OK"}}},
        Row{"header_missing", {{kStart, "read"}, {kEnd, "release finish:MISSING_HEADER"}}},
        Row{"content_first",
            {{kStart, "read"}, {Text(0, 1), "release finish:CONTENT_BEFORE_HEADER"}}},
        Row{"break_first",
            {{kStart, "read"}, {Of(Kind::kBreak), "release finish:CONTENT_BEFORE_HEADER"}}},
        Row{"second_header",
            {{kStart, "read"}, {kHeader, "read"}, {kHeader, "release finish:SECOND_HEADER"}}},
        Row{"empty_message",
            {{kStart, "read"}, {Of(Kind::kEmptyMessage), "release finish:EMPTY_MESSAGE"}}},
        Row{"break_unasked",
            {{kStart, "read"},
             {kHeader, "read"},
             {Of(Kind::kBreak), "release finish:UNEXPECTED_BREAK"}}},
        Row{"gap",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 3), "accept read"},
             {Text(4, 3), "release finish:OFFSET_GAP"}}},
        Row{"overlap",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 3), "accept read"},
             {Text(2, 3), "release finish:OFFSET_OVERLAP"}}},
        Row{"negative_offset",
            {{kStart, "read"}, {kHeader, "read"}, {Text(-1, 3), "release finish:OFFSET_OVERLAP"}}},
        Row{"mixed",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 3), "accept read"},
             {Ids(3, 1), "release finish:MIXED_CONTENT"}}},
        Row{"paused_once_per_crossing",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 60), "accept read"},
             {Text(60, 60), "accept paused"},
             {Consumed(10), ""},      // 110: still above
             {Consumed(30), ""},      // 80: below the high, above the low watermark
             {Consumed(30), "read"},  // 50
             {Text(120, 60), "accept paused"},
             {Consumed(110), "read"}}},
        Row{"ids_count_four_bytes",
            {{kStart, "read"},
             {kHeader, "read"},
             {Ids(0, 25), "accept paused"},
             {Consumed(100), "read"}}},
        Row{"finish_waits_for_the_write",
            {{kStart, "read"},
             {kHeader, "read"},
             {kProgress, "progress"},
             {kCancel, "release"},
             {kCancel, ""},
             {WriteDone(false), "finish:CANCELLED"}}},
        Row{"progress_waits_for_the_write",
            {{kStart, "read"},
             {kHeader, "read"},
             {kProgress, "progress"},
             {kProgress, ""},
             {WriteDone(true), "progress"},
             {WriteDone(true), ""}}},
        Row{"no_progress_before_the_header_or_after_the_result",
            {{kStart, "read"},
             {kProgress, ""},
             {kHeader, "read"},
             {Text(0, 1), "accept read"},
             {kEnd, "seal"},
             {kEncoded, "build"},
             {kProgress, ""},
             {Frame(true), "frame"}}},
        Row{"failed_write",
            {{kStart, "read"},
             {kHeader, "read"},
             {kProgress, "progress"},
             {WriteDone(false), "release finish:CANCELLED"}}},
        Row{"stalled_write",
            {{kStart, "read"},
             {kHeader, "read"},
             {kProgress, "progress"},
             {Of(Kind::kWriteStalled), "release abort"},
             {Of(Kind::kWriteStalled), ""},
             {WriteDone(false), "finish:READ_STALLED"}}},
        Row{"deadline_then_stalled_write",
            {{kStart, "read"},
             {kHeader, "read"},
             {kProgress, "progress"},
             {Of(Kind::kDeadline), "release"},
             {Of(Kind::kWriteStalled), "abort"},
             {WriteDone(false), "finish:DEADLINE_EXCEEDED"}}},
        Row{"idle", {{kStart, "read"}, {Of(Kind::kIdleTimeout), "release finish:IDLE_TIMEOUT"}}},
        Row{"idle_is_not_the_clients_fault_while_paused",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 100), "accept paused"},
             {Of(Kind::kIdleTimeout), ""},
             {Consumed(100), "read"}}},
        Row{"fault_in_the_engine",
            {{kStart, "read"},
             {kHeader, "read"},
             {Text(0, 1), "accept read"},
             {kEnd, "seal"},
             {Fault(WithReason(absl::ResourceExhaustedError("x"), "QUEUE_FULL")),
              "release finish:QUEUE_FULL"},
             {kEncoded, ""}}},
        Row{"bad_header",
            {{kStart, "read"},
             {Failing(Kind::kHeader, WithReason(absl::NotFoundError("x"), "UNKNOWN_MODEL")),
              "release finish:UNKNOWN_MODEL"}}},
        Row{"refused_at_the_start",
            {{Fault(WithReason(absl::UnavailableError("x"), "DRAINING")),
              "release finish:DRAINING"},
             {kStart, ""}}}),
    [](const ::testing::TestParamInfo<Row>& info) { return std::string(info.param.name); });

TEST(StreamMachine, DeclaredSizesMustBeMetExactly) {
  const struct {
    SessionEvent chunk;
    bool fits, ends_well;
  } kCases[] = {{Text(0, 9), true, false}, {Text(0, 10), true, true}, {Text(0, 11), false, false},
                {Ids(0, 3), true, false},  {Ids(0, 4), true, true},   {Ids(0, 5), false, false}};
  for (const auto& c : kCases) {
    StreamMachine machine({});
    machine.SetHeader({.has_breaks = false, .declared_bytes = 10, .declared_tokens = 4});
    (void)machine.Step(kStart);
    (void)machine.Step(kHeader);
    const StreamActions chunk = machine.Step(c.chunk);
    EXPECT_EQ(chunk.accept, c.fits) << c.chunk.size;
    if (!c.fits) {
      EXPECT_EQ(ReasonOf(*chunk.finish), "DECLARED_SIZE_MISMATCH");
      continue;
    }
    const StreamActions end = machine.Step(kEnd);
    EXPECT_EQ(end.seal, c.ends_well) << c.chunk.size;
    if (!c.ends_well) {
      EXPECT_EQ(ReasonOf(*end.finish), "DECLARED_SIZE_MISMATCH");
    }
  }
}

// Checks the invariants of stream_machine.h along one sequence of events.
struct Watched : WatchedIo {
  StreamMachine machine{{.high_watermark = 8, .low_watermark = 4}};
  bool building = false;

  void Step(const SessionEvent& event) {
    if (event.kind == Kind::kWriteDone) writing = false;
    if (event.kind == Kind::kFrameReady) building = false;
    if (event.kind == Kind::kChunk || event.kind == Kind::kHeader ||
        event.kind == Kind::kReadsEnded) {
      reading = false;
    }
    const StreamActions a = machine.Step(event);
    if (a.build_frame) {
      ASSERT_FALSE(building) << "two frames are built";
      building = true;
    }
    Check(a);
  }
  std::vector<SessionEvent> Next() const {
    std::vector<SessionEvent> next = {kCancel,
                                      Of(Kind::kIdleTimeout),
                                      Of(Kind::kDeadline),
                                      Of(Kind::kWriteStalled),
                                      kProgress,
                                      Consumed(4),
                                      kEncoded,
                                      Fault(absl::InternalError("x"))};
    if (reading) {
      next.push_back(machine.state() == StreamState::kAwaitHeader ? kHeader
                                                                  : Text(machine.received(), 4));
      next.push_back(kEnd);
    }
    if (building) {
      next.push_back(Frame(false));
      next.push_back(Frame(true));
    }
    return next;
  }
};

TEST(StreamMachine, KeepsItsInvariantsUnderEveryInterleaving) {
  const std::vector<std::vector<SessionEvent>> kPrefixes = {
      {kStart},
      {kStart, kHeader},
      {kStart, kHeader, Text(0, 4), Text(4, 4), kProgress},
      {kStart, kHeader, Text(0, 4), kEnd, Of(Kind::kSubmitted)},
      {kStart, kHeader, Text(0, 4), kProgress, kEnd, kEncoded},
  };
  int64_t visited = 0;
  for (const auto& prefix : kPrefixes) {
    ExploreAfter(prefix, Watched(), &visited);
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_GT(visited, 10000);
  RecordProperty("states_visited", std::to_string(visited));
}

// Completions that nobody asked for (a broken transport) are ignored.
TEST(StreamMachine, IgnoresCompletionsOfOperationsNeverStarted) {
  StreamMachine machine({});
  EXPECT_EQ(Describe(machine.Step(kHeader)), "read");  // only the read that is due
  EXPECT_EQ(machine.state(), StreamState::kAwaitHeader);
  EXPECT_EQ(Describe(machine.Step(WriteDone(true))), "");
  EXPECT_EQ(Describe(machine.Step(Frame(true))), "");
  EXPECT_EQ(Describe(machine.Step(kEncoded)), "");
}

}  // namespace
}  // namespace longdoc::service
