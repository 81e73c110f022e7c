// What every RPC handler needs; owned by the Server, outlives all handlers.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/document_store.h"
#include "engine/engine.h"
#include "service/config.h"
#include "service/metrics.h"

namespace longdoc {
class ThreadPool;
}

namespace longdoc::service {

class Timers;

class ServiceContext {
 public:
  ServiceContext(Engine& engine, DocumentStore& documents, const Limits& limits, Metrics& metrics,
                 ThreadPool& tokenizers, Timers& timers)
      : engine(engine),
        documents(documents),
        limits(limits),
        metrics(metrics),
        tokenizers(tokenizers),
        timers(timers) {}

  // The named model, or the default one for "". NOT_FOUND (UNKNOWN_MODEL) naming those there are.
  absl::StatusOr<std::shared_ptr<const Model>> FindModel(const std::string& name) const;
  void AddModel(std::shared_ptr<const Model> model);  // before serving; the first is the default

  // UNAVAILABLE (DRAINING) once the server drains; else OK. For the start of every RPC.
  absl::Status CheckServing() const;

  Engine& engine;
  DocumentStore& documents;
  const Limits limits;
  Metrics& metrics;
  ThreadPool& tokenizers;  // runs tokenization off gRPC's threads
  Timers& timers;          // of all streams
  std::atomic<bool> draining{false};
  std::atomic<int64_t> open_streams{0};
  std::atomic<int64_t> inflight_rpcs{0};

  std::map<std::string, std::shared_ptr<const Model>> models;
  std::string default_model;
  AccessLogConfig access_log;  // set before serving
};

}  // namespace longdoc::service
