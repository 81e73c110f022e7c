#include "service/stream_machine.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;
using Write = StreamActions::Write;

SessionEvent Of(Kind kind) {
  SessionEvent event;
  event.kind = kind;
  return event;
}
SessionEvent Text(int64_t offset, int64_t size) {
  SessionEvent event = Of(Kind::kChunk);
  event.offset = offset;
  event.size = size;
  return event;
}
SessionEvent Ids(int64_t offset, int64_t size) {
  SessionEvent event = Text(offset, size);
  event.ids = true;
  return event;
}
SessionEvent Consumed(int64_t size) {
  SessionEvent event = Of(Kind::kConsumed);
  event.size = size;
  return event;
}
SessionEvent Frame(bool last) {
  SessionEvent event = Of(Kind::kFrameReady);
  event.last = last;
  return event;
}
SessionEvent WriteDone(bool ok) {
  SessionEvent event = Of(Kind::kWriteDone);
  event.ok = ok;
  return event;
}
SessionEvent Fault(absl::Status status) {
  SessionEvent event = Of(Kind::kFault);
  event.status = std::move(status);
  return event;
}

// Actions as text, so that a table of sequences can be read.
std::string Describe(const StreamActions& a) {
  std::string out;
  if (a.accept) out += "accept ";
  if (a.paused) out += "paused ";
  if (a.seal) out += "seal ";
  if (a.build_frame) out += "build ";
  if (a.release) out += "release ";
  if (a.abort) out += "abort ";
  if (a.write == Write::kProgress) out += "progress ";
  if (a.write == Write::kFrame) out += "frame ";
  if (a.start_read) out += "read ";
  if (a.finish) out += "finish:" + (a.finish->ok() ? "OK" : ReasonOf(*a.finish)) + " ";
  if (!out.empty()) out.pop_back();
  return out;
}

struct Row {
  const char* name;
  std::vector<std::pair<SessionEvent, std::string>> steps;
};

class StreamMachineTable : public ::testing::TestWithParam<Row> {};

TEST_P(StreamMachineTable, GivesTheseActions) {
  StreamMachine machine({.high_watermark = 100, .low_watermark = 50});
  size_t i = 0;
  for (const auto& [event, actions] : GetParam().steps) {
    EXPECT_EQ(Describe(machine.Step(event)), actions) << "step " << i;
    ++i;
  }
}

const SessionEvent kStart = Of(Kind::kStart);
const SessionEvent kHeader = Of(Kind::kHeader);
const SessionEvent kEnd = Of(Kind::kReadsEnded);
const SessionEvent kCancel = Of(Kind::kCancelled);
const SessionEvent kEncoded = Of(Kind::kEncoded);
const SessionEvent kProgress = Of(Kind::kProgressDue);

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
             {[] {
                SessionEvent event = Of(Kind::kHeader);
                event.status = WithReason(absl::NotFoundError("x"), "UNKNOWN_MODEL");
                return event;
              }(),
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
struct Watched {
  StreamMachine machine{{.high_watermark = 8, .low_watermark = 4}};
  bool reading = false, writing = false, building = false;
  int finishes = 0, releases = 0;

  void Step(const SessionEvent& event) {
    const bool was_finished = finishes > 0;
    if (event.kind == Kind::kWriteDone) writing = false;
    if (event.kind == Kind::kFrameReady) building = false;
    if (event.kind == Kind::kChunk || event.kind == Kind::kHeader ||
        event.kind == Kind::kReadsEnded) {
      reading = false;
    }
    const StreamActions a = machine.Step(event);
    if (was_finished) {
      ASSERT_EQ(Describe(a), "") << "after finish";
      return;
    }
    if (a.start_read) {
      ASSERT_FALSE(reading) << "two reads";
      reading = true;
    }
    if (a.write != Write::kNone) {
      ASSERT_FALSE(writing) << "two writes";
      writing = true;
    }
    if (a.build_frame) {
      ASSERT_FALSE(building) << "two frames are built";
      building = true;
    }
    releases += a.release;
    finishes += a.finish.has_value();
    ASSERT_LE(finishes, 1);
    if (a.finish) {
      ASSERT_FALSE(writing) << "finish with a write outstanding";
      ASSERT_EQ(releases, 1) << "finish without release";
      ASSERT_FALSE(a.start_read) << "read with finish";
    }
    ASSERT_LE(releases, 1);
  }
};

// Every order of the events that can come next, `depth` deep. Completions come only for what is
// outstanding, as with a real transport.
void Explore(const Watched& at, int depth, int64_t* visited) {
  ++*visited;
  {
    // From everywhere a cancelled call comes to its end.
    Watched end = at;
    end.Step(kCancel);
    if (end.writing) end.Step(WriteDone(false));
    ASSERT_EQ(end.finishes, 1);
  }
  if (depth == 0) return;
  std::vector<SessionEvent> next = {kCancel,
                                    Of(Kind::kIdleTimeout),
                                    Of(Kind::kDeadline),
                                    Of(Kind::kWriteStalled),
                                    kProgress,
                                    Consumed(4),
                                    kEncoded,
                                    Fault(absl::InternalError("x"))};
  if (at.reading) {
    next.push_back(
        at.machine.state() == StreamState::kAwaitHeader ? kHeader : Text(at.machine.received(), 4));
    next.push_back(kEnd);
  }
  if (at.writing) {
    next.push_back(WriteDone(true));
    next.push_back(WriteDone(false));
  }
  if (at.building) {
    next.push_back(Frame(false));
    next.push_back(Frame(true));
  }
  for (const SessionEvent& event : next) {
    Watched after = at;
    after.Step(event);
    if (::testing::Test::HasFatalFailure()) return;
    // After finish one more event of each kind must do nothing; no need to go deeper.
    Explore(after, after.finishes > 0 ? std::min(depth - 1, 1) : depth - 1, visited);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

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
    Watched watched;
    for (const SessionEvent& event : prefix) watched.Step(event);
    ASSERT_FALSE(HasFatalFailure());
    Explore(watched, 6, &visited);
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
