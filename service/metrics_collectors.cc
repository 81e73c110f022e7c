#include "service/metrics_collectors.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace longdoc::service {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(MetricType type, const char* name, const char* help) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

// Adds a sample, with one label unless `label` is null.
void AddSample(MetricFamily* family, const char* label, const char* label_value, double value) {
  ClientMetric metric;
  if (label != nullptr) {
    ClientMetric::Label pair;
    pair.name = label;
    pair.value = label_value;
    metric.label.push_back(std::move(pair));
  }
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

MetricFamily Single(MetricType type, const char* name, const char* help, double value) {
  MetricFamily family = Family(type, name, help);
  AddSample(&family, nullptr, nullptr, value);
  return family;
}

MetricFamily Gauge(const char* name, const char* help, double value) {
  return Single(MetricType::Gauge, name, help, value);
}

MetricFamily Counter(const char* name, const char* help, double value) {
  return Single(MetricType::Counter, name, help, value);
}

std::string ReadSmallFile(const char* path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Bytes of a "Name:   123 kB" line of /proc/self/status, or 0.
double StatusBytes(const std::string& status, const std::string& name) {
  const size_t at = status.find("\n" + name + ":");
  if (at == std::string::npos) return 0;
  return std::strtod(status.c_str() + at + name.size() + 2, nullptr) * 1024;
}

// Start of the process in seconds since the epoch: its clock ticks after boot, plus the boot time.
double StartTimeSeconds() {
  const std::string stat = ReadSmallFile("/proc/self/stat");
  const std::string system = ReadSmallFile("/proc/stat");
  const size_t close = stat.rfind(')');  // the command's name may hold anything but ends here
  const size_t boot = system.find("\nbtime ");
  if (close == std::string::npos || boot == std::string::npos) return 0;
  std::istringstream fields(stat.substr(close + 1));
  std::string skipped;
  for (int i = 0; i < 19; ++i) fields >> skipped;  // fields 3 to 21; the 22nd is the start time
  double ticks = 0;
  fields >> ticks;
  return std::strtod(system.c_str() + boot + std::strlen("\nbtime "), nullptr) +
         ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double OpenFileDescriptors() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  int count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count > 3 ? count - 3 : 0;  // ".", ".." and the directory itself
}

double CpuSeconds() {
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Number(int64_t value) { return static_cast<double>(value); }

std::vector<MetricFamily> RoutingFamilies(const RoutingStats& routing) {
  // In the order of RoutingStats::Router.
  constexpr const char* kRouters[RoutingStats::kNumRouters] = {"query", "key_value",
                                                               "feed_forward"};
  MetricFamily tokens =
      Family(MetricType::Counter, "longdoc_routed_tokens_total",
             "Tokens that conditional computation sent through the heavy branch, over all layers.");
  MetricFamily weight = Family(MetricType::Counter, "longdoc_routed_weight_total",
                               "Sum of those tokens' soft weights, each in (0, 1].");
  for (int i = 0; i < RoutingStats::kNumRouters; ++i) {
    AddSample(&tokens, "router", kRouters[i], Number(routing.tokens[static_cast<size_t>(i)]));
    AddSample(&weight, "router", kRouters[i], routing.weight[static_cast<size_t>(i)]);
  }
  std::vector<MetricFamily> families;
  families.push_back(std::move(tokens));
  families.push_back(std::move(weight));
  families.push_back(Counter("longdoc_routed_queries_compared_total",
                             "Routed queries of all layers but the first.",
                             Number(routing.follow_ups)));
  families.push_back(Counter("longdoc_routed_queries_repeated_total",
                             "Those of them that the layer before routed as well.",
                             Number(routing.repeated)));
  return families;
}

std::vector<MetricFamily> DecodeFamilies(const DecodeCounters& decode) {
  std::vector<MetricFamily> families;
  families.push_back(Gauge("longdoc_kv_cache_bytes",
                           "Memory of the decoder's own keys and values, in use now.",
                           Number(decode.cache_bytes)));
  families.push_back(Counter("longdoc_scored_candidates_total",
                             "Candidates scored by their likelihood.",
                             Number(decode.candidates_scored)));
  MetricFamily tokens = Family(MetricType::Counter, "longdoc_decoded_tokens_total",
                               "Tokens of the decoder: targets scored and tokens generated.");
  AddSample(&tokens, "kind", "scored", Number(decode.tokens_scored));
  AddSample(&tokens, "kind", "generated", Number(decode.tokens_generated));
  families.push_back(std::move(tokens));
  families.push_back(Counter("longdoc_decode_seconds_total", "Time of the workers in the decoder.",
                             decode.seconds));
  return families;
}

// All 0 where memory is the host's.
std::vector<MetricFamily> DeviceFamilies(const DeviceMemoryStats& memory, const SpillStats& spill) {
  MetricFamily bytes = Family(MetricType::Gauge, "longdoc_device_memory_bytes",
                              "Memory of the device: in use, kept free for reuse, and the limit.");
  AddSample(&bytes, "kind", "allocated", Number(memory.allocated_bytes));
  AddSample(&bytes, "kind", "retained", Number(memory.retained_bytes));
  AddSample(&bytes, "kind", "limit", Number(memory.limit_bytes));
  MetricFamily places = Family(MetricType::Gauge, "longdoc_spill_bytes",
                               "Keys and values of documents that can move: on the device, and in "
                               "pinned host memory.");
  AddSample(&places, "place", "device", Number(spill.device_bytes));
  AddSample(&places, "place", "host", Number(spill.host_bytes));
  MetricFamily moves =
      Family(MetricType::Counter, "longdoc_spill_moves_total",
             "Documents moved to the host because the device was full, and back to be used.");
  AddSample(&moves, "to", "host", Number(spill.spilled));
  AddSample(&moves, "to", "device", Number(spill.returned));
  std::vector<MetricFamily> families;
  families.push_back(std::move(bytes));
  families.push_back(Gauge("longdoc_device_memory_peak_bytes",
                           "Most memory of the device in use at once since the start.",
                           Number(memory.peak_bytes)));
  families.push_back(std::move(places));
  families.push_back(Gauge("longdoc_spill_limit_bytes",
                           "Most pinned host memory that they may take.",
                           Number(spill.host_limit_bytes)));
  families.push_back(std::move(moves));
  return families;
}

}  // namespace

std::vector<MetricFamily> EngineFamilies(const EngineStats& stats) {
  std::vector<MetricFamily> families;
  families.push_back(
      Gauge("longdoc_tasks_running", "Encodes that have started.", Number(stats.running_tasks)));
  families.push_back(
      Gauge("longdoc_tasks_waiting", "Encodes in the queue.", Number(stats.queued_tasks)));
  families.push_back(Gauge("longdoc_running_tokens", "Tokens of the encodes that have started.",
                           Number(stats.running_tokens)));
  families.push_back(Gauge("longdoc_queued_tokens", "Tokens of the encodes in the queue.",
                           Number(stats.queued_tokens)));

  MetricFamily memory =
      Family(MetricType::Gauge, "longdoc_document_memory_bytes",
             "Memory of documents: reserved by admission, allocated now, and the budget.");
  AddSample(&memory, "kind", "reserved", Number(stats.reserved_bytes));
  AddSample(&memory, "kind", "allocated", Number(stats.allocated_bytes));
  AddSample(&memory, "kind", "budget", Number(stats.memory_budget_bytes));
  families.push_back(std::move(memory));
  families.push_back(Gauge("longdoc_document_memory_peak_bytes",
                           "Most memory of documents allocated at once since the start.",
                           Number(stats.peak_allocated_bytes)));
  families.push_back(Gauge("longdoc_workspace_bytes", "Workspaces of the workers, kept and reused.",
                           Number(stats.scratch_bytes)));

  families.push_back(
      Counter("longdoc_batches_total", "Forward passes started.", Number(stats.batches)));
  families.push_back(Counter("longdoc_batch_sequences_total",
                             "Texts and documents in those passes; over batches: the mean size.",
                             Number(stats.batch_sequences)));
  families.push_back(
      Counter("longdoc_batch_tokens_total", "Tokens in those passes.", Number(stats.batch_tokens)));
  families.push_back(Counter("longdoc_encoded_tokens_total", "Tokens through the whole encoder.",
                             Number(stats.tokens_encoded)));
  families.push_back(Counter("longdoc_attention_tiles_computed_total",
                             "Attention tiles that were computed.", Number(stats.tiles_computed)));
  families.push_back(Counter("longdoc_attention_tiles_dense_total",
                             "Attention tiles that dense attention would have computed.",
                             Number(stats.tiles_dense)));
  MetricFamily worker = Family(MetricType::Counter, "longdoc_worker_seconds_total",
                               "Time of the workers in attention and in everything else.");
  AddSample(&worker, "kind", "attention", stats.attention_seconds);
  AddSample(&worker, "kind", "dense", stats.dense_seconds);
  families.push_back(std::move(worker));
  for (auto& family : RoutingFamilies(stats.routing)) families.push_back(std::move(family));
  for (auto& family : DecodeFamilies(stats.decode)) families.push_back(std::move(family));
  for (auto& family : DeviceFamilies(stats.device_memory, stats.decode.spill)) {
    families.push_back(std::move(family));
  }
  return families;
}

std::vector<MetricFamily> DocumentFamilies(const DocumentStoreStats& stats) {
  std::vector<MetricFamily> families;
  families.push_back(
      Gauge("longdoc_kept_documents", "Documents that are kept.", Number(stats.documents)));
  families.push_back(Gauge("longdoc_kept_documents_pinned",
                           "Kept documents in use, which are not evicted.",
                           Number(stats.pinned_documents)));
  MetricFamily bytes = Family(MetricType::Gauge, "longdoc_kept_document_bytes",
                              "Memory of kept documents, and of deleted ones still in use.");
  AddSample(&bytes, "kind", "cross_kv", Number(stats.held.cross_kv));
  AddSample(&bytes, "kind", "token_vectors", Number(stats.held.token_vectors));
  AddSample(&bytes, "kind", "passages", Number(stats.held.passages));
  AddSample(&bytes, "kind", "ids", Number(stats.held.ids));
  AddSample(&bytes, "kind", "other", Number(stats.held.other));
  families.push_back(std::move(bytes));
  families.push_back(Gauge("longdoc_kept_document_reserved_bytes",
                           "Memory promised to documents that are being encoded to be kept.",
                           Number(stats.reserved_bytes)));
  families.push_back(Gauge("longdoc_kept_document_budget_bytes", "Most that both may be together.",
                           Number(stats.budget_bytes)));
  MetricFamily events = Family(MetricType::Counter, "longdoc_kept_document_events_total",
                               "Documents added, found by their content again, and gone.");
  AddSample(&events, "event", "added", Number(stats.added));
  AddSample(&events, "event", "reused", Number(stats.reused));
  AddSample(&events, "event", "evicted", Number(stats.evicted));
  AddSample(&events, "event", "expired", Number(stats.expired));
  AddSample(&events, "event", "deleted", Number(stats.deleted));
  families.push_back(std::move(events));
  MetricFamily lookups = Family(MetricType::Counter, "longdoc_kept_document_lookups_total",
                                "Uses of a document by name.");
  AddSample(&lookups, "outcome", "found", Number(stats.lookups_found));
  AddSample(&lookups, "outcome", "missed", Number(stats.lookups_missed));
  families.push_back(std::move(lookups));
  return families;
}

std::vector<MetricFamily> ProcessFamilies() {
  const std::string status = ReadSmallFile("/proc/self/status");
  static const double start_time = StartTimeSeconds();
  rlimit limit;
  const bool have_limit = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  std::vector<MetricFamily> families;
  families.push_back(Counter("process_cpu_seconds_total",
                             "Total user and system CPU time spent in seconds.", CpuSeconds()));
  families.push_back(Gauge("process_resident_memory_bytes", "Resident memory size in bytes.",
                           StatusBytes(status, "VmRSS")));
  families.push_back(Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.",
                           StatusBytes(status, "VmSize")));
  families.push_back(Gauge("longdoc_resident_memory_peak_bytes",
                           "Largest resident memory size since the start.",
                           StatusBytes(status, "VmHWM")));
  families.push_back(Gauge("process_start_time_seconds",
                           "Start time of the process since unix epoch in seconds.", start_time));
  families.push_back(
      Gauge("process_open_fds", "Number of open file descriptors.", OpenFileDescriptors()));
  families.push_back(Gauge("process_max_fds", "Maximum number of open file descriptors.",
                           have_limit ? static_cast<double>(limit.rlim_cur) : 0));
  return families;
}

}  // namespace longdoc::service
