#include "service/rpc_timer.h"

#include <optional>
#include <string>

#include "engine/base/error_reason.h"
#include "gtest/gtest.h"
#include "tests/support/log_capture.h"
#include "tests/support/test_context.h"

namespace longdoc::testing {
namespace {

using nlohmann::json;
using service::CallIdentity;
using service::LogLevel;
using service::Rpc;
using service::RpcDetails;
using service::RpcTimer;
using service::Stage;

CallIdentity Identity() {
  return {"id \"1\"\n", {"trace", "span", "parent", true}, "ipv4:127.0.0.1:9"};
}

class RpcTimerTest : public ::testing::Test {
 protected:
  // The line of a call that ends with this status.
  std::optional<json> LineOf(const absl::Status& status, const RpcDetails& details = {}) {
    LogCapture log(level_);
    {
      RpcTimer timer(test_.context, Rpc::kEmbedTexts, Identity());
      EXPECT_EQ(test_.context.inflight_rpcs, 1);
      timer.details() = details;
      timer.CountReceived(30);
      timer.CountSent(100);
      timer.CountSent(11);
      timer.SetStatus(status);
    }
    EXPECT_EQ(test_.context.inflight_rpcs, 0);
    const auto lines = log.Events("rpc");
    EXPECT_LE(lines.size(), 1u);
    if (lines.empty()) return std::nullopt;
    return lines.front();
  }

  TestContext test_;
  LogLevel level_ = LogLevel::kInfo;
};

TEST_F(RpcTimerTest, LineTellsAllThatIsKnown) {
  RpcDetails details;
  details.model = "m";
  details.document_id = "line\nbreak";
  details.bytes = 12;
  details.tokens = 5;
  details.passages = 2;
  details.items = 3;
  details.stage_seconds = {1, 2, 3, 4, 5};
  details.score_seconds = 6;
  const json line = LineOf(absl::OkStatus(), details).value();
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["method"], "EmbedTexts");
  EXPECT_EQ(line["request_id"], "id \"1\"\n") << "escaped, and so the same again";
  EXPECT_EQ(line["trace_id"], "trace");
  EXPECT_EQ(line["span_id"], "span");
  EXPECT_EQ(line["parent_span_id"], "parent");
  EXPECT_EQ(line["peer"], "ipv4:127.0.0.1:9");
  EXPECT_EQ(line["code"], "OK");
  EXPECT_EQ(line["reason"], "");
  EXPECT_EQ(line["model"], "m");
  EXPECT_EQ(line["document_id"], "line\nbreak");
  EXPECT_EQ(line["tokens"], 5);
  EXPECT_EQ(line["passages"], 2);
  EXPECT_EQ(line["items"], 3);
  EXPECT_EQ(line["bytes_received"], 42);
  EXPECT_EQ(line["bytes_sent"], 111);
  EXPECT_EQ(line["stage"], "");
  EXPECT_EQ(line["receive_seconds"], 1);
  EXPECT_EQ(line["tokenize_seconds"], 2);
  EXPECT_EQ(line["queue_seconds"], 3);
  EXPECT_EQ(line["encode_seconds"], 4);
  EXPECT_GE(line["respond_seconds"], 5);
  EXPECT_EQ(line["score_seconds"], 6);
  EXPECT_GT(line["total_seconds"], 0);
}

TEST_F(RpcTimerTest, OurFaultsAreErrorsAndComeWithTheirMessage) {
  for (const absl::Status& status :
       {absl::InternalError("why"), absl::UnknownError("why"), absl::DataLossError("why")}) {
    const json line = LineOf(status).value();
    EXPECT_EQ(line["level"], "error");
    EXPECT_EQ(line["message"], "why");
  }
  const json load = LineOf(WithReason(absl::ResourceExhaustedError("full"), "QUEUE_FULL")).value();
  EXPECT_EQ(load["level"], "info");
  EXPECT_EQ(load["code"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(load["reason"], "QUEUE_FULL");
  EXPECT_EQ(load["message"], "full");
}

TEST_F(RpcTimerTest, MessagesThatMayQuoteTheClientStayOutOfTheLog) {
  for (const absl::Status& status : {absl::InvalidArgumentError("\"secret\" is no name"),
                                     absl::NotFoundError("no model \"secret\"")}) {
    const json line = LineOf(WithReason(status, "WHY")).value();
    EXPECT_EQ(line["message"], "");
    EXPECT_EQ(line["reason"], "WHY");
  }
}

TEST_F(RpcTimerTest, CallWithoutStatusWasCancelledInTheStageItHadReached) {
  LogCapture log(LogLevel::kInfo);
  {
    RpcTimer timer(test_.context, Rpc::kEmbedDocument, Identity());
    timer.details().reached = Stage::kEncode;
  }
  const json line = log.Events("rpc").at(0);
  EXPECT_EQ(line["code"], "CANCELLED");
  EXPECT_EQ(line["stage"], "encode");
}

TEST_F(RpcTimerTest, SlowCallsAreWarnings) {
  test_.context.access_log.slow = absl::Nanoseconds(1);
  EXPECT_EQ(LineOf(absl::OkStatus()).value()["level"], "warning");
  EXPECT_EQ(LineOf(absl::InternalError("why")).value()["level"], "error");
  test_.context.access_log.slow = absl::Hours(1);
  EXPECT_EQ(LineOf(absl::OkStatus()).value()["level"], "info");
}

TEST_F(RpcTimerTest, SwitchedOffOnlyWhatNobodyAskedForIsLeftOut) {
  test_.context.access_log.enabled = false;
  EXPECT_FALSE(LineOf(absl::OkStatus()).has_value());
  EXPECT_FALSE(LineOf(absl::InvalidArgumentError("why")).has_value());
  EXPECT_TRUE(LineOf(absl::InternalError("why")).has_value());
  test_.context.access_log.slow = absl::Nanoseconds(1);
  EXPECT_TRUE(LineOf(absl::OkStatus()).has_value());
}

TEST_F(RpcTimerTest, StagesOfTextsSideBySideAreTheLongest) {
  RpcDetails details;
  EncodeStats stats;
  stats.queue_seconds = 1;
  stats.compute_seconds = 7;
  RecordEncode(test_.context, stats, &details);
  stats.queue_seconds = 2;
  stats.compute_seconds = 3;
  RecordEncode(test_.context, stats, &details);
  RecordEncode(test_.context, EncodeStats(), &details);  // none was needed
  EXPECT_EQ(details.stage_seconds[static_cast<size_t>(Stage::kQueue)], 2);
  EXPECT_EQ(details.stage_seconds[static_cast<size_t>(Stage::kEncode)], 7);
  const std::string text = test_.metrics.Exposition();
  EXPECT_NE(text.find("longdoc_stage_duration_seconds_count{stage=\"encode\"} 2\n"),
            std::string::npos);
}

}  // namespace
}  // namespace longdoc::testing
