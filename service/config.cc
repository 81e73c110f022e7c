#include "service/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"
#include "longdoc/config/v1/server_config.pb.h"
#include "service/log.h"

namespace longdoc::service {
namespace {

namespace pb = ::longdoc::config::v1;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kTiB = int64_t{1} << 40;
constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxModels = 64;

// Keeps the first error; lines and columns counted from 1, as editors do.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  explicit FirstError(const std::string& name) : name_(name) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!text_.empty()) return;
    std::string lowered = message;
    if (!lowered.empty()) lowered[0] = absl::ascii_tolower(lowered[0]);
    while (!lowered.empty() && lowered.back() == '.') lowered.pop_back();
    text_ = absl::StrFormat("%s, line %d column %d: %s", name_, line + 1, column + 1, lowered);
  }
  const std::string& text() const { return text_; }

 private:
  const std::string& name_;
  std::string text_;
};

// Adds the text's fields to `config`. A field may not stand twice in one text, so every text is
// parsed alone; merged by Merge and not by MergeFrom, so that a value equal to the proto's default
// (false, 0) counts, too.
absl::Status ParseText(const ConfigText& text, pb::ServerConfig* config) {
  if (text.text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s must be at most %d bytes; it is %d", text.name, kMaxConfigBytes, text.text.size()));
  }
  google::protobuf::TextFormat::Parser parser;
  FirstError errors(text.name);
  parser.RecordErrorsTo(&errors);
  parser.SetRecursionLimit(16);
  pb::ServerConfig alone;
  if (parser.ParseFromString(text.text, &alone) && parser.MergeFromString(text.text, config)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(errors.text().empty() ? text.name + " cannot be parsed"
                                                          : errors.text());
}

// Copies `value` to `target` if it is set (not 0) and within [low, high].
absl::Status ReadInt(const char* field, int64_t value, int64_t low, int64_t high, int64_t* target) {
  if (value == 0) return absl::OkStatus();
  if (value < low || value > high) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s must be from %d to %d, or 0 for the default; it is %d", field, low, high, value));
  }
  *target = value;
  return absl::OkStatus();
}

absl::Status ReadSeconds(const char* field, double value, double high, absl::Duration* target) {
  if (value == 0) return absl::OkStatus();
  if (!std::isfinite(value) || value < 0.001 || value > high) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s must be from 0.001 to %g seconds, or 0 for the default; it is %g", field, high, value));
  }
  *target = absl::Seconds(value);
  return absl::OkStatus();
}

absl::Status CheckModelName(const std::string& name) {
  const bool ok = !name.empty() && name.size() <= 64 &&
                  name.find_first_not_of(
                      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                      "0123456789._/-") == std::string::npos;
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "models.name must be 1 to 64 characters of A-Z a-z 0-9 . _ / -; it is \"%s\"", name));
}

absl::Status ReadModels(const pb::ServerConfig& config, ServerOptions* options) {
  if (static_cast<size_t>(config.models_size()) > kMaxModels) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "models: at most %d are allowed, there are %d", kMaxModels, config.models_size()));
  }
  for (const pb::ModelConfig& model : config.models()) {
    RETURN_IF_ERROR(CheckModelName(model.name()));
    if (model.directory().empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("models.directory of \"%s\" is empty", model.name()));
    }
    options->models.push_back({model.name(), model.directory()});
  }
  return absl::OkStatus();
}

absl::Status ReadEngine(const pb::EngineConfig& config, EngineOptions* engine) {
  if (!config.device().empty()) engine->device = config.device();
  RETURN_IF_ERROR(ApplyDevice(engine->device, engine));
  if (!config.compute_type().empty()) {
    RETURN_IF_ERROR(ApplyComputeType(config.compute_type(), engine));
  }
  int64_t threads = 0;
  RETURN_IF_ERROR(ReadInt("engine.threads", config.threads(), 1, 1024, &threads));
  engine->num_threads = static_cast<int>(threads);
  RETURN_IF_ERROR(ReadInt("engine.memory_budget_bytes", config.memory_budget_bytes(), kMiB,
                          64 * kTiB, &engine->memory_budget_bytes));
  RETURN_IF_ERROR(ReadInt("engine.device_memory_bytes", config.device_memory_bytes(), kMiB,
                          64 * kTiB, &engine->device_memory_bytes));
  RETURN_IF_ERROR(ReadInt("engine.spill_memory_bytes", config.spill_memory_bytes(), kMiB, 64 * kTiB,
                          &engine->spill_memory_bytes));
  RETURN_IF_ERROR(ReadInt("engine.max_queued_tokens", config.max_queued_tokens(), 1,
                          int64_t{1} << 40, &engine->max_queued_tokens));
  RETURN_IF_ERROR(ReadInt("engine.max_queued_documents", config.max_queued_documents(), 1, 1 << 24,
                          &engine->max_queued_tasks));
  return ReadInt("engine.max_batch_tokens", config.max_batch_tokens(), 16, 1 << 20,
                 &engine->max_batch_tokens);
}

absl::Status ReadLimits(const pb::Limits& config, Limits* limits) {
  RETURN_IF_ERROR(ReadInt("limits.max_document_tokens", config.max_document_tokens(), 3,
                          int64_t{1} << 30, &limits->document.max_tokens));
  RETURN_IF_ERROR(ReadInt("limits.max_document_bytes", config.max_document_bytes(), 1,
                          int64_t{1} << 40, &limits->document.max_bytes));
  RETURN_IF_ERROR(ReadInt("limits.max_passages", config.max_passages(), 1, 1 << 24,
                          &limits->document.max_passages));
  RETURN_IF_ERROR(ReadInt("limits.max_text_tokens", config.max_text_tokens(), 3, 1 << 24,
                          &limits->max_text_tokens));
  RETURN_IF_ERROR(ReadInt("limits.max_texts", config.max_texts(), 1, 1 << 20, &limits->max_texts));
  // The upper ends keep a frame, with its envelope, within what gRPC can carry (2^31 bytes).
  RETURN_IF_ERROR(ReadInt("limits.max_message_bytes", config.max_message_bytes(), 4096, 1 << 30,
                          &limits->max_message_bytes));
  RETURN_IF_ERROR(ReadInt("limits.max_frame_bytes", config.max_frame_bytes(), 4096, 1 << 30,
                          &limits->max_frame_bytes));
  RETURN_IF_ERROR(
      ReadInt("limits.max_streams", config.max_streams(), 1, 1 << 20, &limits->max_streams));
  RETURN_IF_ERROR(ReadInt("limits.max_streams_per_connection", config.max_streams_per_connection(),
                          1, 1 << 20, &limits->max_streams_per_connection));
  RETURN_IF_ERROR(ReadInt("limits.read_high_watermark_bytes", config.read_high_watermark_bytes(),
                          4096, kTiB, &limits->read_high_watermark_bytes));
  RETURN_IF_ERROR(ReadSeconds("limits.idle_timeout_seconds", config.idle_timeout_seconds(), 86400,
                              &limits->idle_timeout));
  RETURN_IF_ERROR(ReadSeconds("limits.max_deadline_seconds", config.max_deadline_seconds(),
                              7 * 86400, &limits->max_deadline));
  RETURN_IF_ERROR(ReadInt("limits.max_candidates", config.max_candidates(), 1, 1 << 30,
                          &limits->max_candidates));
  RETURN_IF_ERROR(ReadInt("limits.max_candidate_bytes", config.max_candidate_bytes(), 1, 1 << 30,
                          &limits->max_candidate_bytes));
  return ReadInt("limits.max_ranked_documents", config.max_ranked_documents(), 1, 1 << 20,
                 &limits->max_ranked_documents);
}

absl::Status ReadDocuments(const pb::Documents& config, DocumentsConfig* documents) {
  constexpr double kLongestTtl = 30 * 86400;
  RETURN_IF_ERROR(ReadInt("documents.budget_bytes", config.budget_bytes(), kMiB, 64 * kTiB,
                          &documents->budget_bytes));
  RETURN_IF_ERROR(ReadInt("documents.max_documents", config.max_documents(), 1, 1 << 24,
                          &documents->max_documents));
  RETURN_IF_ERROR(ReadSeconds("documents.max_ttl_seconds", config.max_ttl_seconds(), kLongestTtl,
                              &documents->max_ttl));
  // A shorter limit alone shortens the default, too.
  documents->default_ttl = std::min(documents->default_ttl, documents->max_ttl);
  return ReadSeconds("documents.default_ttl_seconds", config.default_ttl_seconds(), kLongestTtl,
                     &documents->default_ttl);
}

absl::Status ReadLifecycle(const pb::Lifecycle& config, LifecycleConfig* lifecycle) {
  RETURN_IF_ERROR(ReadSeconds("lifecycle.drain_delay_seconds", config.drain_delay_seconds(), 3600,
                              &lifecycle->drain_delay));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.drain_grace_seconds", config.drain_grace_seconds(), 86400,
                              &lifecycle->drain_grace));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.keepalive_seconds", config.keepalive_seconds(), 86400,
                              &lifecycle->keepalive));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.max_connection_age_seconds",
                              config.max_connection_age_seconds(), 30 * 86400,
                              &lifecycle->max_connection_age));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.max_connection_age_grace_seconds",
                              config.max_connection_age_grace_seconds(), 30 * 86400,
                              &lifecycle->max_connection_age_grace));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.max_connection_idle_seconds",
                              config.max_connection_idle_seconds(), 30 * 86400,
                              &lifecycle->max_connection_idle));
  RETURN_IF_ERROR(ReadSeconds("lifecycle.keepalive_timeout_seconds",
                              config.keepalive_timeout_seconds(), 3600,
                              &lifecycle->keepalive_timeout));
  lifecycle->pings_without_calls = !config.forbid_pings_without_calls();
  return ReadSeconds("lifecycle.client_ping_interval_seconds",
                     config.client_ping_interval_seconds(), 86400,
                     &lifecycle->client_ping_interval);
}

absl::Status ReadAddresses(const pb::ServerConfig& config, ServerOptions* options) {
  if (!config.listen_address().empty()) options->listen_address = config.listen_address();
  if (!config.metrics_address().empty()) options->metrics_address = config.metrics_address();
  const auto listen = ParseHostPort(options->listen_address);
  if (!listen.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("listen_address: ", listen.status().message()));
  }
  if (options->metrics_address == "off") return absl::OkStatus();
  const auto metrics = ParseHostPort(options->metrics_address);
  if (metrics.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("metrics_address must be \"off\" or an address: ", metrics.status().message()));
}

}  // namespace

bool HostPort::loopback() const {
  in_addr ipv4;
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) return ntohl(ipv4.s_addr) >> 24 == 127;
  return host == "localhost" || host == "::1";
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const auto bad = [&](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s in address \"%s\"; expected HOST:PORT", what, address));
  };
  HostPort result;
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return bad("no port");
  std::string host(address.substr(0, colon));
  const std::string port(address.substr(colon + 1));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    if (host.find_first_not_of("0123456789abcdefABCDEF:.%") != std::string::npos) {
      return bad("malformed IPv6 address");
    }
  } else if (host.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                    "0123456789.-_") != std::string::npos) {
    return bad("malformed host");
  }
  if (host.empty()) return bad("no host");
  if (port.empty() || port.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(port, &result.port) || result.port > 65535) {
    return bad("port not from 0 to 65535");
  }
  result.host = host;
  return result;
}

absl::StatusOr<ModelSource> ParseModelFlag(std::string_view flag) {
  const size_t equals = flag.find('=');
  if (equals == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--model must be NAME=DIRECTORY; it is \"%s\"", flag));
  }
  ModelSource model{std::string(flag.substr(0, equals)), std::string(flag.substr(equals + 1))};
  RETURN_IF_ERROR(CheckModelName(model.name));
  if (model.directory.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--model: the directory of \"%s\" is empty", model.name));
  }
  return model;
}

absl::Status ApplyDevice(const std::string& device, EngineOptions* engine) {
  if (!IsDeviceName(device)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("engine.device must be \"auto\", \"cpu\", \"cuda\", \"cuda:N\" or "
                        "\"reference\"; it is \"%s\"",
                        device));
  }
  engine->device = device;
  return absl::OkStatus();
}

absl::Status ApplyComputeType(const std::string& compute_type, EngineOptions* engine) {
  if (compute_type == "auto") {
    engine->compute_type = ComputeType::kAuto;
  } else if (compute_type == "f32") {
    engine->compute_type = ComputeType::kF32;
  } else if (compute_type == "bf16") {
    engine->compute_type = ComputeType::kBF16;
  } else {
    return absl::InvalidArgumentError(absl::StrFormat(
        "engine.compute_type must be \"auto\", \"f32\" or \"bf16\"; it is \"%s\"", compute_type));
  }
  return absl::OkStatus();
}

absl::StatusOr<ServerOptions> ParseServerConfig(std::string_view text_proto) {
  return ParseServerConfig({ConfigText{"configuration", std::string(text_proto)}});
}

absl::StatusOr<ServerOptions> ParseServerConfig(const std::vector<ConfigText>& texts) {
  pb::ServerConfig config;
  for (const ConfigText& text : texts) RETURN_IF_ERROR(ParseText(text, &config));
  ServerOptions options;
  RETURN_IF_ERROR(ReadAddresses(config, &options));
  RETURN_IF_ERROR(ReadModels(config, &options));
  RETURN_IF_ERROR(ReadEngine(config.engine(), &options.engine));
  RETURN_IF_ERROR(ReadLimits(config.limits(), &options.limits));
  RETURN_IF_ERROR(ReadDocuments(config.documents(), &options.documents));
  RETURN_IF_ERROR(ReadLifecycle(config.lifecycle(), &options.lifecycle));
  options.access_log.enabled = !config.access_log().disabled();
  RETURN_IF_ERROR(ReadSeconds("access_log.slow_seconds", config.access_log().slow_seconds(),
                              7 * 86400, &options.access_log.slow));
  options.security.tls_certificate_file = config.security().tls_certificate_file();
  options.security.tls_key_file = config.security().tls_key_file();
  options.security.tls_client_ca_file = config.security().tls_client_ca_file();
  options.security.bearer_token_file = config.security().bearer_token_file();
  options.security.allow_insecure = config.security().allow_insecure();
  options.reflection = !config.disable_reflection();
  if (!config.log_level().empty()) options.log_level = config.log_level();
  LogLevel level;
  if (!ParseLogLevel(options.log_level, &level)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "log_level must be \"debug\", \"info\", \"warning\" or \"error\"; it is \"%s\"",
        options.log_level));
  }
  return options;
}

absl::Status CheckServerOptions(const ServerOptions& options) {
  if (options.models.empty()) {
    return absl::InvalidArgumentError("models: at least one is needed, there is none");
  }
  std::set<std::string> names;
  for (const ModelSource& model : options.models) {
    if (!names.insert(model.name).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("models: the name \"%s\" is given twice", model.name));
    }
  }
  if (options.documents.default_ttl > options.documents.max_ttl) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "documents.default_ttl_seconds must be at most documents.max_ttl_seconds, which is %g; "
        "it is %g",
        absl::ToDoubleSeconds(options.documents.max_ttl),
        absl::ToDoubleSeconds(options.documents.default_ttl)));
  }
  const SecurityConfig& security = options.security;
  const bool tls = !security.tls_certificate_file.empty();
  if (tls != !security.tls_key_file.empty()) {
    return absl::InvalidArgumentError(
        "security.tls_certificate_file and security.tls_key_file must be given together");
  }
  if (!tls && !security.tls_client_ca_file.empty()) {
    return absl::InvalidArgumentError(
        "security.tls_client_ca_file needs security.tls_certificate_file");
  }
  ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(options.listen_address));
  if (!tls && !listen.loopback() && !security.allow_insecure) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "listen_address %s is not loopback: give TLS files, or say security.allow_insecure",
        options.listen_address));
  }
  if (options.metrics_address != "off") {
    const auto metrics = ParseHostPort(options.metrics_address);
    if (!metrics.ok()) return metrics.status();
  }
  return absl::OkStatus();
}

}  // namespace longdoc::service
