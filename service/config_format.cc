#include "google/protobuf/text_format.h"
#include "longdoc/config/v1/server_config.pb.h"
#include "service/config.h"

namespace longdoc::service {
namespace {

namespace pb = ::longdoc::config::v1;

// 0 in the message means "no limit".
double SecondsOrZero(absl::Duration duration) {
  return duration == absl::InfiniteDuration() ? 0 : absl::ToDoubleSeconds(duration);
}

void FormatEngine(const EngineOptions& options, pb::EngineConfig* engine) {
  engine->set_device(options.device);
  engine->set_compute_type(options.compute_type == ComputeType::kAuto  ? "auto"
                           : options.compute_type == ComputeType::kF32 ? "f32"
                                                                       : "bf16");
  engine->set_threads(options.num_threads);
  engine->set_memory_budget_bytes(options.memory_budget_bytes);
  engine->set_device_memory_bytes(options.device_memory_bytes);
  engine->set_spill_memory_bytes(options.spill_memory_bytes);
  engine->set_max_queued_tokens(options.max_queued_tokens);
  engine->set_max_queued_documents(static_cast<int32_t>(options.max_queued_tasks));
  engine->set_max_batch_tokens(options.max_batch_tokens);
}

void FormatLimits(const Limits& options, pb::Limits* limits) {
  limits->set_max_document_tokens(options.document.max_tokens);
  limits->set_max_document_bytes(options.document.max_bytes);
  limits->set_max_passages(static_cast<int32_t>(options.document.max_passages));
  limits->set_max_text_tokens(static_cast<int32_t>(options.max_text_tokens));
  limits->set_max_texts(static_cast<int32_t>(options.max_texts));
  limits->set_max_message_bytes(static_cast<int32_t>(options.max_message_bytes));
  limits->set_max_frame_bytes(static_cast<int32_t>(options.max_frame_bytes));
  limits->set_max_streams(static_cast<int32_t>(options.max_streams));
  limits->set_max_streams_per_connection(static_cast<int32_t>(options.max_streams_per_connection));
  limits->set_read_high_watermark_bytes(options.read_high_watermark_bytes);
  limits->set_idle_timeout_seconds(SecondsOrZero(options.idle_timeout));
  limits->set_max_deadline_seconds(SecondsOrZero(options.max_deadline));
  limits->set_max_candidates(static_cast<int32_t>(options.max_candidates));
  limits->set_max_candidate_bytes(static_cast<int32_t>(options.max_candidate_bytes));
  limits->set_max_ranked_documents(static_cast<int32_t>(options.max_ranked_documents));
}

void FormatDocuments(const DocumentsConfig& options, pb::Documents* documents) {
  documents->set_budget_bytes(options.budget_bytes);
  documents->set_max_documents(static_cast<int32_t>(options.max_documents));
  documents->set_default_ttl_seconds(SecondsOrZero(options.default_ttl));
  documents->set_max_ttl_seconds(SecondsOrZero(options.max_ttl));
}

void FormatSecurity(const SecurityConfig& options, pb::Security* security) {
  security->set_tls_certificate_file(options.tls_certificate_file);
  security->set_tls_key_file(options.tls_key_file);
  security->set_tls_client_ca_file(options.tls_client_ca_file);
  security->set_bearer_token_file(options.bearer_token_file);
  security->set_allow_insecure(options.allow_insecure);
}

void FormatLifecycle(const LifecycleConfig& options, pb::Lifecycle* lifecycle) {
  lifecycle->set_drain_delay_seconds(SecondsOrZero(options.drain_delay));
  lifecycle->set_drain_grace_seconds(SecondsOrZero(options.drain_grace));
  lifecycle->set_keepalive_seconds(SecondsOrZero(options.keepalive));
  lifecycle->set_max_connection_age_seconds(SecondsOrZero(options.max_connection_age));
  lifecycle->set_max_connection_age_grace_seconds(SecondsOrZero(options.max_connection_age_grace));
  lifecycle->set_max_connection_idle_seconds(SecondsOrZero(options.max_connection_idle));
  lifecycle->set_keepalive_timeout_seconds(SecondsOrZero(options.keepalive_timeout));
  lifecycle->set_client_ping_interval_seconds(SecondsOrZero(options.client_ping_interval));
  lifecycle->set_forbid_pings_without_calls(!options.pings_without_calls);
}

}  // namespace

std::string FormatServerConfig(const ServerOptions& options) {
  pb::ServerConfig config;
  config.set_listen_address(options.listen_address);
  config.set_metrics_address(options.metrics_address);
  for (const ModelSource& source : options.models) {
    pb::ModelConfig* model = config.add_models();
    model->set_name(source.name);
    model->set_directory(source.directory);
  }
  FormatEngine(options.engine, config.mutable_engine());
  FormatLimits(options.limits, config.mutable_limits());
  FormatDocuments(options.documents, config.mutable_documents());
  FormatSecurity(options.security, config.mutable_security());
  FormatLifecycle(options.lifecycle, config.mutable_lifecycle());
  config.mutable_access_log()->set_disabled(!options.access_log.enabled);
  config.mutable_access_log()->set_slow_seconds(SecondsOrZero(options.access_log.slow));
  config.set_disable_reflection(!options.reflection);
  config.set_log_level(options.log_level);
  std::string text;
  google::protobuf::TextFormat::PrintToString(config, &text);
  return text;
}

}  // namespace longdoc::service
