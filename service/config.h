// The server's configuration as plain structs, checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/document.h"
#include "engine/engine.h"

namespace longdoc::service {

struct ModelSource {
  std::string name;
  std::string directory;
};

// Defaults: proto/longdoc/config/v1/server_config.proto.
struct Limits {
  DocumentLimits document;  // max_tokens, max_bytes, max_passages
  int64_t max_text_tokens = 8192;
  int64_t max_texts = 1024;
  int64_t max_message_bytes = 1 << 20;
  int64_t max_frame_bytes = 256 << 10;
  int64_t max_streams = 256;
  int64_t max_streams_per_connection = 64;
  int64_t read_high_watermark_bytes = 4 << 20;
  absl::Duration idle_timeout = absl::Seconds(30);
  absl::Duration max_deadline = absl::Hours(1);
  int64_t max_candidates = 100'000;
  int64_t max_candidate_bytes = 64 << 10;
  int64_t max_ranked_documents = 256;
};

struct DocumentsConfig {
  int64_t budget_bytes = 0;  // 0: a tenth of the machine's memory
  int64_t max_documents = 10'000;
  absl::Duration default_ttl = absl::Hours(1);
  absl::Duration max_ttl = absl::Hours(24);
};

struct SecurityConfig {
  std::string tls_certificate_file, tls_key_file, tls_client_ca_file, bearer_token_file;
  bool allow_insecure = false;
};

struct LifecycleConfig {
  absl::Duration drain_delay = absl::ZeroDuration();
  absl::Duration drain_grace = absl::Seconds(300);
  absl::Duration keepalive = absl::Seconds(30);
  absl::Duration max_connection_age = absl::InfiniteDuration();
  absl::Duration max_connection_age_grace = absl::Hours(1);
  absl::Duration max_connection_idle = absl::InfiniteDuration();
  absl::Duration keepalive_timeout = absl::Seconds(10);
  absl::Duration client_ping_interval = absl::Seconds(10);
  bool pings_without_calls = true;
};

struct AccessLogConfig {
  bool enabled = true;
  absl::Duration slow = absl::InfiniteDuration();
};

struct ServerOptions {
  std::string listen_address = "127.0.0.1:50051";
  std::string metrics_address = "127.0.0.1:9464";  // "off": no metrics port
  std::vector<ModelSource> models;
  EngineOptions engine;
  Limits limits;
  DocumentsConfig documents;
  SecurityConfig security;
  LifecycleConfig lifecycle;
  AccessLogConfig access_log;
  bool reflection = true;
  std::string log_level = "info";
};

// Parses text-format ServerConfig and checks every range. INVALID_ARGUMENT names field, range,
// value; for syntax errors and unknown fields, line and column. Relations between fields are left
// to CheckServerOptions, because flags may still change them.
absl::StatusOr<ServerOptions> ParseServerConfig(std::string_view text_proto);

// A text and what errors call it.
struct ConfigText {
  std::string name;
  std::string text;
};
// Several texts: where two set a field, the later one wins; models are added up.
absl::StatusOr<ServerOptions> ParseServerConfig(const std::vector<ConfigText>& texts);
// The texts of --config: of a file, or, in the order of their names, of a directory's files
// *.textproto (hidden ones left out). NOT_FOUND for what cannot be read and for a directory without
// any.
absl::StatusOr<std::vector<ConfigText>> ReadConfigFiles(const std::string& path);

// What must hold once flags are applied: at least one model; plain text on an address that is not
// loopback only with allow_insecure; certificate and key together; the other security files need
// what they stand on; no default time to live beyond the longest. INVALID_ARGUMENT naming the
// field.
absl::Status CheckServerOptions(const ServerOptions& options);

// "HOST:PORT" with a numeric IPv4 address, "[IPv6]" or a host name; port 0 to 65535.
struct HostPort {
  std::string host;  // without brackets
  int port = 0;
  bool loopback() const;  // 127.0.0.0/8, ::1 or "localhost"
};
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);
// "NAME=DIR": INVALID_ARGUMENT for a malformed name (1 to 64 of [A-Za-z0-9._/-]) or an empty one.
absl::StatusOr<ModelSource> ParseModelFlag(std::string_view flag);
// Checked spellings of EngineConfig.device and EngineConfig.compute_type, for file and flags.
absl::Status ApplyDevice(const std::string& device, EngineOptions* engine);
absl::Status ApplyComputeType(const std::string& compute_type, EngineOptions* engine);
// The effective configuration, as text-format that ParseServerConfig accepts.
std::string FormatServerConfig(const ServerOptions& options);

}  // namespace longdoc::service
