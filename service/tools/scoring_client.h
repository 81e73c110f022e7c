// Client calls of DocumentService and ScoringService, with their streams pumped.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "longdoc/v1/document_service.pb.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/tools/channel.h"
#include "service/tools/embedder.h"

namespace longdoc::tools {

using OnProgressFn = std::function<void(const EmbedProgress&)>;

// EncodeDocument: streams `document` and waits until it is kept. `ttl_seconds` 0: the server's
// default.
absl::StatusOr<v1::EncodeDocumentResult> KeepDocument(const ServerConnection& connection,
                                                      const std::string& model,
                                                      const EmbedOptions& options,
                                                      double ttl_seconds, DocumentInput& document,
                                                      const OnProgressFn& on_progress);

struct ScoreRequest {
  std::string name;                   // a kept document; empty: `document`
  DocumentInput* document = nullptr;  // streamed along with `options` and `model`
  EmbedOptions options;
  std::string model;
  std::vector<v1::ScoringMethod> methods;
  bool token_log_probabilities = false;
  int32_t best_passages = 1;
};

// ScoreCandidates. `next` gives the candidates one by one, false at their end; it is called from
// another thread than `on_score`.
absl::StatusOr<v1::ScoreSummary> ScoreCandidates(
    const ServerConnection& connection, const ScoreRequest& request,
    const std::function<bool(v1::Candidate* candidate)>& next, const OnProgressFn& on_progress,
    const std::function<absl::Status(const v1::CandidateScore&)>& on_score);

}  // namespace longdoc::tools
