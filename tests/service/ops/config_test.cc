#include "service/config.h"

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longdoc::service {
namespace {

using ::testing::HasSubstr;
using ::testing::TestWithParam;
using ::testing::ValuesIn;

TEST(ParseServerConfig, EmptyTextGivesTheDefaults) {
  const auto options = ParseServerConfig("");
  ASSERT_TRUE(options.ok()) << options.status();
  const ServerOptions defaults;
  EXPECT_EQ(FormatServerConfig(*options), FormatServerConfig(defaults));
  EXPECT_EQ(options->listen_address, "127.0.0.1:50051");
  EXPECT_EQ(options->metrics_address, "127.0.0.1:9464");
  EXPECT_EQ(options->engine.device, "auto");
  EXPECT_EQ(options->engine.max_queued_tokens, 4194304);
  EXPECT_EQ(options->engine.max_queued_tasks, 4096);
  EXPECT_EQ(options->engine.max_batch_tokens, 2048);
  EXPECT_EQ(options->limits.document.max_tokens, 1048576);
  EXPECT_EQ(options->limits.document.max_bytes, int64_t{64} << 20);
  EXPECT_EQ(options->limits.document.max_passages, 65536);
  EXPECT_EQ(options->limits.max_text_tokens, 8192);
  EXPECT_EQ(options->limits.max_message_bytes, 1 << 20);
  EXPECT_EQ(options->limits.idle_timeout, absl::Seconds(30));
  EXPECT_EQ(options->limits.max_candidates, 100000);
  EXPECT_EQ(options->limits.max_candidate_bytes, 65536);
  EXPECT_EQ(options->limits.max_ranked_documents, 256);
  EXPECT_EQ(options->documents.budget_bytes, 0);
  EXPECT_EQ(options->documents.max_documents, 10000);
  EXPECT_EQ(options->documents.default_ttl, absl::Hours(1));
  EXPECT_EQ(options->documents.max_ttl, absl::Hours(24));
  EXPECT_EQ(options->lifecycle.drain_delay, absl::ZeroDuration());
  EXPECT_EQ(options->lifecycle.drain_grace, absl::Seconds(300));
  EXPECT_EQ(options->lifecycle.max_connection_age, absl::InfiniteDuration());
  EXPECT_TRUE(options->reflection);
}

constexpr char kEverything[] = R"(
  listen_address: "0.0.0.0:0"
  metrics_address: "off"
  models { name: "a" directory: "/models/a" }
  models { name: "org/b-2.0" directory: "b" }
  engine {
    device: "reference" compute_type: "f32" threads: 3 memory_budget_bytes: 1073741824
    max_queued_tokens: 100 max_queued_documents: 7 max_batch_tokens: 64
    device_memory_bytes: 2147483648 spill_memory_bytes: 3221225472
  }
  limits {
    max_document_tokens: 1000 max_document_bytes: 2000 max_passages: 10 max_text_tokens: 300
    max_texts: 20 max_message_bytes: 65536 max_frame_bytes: 8192 max_streams: 5
    max_streams_per_connection: 6 read_high_watermark_bytes: 10000 idle_timeout_seconds: 1.5
    max_deadline_seconds: 60 max_candidates: 11 max_candidate_bytes: 12 max_ranked_documents: 13
  }
  documents {
    budget_bytes: 1048577 max_documents: 14 default_ttl_seconds: 15 max_ttl_seconds: 16.5
  }
  security {
    tls_certificate_file: "c" tls_key_file: "k" tls_client_ca_file: "a" bearer_token_file: "t"
    allow_insecure: true
  }
  lifecycle {
    drain_delay_seconds: 0.25 drain_grace_seconds: 10 keepalive_seconds: 20
    max_connection_age_seconds: 600 max_connection_age_grace_seconds: 700
    max_connection_idle_seconds: 800 keepalive_timeout_seconds: 5 client_ping_interval_seconds: 15
    forbid_pings_without_calls: true
  }
  access_log { disabled: true slow_seconds: 2.5 }
  disable_reflection: true
  log_level: "debug"
)";

TEST(ParseServerConfig, ReadsEveryField) {
  const auto options = ParseServerConfig(kEverything);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->listen_address, "0.0.0.0:0");
  EXPECT_EQ(options->metrics_address, "off");
  ASSERT_EQ(options->models.size(), 2u);
  EXPECT_EQ(options->models[1].name, "org/b-2.0");
  EXPECT_EQ(options->models[1].directory, "b");
  EXPECT_EQ(options->engine.device, "reference");
  EXPECT_EQ(options->engine.compute_type, ComputeType::kF32);
  EXPECT_EQ(options->engine.num_threads, 3);
  EXPECT_EQ(options->engine.memory_budget_bytes, 1073741824);
  EXPECT_EQ(options->engine.device_memory_bytes, int64_t{2} << 30);
  EXPECT_EQ(options->engine.spill_memory_bytes, int64_t{3} << 30);
  EXPECT_EQ(options->engine.max_queued_tokens, 100);
  EXPECT_EQ(options->engine.max_queued_tasks, 7);
  EXPECT_EQ(options->engine.max_batch_tokens, 64);
  EXPECT_EQ(options->limits.document.max_tokens, 1000);
  EXPECT_EQ(options->limits.document.max_bytes, 2000);
  EXPECT_EQ(options->limits.document.max_passages, 10);
  EXPECT_EQ(options->limits.max_text_tokens, 300);
  EXPECT_EQ(options->limits.max_texts, 20);
  EXPECT_EQ(options->limits.max_message_bytes, 65536);
  EXPECT_EQ(options->limits.max_frame_bytes, 8192);
  EXPECT_EQ(options->limits.max_streams, 5);
  EXPECT_EQ(options->limits.max_streams_per_connection, 6);
  EXPECT_EQ(options->limits.read_high_watermark_bytes, 10000);
  EXPECT_EQ(options->limits.idle_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(options->limits.max_deadline, absl::Minutes(1));
  EXPECT_EQ(options->limits.max_candidates, 11);
  EXPECT_EQ(options->limits.max_candidate_bytes, 12);
  EXPECT_EQ(options->limits.max_ranked_documents, 13);
  EXPECT_EQ(options->documents.budget_bytes, 1048577);
  EXPECT_EQ(options->documents.max_documents, 14);
  EXPECT_EQ(options->documents.default_ttl, absl::Seconds(15));
  EXPECT_EQ(options->documents.max_ttl, absl::Milliseconds(16500));
  EXPECT_EQ(options->security.tls_certificate_file, "c");
  EXPECT_EQ(options->security.tls_key_file, "k");
  EXPECT_EQ(options->security.tls_client_ca_file, "a");
  EXPECT_EQ(options->security.bearer_token_file, "t");
  EXPECT_TRUE(options->security.allow_insecure);
  EXPECT_EQ(options->lifecycle.drain_delay, absl::Milliseconds(250));
  EXPECT_EQ(options->lifecycle.drain_grace, absl::Seconds(10));
  EXPECT_EQ(options->lifecycle.keepalive, absl::Seconds(20));
  EXPECT_EQ(options->lifecycle.max_connection_age, absl::Minutes(10));
  EXPECT_EQ(options->lifecycle.max_connection_age_grace, absl::Seconds(700));
  EXPECT_EQ(options->lifecycle.max_connection_idle, absl::Seconds(800));
  EXPECT_EQ(options->lifecycle.keepalive_timeout, absl::Seconds(5));
  EXPECT_EQ(options->lifecycle.client_ping_interval, absl::Seconds(15));
  EXPECT_FALSE(options->lifecycle.pings_without_calls);
  EXPECT_FALSE(options->access_log.enabled);
  EXPECT_EQ(options->access_log.slow, absl::Milliseconds(2500));
  EXPECT_FALSE(options->reflection);
  EXPECT_EQ(options->log_level, "debug");
}

TEST(ParseServerConfig, FormatRoundTrips) {
  for (const char* text : {"", kEverything}) {
    const auto first = ParseServerConfig(text);
    ASSERT_TRUE(first.ok()) << first.status();
    const std::string formatted = FormatServerConfig(*first);
    const auto second = ParseServerConfig(formatted);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ(FormatServerConfig(*second), formatted);
  }
}

struct BadConfig {
  const char* text;
  const char* expected;  // part of the message: the field, or where the error is
};

class BadConfigTest : public TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedNamingTheField) {
  const auto options = ParseServerConfig(GetParam().text);
  ASSERT_FALSE(options.ok()) << GetParam().text;
  EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(options.status().message()), HasSubstr(GetParam().expected));
}

const BadConfig kBadConfigs[] = {
    {"listen_address: \"x\"\nnonsense: 1", "line 2 column"},
    {"listen_address: ", "line 1"},
    {"limits { max_texts: 99999999999 }", "line 1 column 21"},
    {"limits { max_texts: \"a\" }", "line 1"},
    {"models { name: \"a\" ", "line 1"},
    {"\xff\xfe", "line 1"},
    {"listen_address: \"nowhere\"", "listen_address"},
    {"listen_address: \":1\"", "no host"},
    {"listen_address: \"h:65536\"", "65535"},
    {"listen_address: \"h:-1\"", "65535"},
    {"listen_address: \"h:\"", "65535"},
    {"listen_address: \"a b:1\"", "malformed host"},
    {"listen_address: \"[::x]:1\"", "malformed IPv6"},
    {"metrics_address: \"on\"", "metrics_address"},
    {"models { name: \"\" directory: \"d\" }", "models.name"},
    {"models { name: \"a b\" directory: \"d\" }", "models.name"},
    {"models { name: \"a\" }", "models.directory"},
    {"engine { device: \"gpu\" }", "engine.device"},
    {"engine { device: \"cuda:\" }", "engine.device"},
    {"engine { device: \"cuda:-1\" }", "engine.device"},
    {"engine { device: \"cuda:x\" }", "engine.device"},
    {"engine { device_memory_bytes: 1 }", "engine.device_memory_bytes"},
    {"engine { spill_memory_bytes: 1 }", "engine.spill_memory_bytes"},
    {"engine { compute_type: \"f16\" }", "engine.compute_type"},
    {"engine { threads: -1 }", "engine.threads"},
    {"engine { threads: 1025 }", "engine.threads"},
    {"engine { memory_budget_bytes: 1 }", "engine.memory_budget_bytes"},
    {"engine { max_queued_tokens: -5 }", "engine.max_queued_tokens"},
    {"engine { max_queued_documents: -5 }", "engine.max_queued_documents"},
    {"engine { max_batch_tokens: 15 }", "engine.max_batch_tokens"},
    {"limits { max_document_tokens: 2 }", "limits.max_document_tokens"},
    {"limits { max_document_tokens: 9223372036854775807 }", "limits.max_document_tokens"},
    {"limits { max_document_bytes: -1 }", "limits.max_document_bytes"},
    {"limits { max_passages: -1 }", "limits.max_passages"},
    {"limits { max_text_tokens: 1 }", "limits.max_text_tokens"},
    {"limits { max_texts: -1 }", "limits.max_texts"},
    {"limits { max_message_bytes: 4095 }", "limits.max_message_bytes"},
    {"limits { max_message_bytes: 2147483647 }", "limits.max_message_bytes"},
    {"limits { max_frame_bytes: 1 }", "limits.max_frame_bytes"},
    {"limits { max_streams: -1 }", "limits.max_streams"},
    {"limits { max_streams_per_connection: -1 }", "limits.max_streams_per_connection"},
    {"limits { read_high_watermark_bytes: 1 }", "limits.read_high_watermark_bytes"},
    {"limits { idle_timeout_seconds: -1 }", "limits.idle_timeout_seconds"},
    {"limits { idle_timeout_seconds: nan }", "limits.idle_timeout_seconds"},
    {"limits { max_deadline_seconds: inf }", "limits.max_deadline_seconds"},
    {"limits { max_candidates: -1 }", "limits.max_candidates"},
    {"limits { max_candidate_bytes: -1 }", "limits.max_candidate_bytes"},
    {"limits { max_ranked_documents: 1048577 }", "limits.max_ranked_documents"},
    {"documents { budget_bytes: 1048575 }", "documents.budget_bytes"},
    {"documents { max_documents: -1 }", "documents.max_documents"},
    {"documents { default_ttl_seconds: -1 }", "documents.default_ttl_seconds"},
    {"documents { max_ttl_seconds: 1e9 }", "documents.max_ttl_seconds"},
    {"lifecycle { drain_delay_seconds: 1e9 }", "lifecycle.drain_delay_seconds"},
    {"lifecycle { drain_grace_seconds: -1 }", "lifecycle.drain_grace_seconds"},
    {"lifecycle { keepalive_seconds: 1e-9 }", "lifecycle.keepalive_seconds"},
    {"lifecycle { max_connection_age_seconds: -1 }", "lifecycle.max_connection_age_seconds"},
    {"lifecycle { max_connection_age_grace_seconds: nan }",
     "lifecycle.max_connection_age_grace_seconds"},
    {"lifecycle { max_connection_idle_seconds: 1e8 }", "lifecycle.max_connection_idle_seconds"},
    {"lifecycle { keepalive_timeout_seconds: 3601 }", "lifecycle.keepalive_timeout_seconds"},
    {"lifecycle { client_ping_interval_seconds: -1 }", "lifecycle.client_ping_interval_seconds"},
    {"access_log { slow_seconds: -1 }", "access_log.slow_seconds"},
    {"log_level: \"loud\"", "log_level"},
};
INSTANTIATE_TEST_SUITE_P(Table, BadConfigTest, ValuesIn(kBadConfigs));

TEST(ParseServerConfig, AShorterLimitShortensTheDefaultTimeToLive) {
  const auto options = ParseServerConfig("documents { max_ttl_seconds: 60 }");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->documents.default_ttl, absl::Seconds(60));
}

TEST(ParseServerConfig, RefusesTooManyModelsAndTooLargeFiles) {
  std::string models;
  for (int i = 0; i < 65; ++i) models += "models { name: \"m\" directory: \"d\" }\n";
  EXPECT_FALSE(ParseServerConfig(models).ok());
  const auto large = ParseServerConfig(std::string((1 << 20) + 1, '#'));
  ASSERT_FALSE(large.ok());
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("1048576"));
}

ServerOptions Servable() {
  ServerOptions options;
  options.models.push_back({"m", "d"});
  return options;
}

TEST(CheckServerOptions, RelationsBetweenFields) {
  EXPECT_TRUE(CheckServerOptions(Servable()).ok());
  EXPECT_FALSE(CheckServerOptions(ServerOptions()).ok()) << "no model";

  ServerOptions twice = Servable();
  twice.models.push_back({"m", "e"});
  EXPECT_THAT(std::string(CheckServerOptions(twice).message()), HasSubstr("\"m\""));

  ServerOptions open = Servable();
  open.listen_address = "0.0.0.0:1";
  EXPECT_THAT(std::string(CheckServerOptions(open).message()), HasSubstr("allow_insecure"));
  open.security.allow_insecure = true;
  EXPECT_TRUE(CheckServerOptions(open).ok());
  open.security.allow_insecure = false;
  open.security.tls_certificate_file = "c";
  EXPECT_THAT(std::string(CheckServerOptions(open).message()), HasSubstr("tls_key_file"));
  open.security.tls_key_file = "k";
  EXPECT_TRUE(CheckServerOptions(open).ok());

  ServerOptions ttl = Servable();
  ttl.documents.max_ttl = absl::Seconds(5);
  EXPECT_THAT(std::string(CheckServerOptions(ttl).message()), HasSubstr("default_ttl_seconds"));

  ServerOptions ca = Servable();
  ca.security.tls_client_ca_file = "a";
  EXPECT_THAT(std::string(CheckServerOptions(ca).message()), HasSubstr("tls_client_ca_file"));
}

TEST(ParseHostPort, LoopbackIsRecognised) {
  for (const char* address : {"127.0.0.1:1", "127.1.2.3:0", "localhost:65535", "[::1]:5"}) {
    const auto parsed = ParseHostPort(address);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(parsed->loopback()) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "example:1", "128.0.0.1:1", "127.example:1"}) {
    const auto parsed = ParseHostPort(address);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_FALSE(parsed->loopback()) << address;
  }
}

TEST(ParseModelFlag, NameEqualsDirectory) {
  const auto model = ParseModelFlag("a/b=/x=y");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "a/b");
  EXPECT_EQ(model->directory, "/x=y");
  for (const char* bad : {"", "a", "=d", "a=", "a b=d"})
    EXPECT_FALSE(ParseModelFlag(bad).ok()) << bad;
}

// The sample that users start from must not rot.
TEST(SampleConfig, IsValid) {
  std::ifstream in(LONGDOC_SOURCE_DIR "/deploy/config/server.textproto");
  ASSERT_TRUE(in);
  std::stringstream text;
  text << in.rdbuf();
  const auto options = ParseServerConfig(text.str());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(CheckServerOptions(*options).ok());
}

}  // namespace
}  // namespace longdoc::service
