// What the tests of the two machines share: events, actions as text, invariants of reading, writing
// and finishing, and the walk through every order of events.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "service/score_machine.h"
#include "service/stream_machine.h"

namespace longdoc::service {

inline SessionEvent Of(SessionEvent::Kind kind, int64_t size = 0) {
  SessionEvent event;
  event.kind = kind;
  event.size = size;
  return event;
}
inline SessionEvent Text(int64_t offset, int64_t size) {
  SessionEvent event = Of(SessionEvent::Kind::kChunk, size);
  event.offset = offset;
  return event;
}
inline SessionEvent WriteDone(bool ok) {
  SessionEvent event = Of(SessionEvent::Kind::kWriteDone);
  event.ok = ok;
  return event;
}
inline SessionEvent Failing(SessionEvent::Kind kind, absl::Status status) {
  SessionEvent event = Of(kind);
  event.status = std::move(status);
  return event;
}

inline const SessionEvent kStart = Of(SessionEvent::Kind::kStart);
inline const SessionEvent kHeader = Of(SessionEvent::Kind::kHeader);
inline const SessionEvent kEnd = Of(SessionEvent::Kind::kReadsEnded);
inline const SessionEvent kEncoded = Of(SessionEvent::Kind::kEncoded);
inline const SessionEvent kProgress = Of(SessionEvent::Kind::kProgressDue);
inline const SessionEvent kCancel = Of(SessionEvent::Kind::kCancelled);

// Actions as text, so that a table of sequences can be read. `written`: the message's name.
template <typename Actions>
std::string DescribeActions(const Actions& a, bool build_frame, const std::string& written) {
  std::string out;
  if (a.accept) out += "accept ";
  if (a.paused) out += "paused ";
  if (a.seal) out += "seal ";
  if (build_frame) out += "build ";
  if (a.release) out += "release ";
  if (a.abort) out += "abort ";
  if (!written.empty()) out += written + " ";
  if (a.start_read) out += "read ";
  if (a.finish) out += "finish:" + (a.finish->ok() ? "OK" : ReasonOf(*a.finish)) + " ";
  if (!out.empty()) out.pop_back();
  return out;
}
inline std::string Describe(const StreamActions& a) {
  using Write = StreamActions::Write;
  return DescribeActions(a, a.build_frame,
                         a.write == Write::kProgress ? "progress"
                         : a.write == Write::kFrame  ? "frame"
                                                     : "");
}
inline std::string Describe(const ScoreActions& a) {
  using Write = ScoreActions::Write;
  return DescribeActions(a, false,
                         a.write == Write::kProgress  ? "progress"
                         : a.write == Write::kScore   ? "score"
                         : a.write == Write::kSummary ? "summary"
                                                      : "");
}

// Events, and what each must lead to.
using Steps = std::vector<std::pair<SessionEvent, std::string>>;
template <typename Machine>
void ExpectSteps(Machine& machine, const Steps& steps) {
  size_t i = 0;
  for (const auto& [event, actions] : steps) {
    EXPECT_EQ(Describe(machine.Step(event)), actions) << "step " << i;
    ++i;
  }
}

// Checks what both machines promise, along one sequence of events. Who derives from it says what
// completed (`reading` and `writing`), passes the actions on and adds invariants of its own.
struct WatchedIo {
  bool reading = false, writing = false;
  int finishes = 0, releases = 0;

  template <typename Actions>
  void Check(const Actions& a) {
    if (finishes > 0) {
      ASSERT_EQ(Describe(a), "") << "after finish";
      return;
    }
    if (a.start_read) {
      ASSERT_FALSE(reading) << "two reads";
      reading = true;
    }
    if (a.write != Actions::Write::kNone) {
      ASSERT_FALSE(writing) << "two writes";
      writing = true;
    }
    releases += a.release;
    finishes += a.finish.has_value();
    ASSERT_LE(finishes, 1);
    ASSERT_LE(releases, 1);
    if (a.finish) {
      ASSERT_FALSE(writing) << "finish with a write outstanding";
      ASSERT_EQ(releases, 1) << "finish without release";
      ASSERT_FALSE(a.start_read) << "read with finish";
    }
  }
};

// Every order of the events that can come next (Watched::Next), `depth` deep. Completions come only
// for what is outstanding, as with a real transport.
template <typename Watched>
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
  std::vector<SessionEvent> next = at.Next();
  if (at.writing) {
    next.push_back(WriteDone(true));
    next.push_back(WriteDone(false));
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

// The same from the state after `prefix`.
template <typename Watched>
void ExploreAfter(const std::vector<SessionEvent>& prefix, Watched watched, int64_t* visited) {
  for (const SessionEvent& event : prefix) watched.Step(event);
  ASSERT_FALSE(::testing::Test::HasFatalFailure());
  Explore(watched, 6, visited);
}

}  // namespace longdoc::service
