#include "service/metrics.h"

#include <array>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "service/metrics_collectors.h"
#include "service/version.h"

namespace longdoc::service {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;
using Labels = std::map<std::string, std::string>;

constexpr std::array<const char*, 13> kRpcNames = {
    "EmbedTexts",       "EmbedDocument",  "ListModels",  "GetModel",      "Tokenize",
    "EstimateDocument", "EncodeDocument", "GetDocument", "ListDocuments", "DeleteDocument",
    "ScoreCandidates",  "RankDocuments",  "GenerateText"};
// In the order of Stage; the last one is for a cancelled request whose stage nobody told.
constexpr std::array<const char*, kNumStages + 1> kStageNames = {"receive", "tokenize", "queue",
                                                                 "encode",  "send",     "unknown"};
constexpr std::array<const char*, 3> kStreamEventNames = {"read_paused", "idle_timeout",
                                                          "client_gone"};
constexpr std::array<const char*, 4> kModeNames = {"tolerance", "exact", "window", "dense"};
// In the order of the numbers of absl::StatusCode, which are gRPC's.
constexpr std::array<const char*, 17> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Stable reasons (docs/api.md) to label values. The list is closed, so that no client and no new
// reason can add series.
struct ReasonLabel {
  const char* reason;
  const char* label;
};
constexpr ReasonLabel kReasonLabels[] = {
    {"QUEUE_FULL", "queue_full"},
    {"DOCUMENT_EXCEEDS_MEMORY", "memory"},
    {"OUT_OF_MEMORY", "memory"},
    {"DOCUMENT_BUDGET_EXCEEDED", "document_budget"},
    {"DOCUMENT_NOT_FOUND", "no_document"},
    {"DOCUMENT_EXPIRED", "no_document"},
    {"DOCUMENT_EVICTED", "no_document"},
    {"DOCUMENT_DELETED", "no_document"},
    {"DOCUMENT_FOREIGN", "no_document"},
    {"TOO_MANY_TOKENS", "too_many_tokens"},
    {"DOCUMENT_TOO_LARGE", "too_large"},
    {"TEXT_TOO_LARGE", "too_large"},
    {"RESPONSE_TOO_LARGE", "too_large"},
    {"TOO_MANY_PASSAGES", "too_many_passages"},
    {"TOO_MANY_TEXTS", "too_many_texts"},
    {"TOO_MANY_STREAMS", "too_many_streams"},
    {"EMPTY_DOCUMENT", "empty"},
    {"EMPTY_INPUT", "empty"},
    {"INVALID_UTF8", "invalid_utf8"},
    {"UNKNOWN_MODEL", "unknown_model"},
    {"DRAINING", "draining"},
    {"IDLE_TIMEOUT", "idle_timeout"},
    {"READ_STALLED", "read_stalled"},
    {"UNAUTHENTICATED", "auth"},
};
constexpr char kInvalidArgumentLabel[] = "invalid_argument";
constexpr char kOtherLabel[] = "other";

// Whether a status means that the server refused the request, rather than lost or broke it.
bool IsRefusal(const absl::Status& status, const std::string& reason) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
      return false;
    case absl::StatusCode::kDeadlineExceeded:
      return reason == "IDLE_TIMEOUT" || reason == "READ_STALLED";
    default:
      return true;
  }
}

const char* RefusalLabel(const absl::Status& status, const std::string& reason) {
  for (const ReasonLabel& known : kReasonLabels) {
    if (reason == known.reason) return known.label;
  }
  if (status.code() == absl::StatusCode::kUnauthenticated) return "auth";
  if (status.code() == absl::StatusCode::kInvalidArgument ||
      status.code() == absl::StatusCode::kOutOfRange) {
    return kInvalidArgumentLabel;
  }
  return kOtherLabel;
}

Buckets RequestBuckets() {
  return {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640};
}

Buckets StageBuckets() {
  Buckets buckets = {.0005, .001, .0025};
  for (double bound : RequestBuckets()) buckets.push_back(bound);
  return buckets;
}

Buckets TokenBuckets() {
  Buckets buckets;
  for (int exponent = 4; exponent <= 20; ++exponent) buckets.push_back(1 << exponent);
  return buckets;
}

Buckets RatioBuckets() { return {.005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, .75, 1}; }
// Of allocated to planned memory: the interesting part is around 1.
Buckets MemoryRatioBuckets() { return {.25, .5, .75, .9, .95, 1, 1.05, 1.1, 1.25, 1.5, 2}; }

const char* ComputeTypeName(ComputeType type) {
  switch (type) {
    case ComputeType::kAuto:
      return "auto";
    case ComputeType::kF32:
      return "f32";
    case ComputeType::kBF16:
      return "bf16";
  }
  return "auto";
}

}  // namespace

// Handles to all series. Registration happens here, once; it throws only for a malformed name,
// which is a bug that the first test run shows.
struct Metrics::Impl {
  Impl();

  Family<Counter>& AddCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<Gauge>& AddGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Family<Histogram>& AddHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }
  void AddRequestSeries();
  void AddDocumentSeries();

  prometheus::Registry registry;

  std::array<std::array<Counter*, kCodeNames.size()>, kRpcNames.size()> requests;
  std::array<Gauge*, kRpcNames.size()> running;
  std::array<Histogram*, kRpcNames.size()> durations;
  std::array<Histogram*, kStageNames.size() - 1> stages;
  std::array<Counter*, kStageNames.size()> cancelled;
  std::map<std::string, Counter*> rejected;
  Histogram* time_to_first_result;
  Histogram* request_input_tokens;
  Counter* input_tokens;
  Counter* received_bytes;
  Counter* truncated_requests;
  Counter* truncated_tokens;
  std::array<Counter*, kModeNames.size()> attention_modes;
  Histogram* tile_ratio;
  Histogram* memory_ratio;
  std::array<Counter*, kStreamEventNames.size()> stream_events;
  Gauge* streams_open;
  Gauge* stream_buffered_bytes;
  Gauge* draining;
  Family<Counter>* bugs;
  Family<Gauge>* build_info;
  Gauge* build_info_series;
  Family<Gauge>* model_info;
  Family<Gauge>* model_load_seconds;

  // Engine and store are read at scrape time. After they are detached their last counters stay,
  // because a counter must not fall back to zero within the life of a process.
  mutable std::mutex sources_mutex;
  const Engine* engine = nullptr;
  EngineStats last_engine_stats;
  const DocumentStore* documents = nullptr;
  DocumentStoreStats last_document_stats;
};

Metrics::Impl::Impl() {
  AddRequestSeries();
  AddDocumentSeries();
  streams_open = &AddGauge("longdoc_streams_open", "Document streams that are open.").Add({});
  stream_buffered_bytes = &AddGauge("longdoc_stream_buffered_bytes",
                                    "Bytes received from streams and not yet tokenized.")
                               .Add({});
  auto& events = AddCounter("longdoc_stream_events_total",
                            "Reads paused by flow control, idle timeouts, vanished clients.");
  for (size_t i = 0; i < kStreamEventNames.size(); ++i) {
    stream_events[i] = &events.Add({{"event", kStreamEventNames[i]}});
  }
  draining = &AddGauge("longdoc_draining", "1 while the server drains, else 0.").Add({});
  bugs = &AddCounter("longdoc_bugs_total", "Broken invariants that were survived; alert on any.");
  bugs->Add({{"site", kOtherLabel}});
  build_info = &AddGauge("longdoc_build_info", "Constant 1; the version and the device in use.");
  build_info_series = &build_info->Add({{"version", kVersion}, {"device", "none"}});
  build_info_series->Set(1);
  model_info = &AddGauge("longdoc_model_info", "Constant 1 for every model that is served.");
  model_load_seconds = &AddGauge("longdoc_model_load_duration_seconds",
                                 "Time that reading and packing the model took.");
}

void Metrics::Impl::AddRequestSeries() {
  auto& total = AddCounter("longdoc_requests_total", "Finished RPCs by gRPC status code.");
  auto& now = AddGauge("longdoc_requests_running", "RPCs in progress.");
  auto& duration = AddHistogram("longdoc_request_duration_seconds",
                                "From the start of an RPC to its status, whatever that is.");
  for (size_t rpc = 0; rpc < kRpcNames.size(); ++rpc) {
    for (size_t code = 0; code < kCodeNames.size(); ++code) {
      requests[rpc][code] = &total.Add({{"rpc", kRpcNames[rpc]}, {"code", kCodeNames[code]}});
    }
    running[rpc] = &now.Add({{"rpc", kRpcNames[rpc]}});
    durations[rpc] = &duration.Add({{"rpc", kRpcNames[rpc]}}, RequestBuckets());
  }
  auto& stage = AddHistogram("longdoc_stage_duration_seconds", "Time of a request in each stage.");
  for (size_t i = 0; i < stages.size(); ++i) {
    stages[i] = &stage.Add({{"stage", kStageNames[i]}}, StageBuckets());
  }
  auto& stopped = AddCounter("longdoc_cancelled_total",
                             "Requests cancelled or past their deadline, by the stage reached.");
  for (size_t i = 0; i < kStageNames.size(); ++i) {
    cancelled[i] = &stopped.Add({{"stage", kStageNames[i]}});
  }
  auto& refused = AddCounter("longdoc_rejected_total", "Requests refused, by reason.");
  for (const ReasonLabel& known : kReasonLabels) {
    rejected[known.label] = &refused.Add({{"reason", known.label}});
  }
  for (const char* label : {kInvalidArgumentLabel, kOtherLabel}) {
    rejected[label] = &refused.Add({{"reason", label}});
  }
  time_to_first_result = &AddHistogram("longdoc_time_to_first_result_seconds",
                                       "From the start of a stream to its first vector.")
                              .Add({}, RequestBuckets());
}

void Metrics::Impl::AddDocumentSeries() {
  request_input_tokens = &AddHistogram("longdoc_request_input_tokens",
                                       "Tokens of a text or document, before truncation.")
                              .Add({}, TokenBuckets());
  input_tokens = &AddCounter("longdoc_input_tokens_total", "Tokens received.").Add({});
  received_bytes =
      &AddCounter("longdoc_received_bytes_total", "Bytes of content received.").Add({});
  truncated_requests =
      &AddCounter("longdoc_truncated_requests_total", "Texts and documents cut on request.")
           .Add({});
  truncated_tokens =
      &AddCounter("longdoc_truncated_tokens_total", "Tokens cut off from them.").Add({});
  auto& modes = AddCounter("longdoc_attention_mode_total", "Encodes by attention policy.");
  for (size_t i = 0; i < kModeNames.size(); ++i) {
    attention_modes[i] = &modes.Add({{"mode", kModeNames[i]}});
  }
  tile_ratio = &AddHistogram("longdoc_attention_tile_ratio",
                             "Attention tiles computed over those of dense attention, per encode.")
                    .Add({}, RatioBuckets());
  memory_ratio = &AddHistogram("longdoc_document_memory_use_ratio",
                               "Peak memory of an encode over what admission reserved for it.")
                      .Add({}, MemoryRatioBuckets());
}

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

const char* RpcName(Rpc rpc) { return kRpcNames[static_cast<size_t>(rpc)]; }
const char* StageName(Stage stage) { return kStageNames[static_cast<size_t>(stage)]; }

void Metrics::RpcStarted(Rpc rpc) { impl_->running[static_cast<size_t>(rpc)]->Increment(); }

void Metrics::RpcFinished(Rpc rpc, const absl::Status& status, double seconds,
                          std::optional<Stage> reached) {
  const size_t index = static_cast<size_t>(rpc);
  impl_->running[index]->Decrement();
  impl_->durations[index]->Observe(seconds);
  size_t code = static_cast<size_t>(status.code());
  if (code >= kCodeNames.size()) code = static_cast<size_t>(absl::StatusCode::kUnknown);
  impl_->requests[index][code]->Increment();
  const std::string reason = ReasonOf(status);
  if (IsRefusal(status, reason)) {
    impl_->rejected.at(RefusalLabel(status, reason))->Increment();
  } else if (status.code() == absl::StatusCode::kCancelled ||
             status.code() == absl::StatusCode::kDeadlineExceeded) {
    impl_->cancelled[reached ? static_cast<size_t>(*reached) : kStageNames.size() - 1]->Increment();
  }
}

void Metrics::StageSeconds(Stage stage, double seconds) {
  impl_->stages[static_cast<size_t>(stage)]->Observe(seconds);
}

void Metrics::TimeToFirstResult(double seconds) { impl_->time_to_first_result->Observe(seconds); }

void Metrics::BytesReceived(int64_t bytes) {
  impl_->received_bytes->Increment(static_cast<double>(bytes));
}

void Metrics::InputTokens(int64_t tokens) {
  impl_->request_input_tokens->Observe(static_cast<double>(tokens));
  impl_->input_tokens->Increment(static_cast<double>(tokens));
}

void Metrics::Truncated(int64_t tokens_dropped) {
  impl_->truncated_requests->Increment();
  impl_->truncated_tokens->Increment(static_cast<double>(tokens_dropped));
}

void Metrics::Encoded(const EncodeStats& stats) {
  if (stats.tiles_dense > 0) {
    impl_->tile_ratio->Observe(static_cast<double>(stats.tiles_computed) /
                               static_cast<double>(stats.tiles_dense));
  }
  // What the texts of one pass allocate is shared out by their tokens, plans are not: only an
  // encode that had its pass to itself can be compared with its plan.
  if (stats.planned_bytes > 0 && stats.batch_sequences <= 1) {
    impl_->memory_ratio->Observe(static_cast<double>(stats.peak_bytes) /
                                 static_cast<double>(stats.planned_bytes));
  }
}

void Metrics::AttentionMode(const AttentionPolicy& policy) {
  impl_->attention_modes[static_cast<size_t>(policy.mode)]->Increment();
}

void Metrics::Stream(StreamEvent event) {
  impl_->stream_events[static_cast<size_t>(event)]->Increment();
}

void Metrics::StreamsOpen(int delta) { impl_->streams_open->Increment(delta); }

void Metrics::StreamBufferedBytes(int64_t delta) {
  impl_->stream_buffered_bytes->Increment(static_cast<double>(delta));
}

void Metrics::Bug(std::string_view site) {
  // Sites are literals of our code, so the label is bounded. Add returns the child there is.
  impl_->bugs->Add({{"site", std::string(site)}}).Increment();
}

void Metrics::ModelLoaded(const Model& model, double seconds) {
  impl_->model_info
      ->Add({{"model", model.name()},
             {"revision", model.revision()},
             {"compute_type", ComputeTypeName(model.compute_type())},
             {"dimensions", std::to_string(model.info().dimensions)}})
      .Set(1);
  impl_->model_load_seconds->Add({{"model", model.name()}}).Set(seconds);
}

void Metrics::AttachEngine(const Engine* engine) {
  std::lock_guard<std::mutex> lock(impl_->sources_mutex);
  if (engine == nullptr && impl_->engine != nullptr) {
    impl_->last_engine_stats = impl_->engine->stats();
  }
  impl_->engine = engine;
  if (engine == nullptr) return;
  impl_->build_info->Remove(impl_->build_info_series);
  impl_->build_info_series =
      &impl_->build_info->Add({{"version", kVersion}, {"device", engine->DeviceDescription()}});
  impl_->build_info_series->Set(1);
}

void Metrics::AttachDocuments(const DocumentStore* documents) {
  std::lock_guard<std::mutex> lock(impl_->sources_mutex);
  if (documents == nullptr && impl_->documents != nullptr) {
    impl_->last_document_stats = impl_->documents->stats();
  }
  impl_->documents = documents;
}

void Metrics::SetDraining(bool draining) { impl_->draining->Set(draining ? 1 : 0); }

std::string Metrics::Exposition() const {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  {
    std::lock_guard<std::mutex> lock(impl_->sources_mutex);
    const EngineStats stats = impl_->engine ? impl_->engine->stats() : impl_->last_engine_stats;
    for (auto& family : EngineFamilies(stats)) families.push_back(std::move(family));
    const DocumentStoreStats kept =
        impl_->documents ? impl_->documents->stats() : impl_->last_document_stats;
    for (auto& family : DocumentFamilies(kept)) families.push_back(std::move(family));
  }
  for (auto& family : ProcessFamilies()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace longdoc::service
