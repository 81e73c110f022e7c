// A client of DocumentService and ScoringService that does whole calls.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "longdoc/v1/document_service.pb.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {

struct CallStatus {
  grpc::Status status;
  std::string reason;  // trailing metadata
  bool ok() const { return status.ok(); }
};

// Called with the context of a call before it begins, and (null) when it has ended.
using ContextHook = std::function<void(grpc::ClientContext*)>;

// EncodeDocument: passages of 16 tokens, and the vectors of tokens. `ttl_seconds`
// 0: the server's default.
CallStatus KeepText(RpcHarness& harness, const std::string& text, v1::Document* document,
                    const ContextHook& hook = nullptr, double ttl_seconds = 0);

struct ScoreAnswer : CallStatus {
  std::vector<v1::CandidateScore> scores;  // by index
  std::vector<int64_t> order;              // indices as they came
  std::vector<v1::Progress> progress;
  bool has_summary = false;  // and it was the last message
  v1::ScoreSummary summary;
};

// ScoreCandidates. `text`: of an inline document, sent in pieces of 700 bytes.
ScoreAnswer ScoreTexts(RpcHarness& harness, const v1::ScoreHeader& header, const std::string& text,
                       const std::vector<std::string>& candidates,
                       const ContextHook& hook = nullptr);

// An inline header that asks for what KeepText keeps.
v1::ScoreHeader InlineHeader(const std::vector<v1::ScoringMethod>& methods);
v1::ScoreHeader NamedHeader(const std::string& name, const std::vector<v1::ScoringMethod>& methods);

struct GenerateAnswer : CallStatus {
  std::vector<v1::GeneratedToken> tokens;
  bool has_summary = false;
  v1::GenerateSummary summary;
  std::vector<int32_t> ids() const;
};
GenerateAnswer Generate(RpcHarness& harness, const v1::GenerateTextRequest& request,
                        const ContextHook& hook = nullptr);

}  // namespace longdoc::testing
