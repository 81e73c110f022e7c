// Everything the server measures. All series exist, at zero, from the first scrape.
//
// Names are API: docs/operations.md lists them, tests compare. Handles are created once; recording
// is thread-safe and happens per request, batch or message, never per token.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/document_store.h"
#include "engine/engine.h"

namespace longdoc::service {

// The RPCs, as label values `rpc`.
enum class Rpc {
  kEmbedTexts,
  kEmbedDocument,
  kListModels,
  kGetModel,
  kTokenize,
  kEstimateDocument,
  kEncodeDocument,
  kGetDocument,
  kListDocuments,
  kDeleteDocument,
  kScoreCandidates,
  kRankDocuments,
  kGenerateText
};
enum class Stage { kReceive, kTokenize, kQueue, kEncode, kSend };
inline constexpr int kNumStages = 5;
enum class StreamEvent { kReadPaused, kIdleTimeout, kClientGone };

// The values of the labels `rpc` and `stage`: literals. The access log uses them too.
const char* RpcName(Rpc rpc);
const char* StageName(Stage stage);

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void RpcStarted(Rpc rpc);
  // Counts requests_total{rpc,code}, rejected_total{reason} for refusals, and
  // cancelled_total{stage} for CANCELLED and DEADLINE_EXCEEDED; `reached` is the stage such a
  // request had reached.
  void RpcFinished(Rpc rpc, const absl::Status& status, double seconds,
                   std::optional<Stage> reached = std::nullopt);
  void StageSeconds(Stage stage, double seconds);
  void TimeToFirstResult(double seconds);
  void BytesReceived(int64_t bytes);
  void InputTokens(int64_t tokens);  // of one text or document: histogram + counter
  void Truncated(int64_t tokens_dropped);
  void Encoded(const EncodeStats& stats);  // attention mode/tile share, predicted/actual bytes
  void AttentionMode(const AttentionPolicy& policy);
  void Stream(StreamEvent event);
  void StreamsOpen(int delta);
  void StreamBufferedBytes(int64_t delta);
  void Bug(std::string_view site);  // broken invariant that was survived
  void ModelLoaded(const Model& model, double seconds);

  // Scheduler and memory readings are taken from the engine at scrape time. Null detaches.
  void AttachEngine(const Engine* engine);
  // So are those of the kept documents.
  void AttachDocuments(const DocumentStore* documents);
  void SetDraining(bool draining);

  // Text exposition of everything, for GET /metrics.
  std::string Exposition() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace longdoc::service
