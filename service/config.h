// The server's configuration as plain structs, checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
};

struct ServerOptions {
  std::string listen_address = "127.0.0.1:50051";
  std::string metrics_address = "127.0.0.1:9464";  // "off": no metrics port
  std::vector<ModelSource> models;
  EngineOptions engine;
  Limits limits;
  SecurityConfig security;
  LifecycleConfig lifecycle;
  bool reflection = true;
  std::string log_level = "info";
};

// Parses text-format ServerConfig and checks every range. INVALID_ARGUMENT names field, range, value.
absl::StatusOr<ServerOptions> ParseServerConfig(std::string_view text_proto);
// The effective configuration, as text-format that ParseServerConfig accepts.
std::string FormatServerConfig(const ServerOptions& options);

}  // namespace longdoc::service
