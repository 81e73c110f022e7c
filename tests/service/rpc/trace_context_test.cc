#include "service/trace_context.h"

#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longdoc::service {
namespace {

using ::testing::MatchesRegex;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpanId[] = "00f067aa0ba902b7";
const std::string kGood = std::string("00-") + kTraceId + "-" + kSpanId + "-01";

TEST(TraceContext, ContinuesTheCallersTraceWithASpanOfItsOwn) {
  const TraceContext trace = JoinTrace({kGood});
  EXPECT_EQ(trace.trace_id, kTraceId);
  EXPECT_EQ(trace.parent_span_id, kSpanId);
  EXPECT_THAT(trace.span_id, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(trace.span_id, kSpanId);
  EXPECT_TRUE(trace.sampled);
  EXPECT_EQ(trace.ToTraceParent(), std::string("00-") + kTraceId + "-" + trace.span_id + "-01");
}

TEST(TraceContext, OnlyTheLowestFlagIsTakenOver) {
  const std::string front = kGood.substr(0, kGood.size() - 2);
  for (const char* flags : {"00", "02", "fe", "10"}) {
    EXPECT_FALSE(JoinTrace({front + flags}).sampled) << flags;
    EXPECT_THAT(JoinTrace({front + flags}).ToTraceParent(), MatchesRegex(".*-00")) << flags;
  }
  for (const char* flags : {"01", "03", "ff", "0b"}) {
    EXPECT_TRUE(JoinTrace({front + flags}).sampled) << flags;
    EXPECT_THAT(JoinTrace({front + flags}).ToTraceParent(), MatchesRegex(".*-01")) << flags;
  }
}

TEST(TraceContext, LaterVersionsAreReadAsFarAsKnown) {
  for (const std::string& value :
       {"01" + kGood.substr(2), "cc" + kGood.substr(2), "cc" + kGood.substr(2) + "-more fields"}) {
    const TraceContext trace = JoinTrace({value});
    EXPECT_EQ(trace.trace_id, kTraceId) << value;
    EXPECT_EQ(trace.ToTraceParent().substr(0, 3), "00-") << "the version that we know";
  }
}

TEST(TraceContext, WhatIsMalformedIsIgnored) {
  const std::string tail = kGood.substr(2);
  std::vector<std::string> bad = {
      "",
      "00",
      kGood.substr(0, kGood.size() - 1),
      kGood + "-",        // version 00 has no more fields
      kGood + "0",        //
      " " + kGood,        //
      "01" + tail + "x",  // more of a later version begins with a dash
      "ff" + tail,        // forbidden
      "0g" + tail,        //
      "0A" + tail,        // upper case
      std::string("00-") + kTraceId + "-0000000000000000-01",
      std::string("00-00000000000000000000000000000000-") + kSpanId + "-01",
      std::string("00-4BF92F3577B34DA6A3CE929D0E0E4736-") + kSpanId + "-01",
      std::string("00-") + kTraceId + "-00F067AA0BA902B7-01",
      std::string("00-") + kTraceId + "-" + kSpanId + "-0x",
      std::string("00-") + kTraceId + "-" + kSpanId + "-0F",
  };
  for (size_t dash : {2, 35, 52}) {
    bad.push_back(kGood);
    bad.back()[dash] = '_';
  }
  for (const std::string& value : bad) {
    const TraceContext trace = JoinTrace({value});
    EXPECT_NE(trace.trace_id, kTraceId) << value;
    EXPECT_THAT(trace.trace_id, MatchesRegex("[0-9a-f]{32}")) << value;
    EXPECT_EQ(trace.parent_span_id, "") << value;
    EXPECT_FALSE(trace.sampled) << value;
  }
}

TEST(TraceContext, NoneOrSeveralBeginATrace) {
  EXPECT_EQ(JoinTrace({}).parent_span_id, "");
  const TraceContext trace = JoinTrace({kGood, kGood});
  EXPECT_NE(trace.trace_id, kTraceId);
  EXPECT_EQ(trace.parent_span_id, "");
}

TEST(TraceContext, MadeIdsAreDifferent) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const TraceContext trace = JoinTrace({});
    ids.insert(trace.trace_id);
    ids.insert(trace.span_id);
    ids.insert(AdoptRequestId({}));
  }
  EXPECT_EQ(ids.size(), 3000u);
}

TEST(RequestId, PrintableOnesAreKept) {
  for (const std::string& id :
       {std::string("a"), std::string("my-request-7"),
        std::string("~!\"#$%&'()*+,/:;<=>?@[\\]^_`{|}"), std::string(128, 'x')}) {
    EXPECT_EQ(AdoptRequestId({id}), id);
  }
}

TEST(RequestId, OthersAreReplaced) {
  for (const std::vector<std::string>& given :
       std::vector<std::vector<std::string>>{{},
                                             {""},
                                             {std::string(129, 'x')},
                                             {"two words"},
                                             {"line\nbreak"},
                                             {"tab\t"},
                                             {"\x7f"},
                                             {"caf\xc3\xa9"},
                                             {std::string("nul\0", 4)},
                                             {"one", "two"}}) {
    EXPECT_THAT(AdoptRequestId(given), MatchesRegex("[0-9a-f]{32}"));
  }
}

}  // namespace
}  // namespace longdoc::service
