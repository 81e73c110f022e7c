#include "service/metrics.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/error_reason.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longdoc::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// An engine that only gives readings.
class ReadingsEngine final : public Engine {
 public:
  absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string&,
                                                         const std::string&) override {
    return absl::UnimplementedError("readings only");
  }
  absl::StatusOr<EncodePlan> Plan(const Model&, const EncodeShape&) const override {
    return absl::UnimplementedError("readings only");
  }
  absl::Status Submit(EncodeTask&&) override { return absl::UnimplementedError("readings only"); }
  absl::Status Submit(MaxSimTask&&) override { return absl::UnimplementedError("readings only"); }
  absl::Status Submit(ScoreTask&&) override { return absl::UnimplementedError("readings only"); }
  absl::Status Submit(GenerateTask&&) override { return absl::UnimplementedError("readings only"); }
  EngineStats stats() const override { return readings; }
  const EngineOptions& options() const override { return options_; }
  std::string DeviceDescription() const override { return "cpu \"test\", 2 threads"; }
  void Stop() override {}

  EngineStats readings;

 private:
  EngineOptions options_;
};

class NamedModel final : public Model {
 public:
  NamedModel() { info_.dimensions = 512; }
  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { std::abort(); }
  const std::string& revision() const override { return revision_; }
  ComputeType compute_type() const override { return ComputeType::kBF16; }
  int64_t weight_bytes() const override { return 1; }

 private:
  ModelInfo info_;
  std::string name_ = "jina", revision_ = "abc";
};

// Value of the series with exactly this name and label set, or -1 when it is not exported.
double Value(const std::string& exposition, const std::string& series) {
  const size_t at = absl::StrCat("\n", exposition).find(absl::StrCat("\n", series, " "));
  if (at == std::string::npos) return -1;
  return std::strtod(exposition.c_str() + at + series.size() + 1, nullptr);
}

double Value(const Metrics& metrics, const std::string& series) {
  return Value(metrics.Exposition(), series);
}

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

// Names with their label names and closed label values, one a line: what dashboards rely on.
std::set<std::string> SeriesNames(const std::string& exposition) {
  std::set<std::string> names;
  for (const std::string& line : Lines(exposition)) {
    std::smatch type;
    if (std::regex_match(line, type, std::regex("# TYPE (\\S+) (\\S+)"))) {
      names.insert(type[1].str() + " " + type[2].str());
    }
    std::smatch series;
    if (std::regex_match(line, series, std::regex("([a-z_]+)\\{(.*)\\} .*"))) {
      std::smatch label;
      std::string rest = series[2].str();
      while (std::regex_search(rest, label, std::regex("([a-z_]+)=\"([^\"]*)\""))) {
        const std::string key = label[1].str();
        // Values of these come from models, devices and buckets, not from a closed list.
        const bool open = key == "le" || key == "version" || key == "device" || key == "model" ||
                          key == "revision" || key == "compute_type" || key == "dimensions";
        if (key != "le") {
          names.insert(absl::StrCat(series[1].str(), "{", key, open ? "" : "=",
                                    open ? "" : label[2].str(), "}"));
        }
        rest = label.suffix();
      }
    }
  }
  return names;
}

TEST(Metrics, NamesAtTheFirstScrapeAreTheStoredOnes) {
  Metrics metrics;
  ReadingsEngine engine;
  metrics.AttachEngine(&engine);
  metrics.ModelLoaded(NamedModel(), 1.5);
  const std::set<std::string> actual = SeriesNames(metrics.Exposition());
  metrics.AttachEngine(nullptr);

  const std::string path = LONGDOC_SOURCE_DIR "/tests/service/metric_names.txt";
  std::ifstream in(path);
  std::set<std::string> stored;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line[0] != '#') stored.insert(line);
  }
  std::string listing;
  for (const std::string& name : actual) listing += name + "\n";
  EXPECT_EQ(actual, stored) << "names are API; if the change is meant, store in " << path << ":\n"
                            << listing;
}

TEST(Metrics, FirstScrapeIsAllZero) {
  const Metrics metrics;
  int samples = 0;
  for (const std::string& line : Lines(metrics.Exposition())) {
    if (line[0] == '#' || line.rfind("longdoc_", 0) != 0) continue;
    if (line.rfind("longdoc_build_info", 0) == 0) continue;            // constant 1
    if (line.rfind("longdoc_resident_memory_peak", 0) == 0) continue;  // of the process
    ++samples;
    EXPECT_EQ(line.substr(line.rfind(' ')), " 0") << line;
  }
  EXPECT_GT(samples, 300);
}

TEST(Metrics, ExpositionPassesPromtool) {
  if (std::system("command -v promtool >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool (package prometheus) is not installed";
  }
  Metrics metrics;
  ReadingsEngine engine;
  metrics.AttachEngine(&engine);
  metrics.ModelLoaded(NamedModel(), 1.5);
  metrics.RpcStarted(Rpc::kEmbedTexts);
  metrics.RpcFinished(Rpc::kEmbedTexts, absl::OkStatus(), 0.3);
  const std::string path = ::testing::TempDir() + "/exposition.txt";
  std::ofstream(path) << metrics.Exposition();
  metrics.AttachEngine(nullptr);
  FILE* tool = popen(("promtool check metrics < " + path + " 2>&1").c_str(), "r");
  ASSERT_NE(tool, nullptr);
  std::string output;
  char buffer[1024];
  while (std::fgets(buffer, sizeof(buffer), tool) != nullptr) output += buffer;
  EXPECT_EQ(pclose(tool), 0) << output;
  EXPECT_EQ(output, "");
}

// Every series has its line in the operations manual.
TEST(Metrics, EveryNameIsDocumented) {
  std::ifstream in(LONGDOC_SOURCE_DIR "/docs/operations.md");
  std::stringstream text;
  text << in.rdbuf();
  const std::string manual = text.str();
  for (const std::string& name : SeriesNames(Metrics().Exposition())) {
    const std::string family = name.substr(0, name.find_first_of(" {"));
    if (name.find('{') != std::string::npos) continue;
    EXPECT_NE(manual.find("`" + family), std::string::npos) << family;
  }
}

TEST(Metrics, RequestsAreCountedOnceByCode) {
  Metrics metrics;
  metrics.RpcStarted(Rpc::kEmbedDocument);
  EXPECT_EQ(Value(metrics, "longdoc_requests_running{rpc=\"EmbedDocument\"}"), 1);
  metrics.RpcFinished(Rpc::kEmbedDocument, absl::OkStatus(), 100);
  EXPECT_EQ(Value(metrics, "longdoc_requests_running{rpc=\"EmbedDocument\"}"), 0);
  EXPECT_EQ(Value(metrics, "longdoc_requests_total{code=\"OK\",rpc=\"EmbedDocument\"}"), 1);
  const std::string bucket = "longdoc_request_duration_seconds_bucket{rpc=\"EmbedDocument\",le=";
  EXPECT_EQ(Value(metrics, bucket + "\"80\"}"), 0);
  EXPECT_EQ(Value(metrics, bucket + "\"160\"}"), 1);
}

TEST(Metrics, RefusalsByReason) {
  Metrics metrics;
  const auto finish = [&](absl::Status status, const char* reason) {
    metrics.RpcStarted(Rpc::kEmbedTexts);
    metrics.RpcFinished(Rpc::kEmbedTexts, WithReason(std::move(status), reason), 0.1);
  };
  const auto rejected = [&](const std::string& reason) {
    return Value(metrics, absl::StrCat("longdoc_rejected_total{reason=\"", reason, "\"}"));
  };
  finish(absl::ResourceExhaustedError("x"), "QUEUE_FULL");
  finish(absl::ResourceExhaustedError("x"), "DOCUMENT_EXCEEDS_MEMORY");
  finish(absl::InvalidArgumentError("x"), "TOO_MANY_TOKENS");
  finish(absl::InvalidArgumentError("x"), "SOMETHING_NEW");
  finish(absl::UnauthenticatedError("x"), "UNAUTHENTICATED");
  finish(absl::UnavailableError("x"), "DRAINING");
  finish(absl::ResourceExhaustedError("x"), "SOMETHING_ELSE");
  finish(absl::DeadlineExceededError("x"), "IDLE_TIMEOUT");
  finish(absl::ResourceExhaustedError("x"), "DOCUMENT_BUDGET_EXCEEDED");
  finish(absl::NotFoundError("x"), "DOCUMENT_EXPIRED");
  for (const char* reason :
       {"document_budget", "no_document", "queue_full", "memory", "too_many_tokens",
        "invalid_argument", "auth", "draining", "other", "idle_timeout"}) {
    EXPECT_EQ(rejected(reason), 1) << reason;
  }
  // What is no refusal.
  finish(absl::InternalError("x"), "QUEUE_FULL");
  finish(absl::CancelledError("x"), "QUEUE_FULL");
  EXPECT_EQ(rejected("queue_full"), 1);
  EXPECT_EQ(Value(metrics, "longdoc_requests_total{code=\"INTERNAL\",rpc=\"EmbedTexts\"}"), 1);
}

TEST(Metrics, CancelledByStage) {
  Metrics metrics;
  const auto cancelled = [&](const std::string& stage) {
    return Value(metrics, absl::StrCat("longdoc_cancelled_total{stage=\"", stage, "\"}"));
  };
  for (int i = 0; i < 3; ++i) metrics.RpcStarted(Rpc::kEmbedDocument);
  metrics.RpcFinished(Rpc::kEmbedDocument, absl::CancelledError(), 1, Stage::kEncode);
  metrics.RpcFinished(Rpc::kEmbedDocument, absl::DeadlineExceededError(""), 1, Stage::kQueue);
  metrics.RpcFinished(Rpc::kEmbedDocument, absl::CancelledError(), 1);
  EXPECT_EQ(cancelled("encode"), 1);
  EXPECT_EQ(cancelled("queue"), 1);
  EXPECT_EQ(cancelled("unknown"), 1);
}

TEST(Metrics, EncodesStreamsAndModels) {
  Metrics metrics;
  metrics.InputTokens(100000);
  metrics.Truncated(7);
  metrics.BytesReceived(12);
  metrics.StageSeconds(Stage::kEncode, 30);
  metrics.AttentionMode({AttentionMode::kWindow});
  EncodeStats stats;
  stats.tiles_computed = 4;
  stats.tiles_dense = 100;
  stats.planned_bytes = 1000;
  stats.peak_bytes = 990;
  metrics.Encoded(stats);
  metrics.Encoded(EncodeStats());  // nothing planned: no observation, no division by zero
  stats.tiles_dense = 0;
  stats.batch_sequences = 8;
  metrics.Encoded(stats);  // shared its pass: what it allocated alone is not known
  metrics.StreamsOpen(2);
  metrics.StreamsOpen(-1);
  metrics.StreamBufferedBytes(500);
  metrics.Stream(StreamEvent::kIdleTimeout);
  metrics.Bug("non_finite_output");
  metrics.ModelLoaded(NamedModel(), 2.5);
  metrics.SetDraining(true);
  const std::string text = metrics.Exposition();
  EXPECT_EQ(Value(text, "longdoc_input_tokens_total"), 100000);
  EXPECT_EQ(Value(text, "longdoc_request_input_tokens_bucket{le=\"65536\"}"), 0);
  EXPECT_EQ(Value(text, "longdoc_request_input_tokens_bucket{le=\"131072\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_truncated_requests_total"), 1);
  EXPECT_EQ(Value(text, "longdoc_truncated_tokens_total"), 7);
  EXPECT_EQ(Value(text, "longdoc_received_bytes_total"), 12);
  EXPECT_EQ(Value(text, "longdoc_stage_duration_seconds_sum{stage=\"encode\"}"), 30);
  EXPECT_EQ(Value(text, "longdoc_attention_mode_total{mode=\"window\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_attention_tile_ratio_count"), 1);
  EXPECT_EQ(Value(text, "longdoc_attention_tile_ratio_bucket{le=\"0.05\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_document_memory_use_ratio_bucket{le=\"1\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_document_memory_use_ratio_count"), 1);
  EXPECT_EQ(Value(text, "longdoc_streams_open"), 1);
  EXPECT_EQ(Value(text, "longdoc_stream_buffered_bytes"), 500);
  EXPECT_EQ(Value(text, "longdoc_stream_events_total{event=\"idle_timeout\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_bugs_total{site=\"non_finite_output\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_model_load_duration_seconds{model=\"jina\"}"), 2.5);
  EXPECT_THAT(text, HasSubstr("compute_type=\"bf16\""));
  EXPECT_EQ(Value(text, "longdoc_draining"), 1);
}

TEST(Metrics, EngineIsReadAtScrapeAndItsCountersOutliveIt) {
  Metrics metrics;
  {
    ReadingsEngine engine;
    engine.readings.queued_tokens = 11;
    engine.readings.tokens_encoded = 1000;
    engine.readings.reserved_bytes = 77;
    metrics.AttachEngine(&engine);
    EXPECT_EQ(Value(metrics, "longdoc_queued_tokens"), 11);
    engine.readings.tokens_encoded = 2000;
    EXPECT_EQ(Value(metrics, "longdoc_encoded_tokens_total"), 2000);
    EXPECT_EQ(Value(metrics, "longdoc_document_memory_bytes{kind=\"reserved\"}"), 77);
    EXPECT_THAT(metrics.Exposition(), HasSubstr("device=\"cpu \\\"test\\\", 2 threads\""));
    EXPECT_THAT(metrics.Exposition(), Not(HasSubstr("device=\"none\"")));
    metrics.AttachEngine(nullptr);
  }
  EXPECT_EQ(Value(metrics, "longdoc_encoded_tokens_total"), 2000);
}

TEST(Metrics, KeptDocumentsAreReadAtScrapeAndTheirCountersOutliveTheStore) {
  Metrics metrics;
  {
    DocumentStoreOptions options;
    options.budget_bytes = 100'000;
    options.instance = "a";
    DocumentStore store(options);
    metrics.AttachDocuments(&store);
    KeptDocument document;
    document.ids.reserve(1000);
    auto pin = store.Add(std::string(32, 'k'), std::move(document), absl::ZeroDuration(), nullptr);
    ASSERT_TRUE(pin.ok());
    const auto promised = store.Reserve(500);
    ASSERT_TRUE(store.Find(pin->name()).ok());
    ASSERT_FALSE(store.Find("documents/b-" + std::string(32, '0')).ok());
    const std::string text = metrics.Exposition();
    EXPECT_EQ(Value(text, "longdoc_kept_documents"), 1);
    EXPECT_EQ(Value(text, "longdoc_kept_documents_pinned"), 1);
    EXPECT_EQ(Value(text, "longdoc_kept_document_bytes{kind=\"ids\"}"), 4000);
    EXPECT_EQ(Value(text, "longdoc_kept_document_bytes{kind=\"cross_kv\"}"), 0);
    EXPECT_EQ(Value(text, "longdoc_kept_document_reserved_bytes"), 500);
    EXPECT_EQ(Value(text, "longdoc_kept_document_budget_bytes"), 100'000);
    EXPECT_EQ(Value(text, "longdoc_kept_document_lookups_total{outcome=\"found\"}"), 1);
    EXPECT_EQ(Value(text, "longdoc_kept_document_lookups_total{outcome=\"missed\"}"), 1);
    metrics.AttachDocuments(nullptr);
  }
  EXPECT_EQ(Value(metrics, "longdoc_kept_document_events_total{event=\"added\"}"), 1);
}

TEST(Metrics, RoutingByRouter) {
  Metrics metrics;
  ReadingsEngine engine;
  engine.readings.routing.tokens = {1, 2, 3};
  engine.readings.routing.weight = {0.5, 1.5, 2.5};
  engine.readings.routing.follow_ups = 10;
  engine.readings.routing.repeated = 4;
  metrics.AttachEngine(&engine);
  const std::string text = metrics.Exposition();
  metrics.AttachEngine(nullptr);
  EXPECT_EQ(Value(text, "longdoc_routed_tokens_total{router=\"query\"}"), 1);
  EXPECT_EQ(Value(text, "longdoc_routed_tokens_total{router=\"key_value\"}"), 2);
  EXPECT_EQ(Value(text, "longdoc_routed_weight_total{router=\"feed_forward\"}"), 2.5);
  EXPECT_EQ(Value(text, "longdoc_routed_queries_compared_total"), 10);
  EXPECT_EQ(Value(text, "longdoc_routed_queries_repeated_total"), 4);
}

TEST(Metrics, DecoderCounters) {
  Metrics metrics;
  ReadingsEngine engine;
  engine.readings.decode.cache_bytes = 4096;
  engine.readings.decode.candidates_scored = 3;
  engine.readings.decode.tokens_scored = 99;
  engine.readings.decode.tokens_generated = 7;
  engine.readings.decode.seconds = 1.5;
  metrics.AttachEngine(&engine);
  const std::string text = metrics.Exposition();
  metrics.AttachEngine(nullptr);
  EXPECT_EQ(Value(text, "longdoc_kv_cache_bytes"), 4096);
  EXPECT_EQ(Value(text, "longdoc_scored_candidates_total"), 3);
  EXPECT_EQ(Value(text, "longdoc_decoded_tokens_total{kind=\"scored\"}"), 99);
  EXPECT_EQ(Value(text, "longdoc_decoded_tokens_total{kind=\"generated\"}"), 7);
  EXPECT_EQ(Value(text, "longdoc_decode_seconds_total"), 1.5);
}

TEST(Metrics, DeviceMemoryAndWhatMovesOutOfIt) {
  Metrics metrics;
  EXPECT_EQ(Value(metrics, "longdoc_device_memory_bytes{kind=\"limit\"}"), 0);
  ReadingsEngine engine;
  engine.readings.device_memory.limit_bytes = 1000;
  engine.readings.device_memory.allocated_bytes = 600;
  engine.readings.device_memory.retained_bytes = 100;
  engine.readings.device_memory.peak_bytes = 900;
  engine.readings.decode.spill.device_bytes = 70;
  engine.readings.decode.spill.host_bytes = 30;
  engine.readings.decode.spill.host_limit_bytes = 50;
  engine.readings.decode.spill.spilled = 5;
  engine.readings.decode.spill.returned = 4;
  metrics.AttachEngine(&engine);
  const std::string text = metrics.Exposition();
  metrics.AttachEngine(nullptr);
  EXPECT_EQ(Value(text, "longdoc_device_memory_bytes{kind=\"limit\"}"), 1000);
  EXPECT_EQ(Value(text, "longdoc_device_memory_bytes{kind=\"allocated\"}"), 600);
  EXPECT_EQ(Value(text, "longdoc_device_memory_bytes{kind=\"retained\"}"), 100);
  EXPECT_EQ(Value(text, "longdoc_device_memory_peak_bytes"), 900);
  EXPECT_EQ(Value(text, "longdoc_spill_bytes{place=\"device\"}"), 70);
  EXPECT_EQ(Value(text, "longdoc_spill_bytes{place=\"host\"}"), 30);
  EXPECT_EQ(Value(text, "longdoc_spill_limit_bytes"), 50);
  EXPECT_EQ(Value(text, "longdoc_spill_moves_total{to=\"host\"}"), 5);
  EXPECT_EQ(Value(text, "longdoc_spill_moves_total{to=\"device\"}"), 4);
}

TEST(Metrics, ProcessReadings) {
  const std::string text = Metrics().Exposition();
  EXPECT_GT(Value(text, "process_resident_memory_bytes"), 1 << 20);
  EXPECT_GE(Value(text, "longdoc_resident_memory_peak_bytes"),
            Value(text, "process_resident_memory_bytes") * 0.99);
  EXPECT_GT(Value(text, "process_start_time_seconds"), 1.6e9);
  EXPECT_GT(Value(text, "process_open_fds"), 2);
  EXPECT_GT(Value(text, "process_max_fds"), 2);
}

TEST(Metrics, RecordingAndScrapingAtOnce) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        metrics.RpcStarted(Rpc::kTokenize);
        metrics.InputTokens(3);
        metrics.RpcFinished(Rpc::kTokenize, absl::OkStatus(), 0.001);
        if (i % 100 == 0) {
          EXPECT_GT(metrics.Exposition().size(), 1000u);
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(Value(metrics, "longdoc_requests_total{code=\"OK\",rpc=\"Tokenize\"}"), 2000);
  EXPECT_EQ(Value(metrics, "longdoc_requests_running{rpc=\"Tokenize\"}"), 0);
}

}  // namespace
}  // namespace longdoc::service
