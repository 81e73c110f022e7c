// A client of longdoc that does what docs/clients.md advises, on gRPC's synchronous API.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <functional>
#include <istream>
#include <memory>
#include <string>
#include <vector>

#include "longdoc/v1/document_service.grpc.pb.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/scoring_service.grpc.pb.h"

// How a call ended, and what the server says about it.
struct Outcome {
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;
  std::string reason;       // docs/api.md lists them
  double retry_delay = -1;  // seconds; negative: the server says nothing
  std::string request_id;   // the server's log has it, too

  bool ok() const { return code == grpc::StatusCode::OK; }
};

// When a call is tried again.
struct RetryPolicy {
  int attempts = 6;  // for servers that are not there; refusals for load end with the deadline
  double first_backoff = 0.1;
  double max_backoff = 5;

  // Seconds until the next attempt, after `attempt` earlier failures; negative: there is none.
  double Delay(const Outcome& outcome, int attempt) const;
};

// Opens the document at its beginning; once for every attempt.
using OpenDocument = std::function<std::unique_ptr<std::istream>()>;

struct EmbeddedDocument {
  longdoc::v1::EmbedDocumentResult result;
  std::vector<longdoc::v1::PassageVector> passages;
};

// All servers behind one target: "dns:///name:port", or "ipv4:10.0.0.1:50051,10.0.0.2:50051".
// Threads may share it.
class LongdocClient {
 public:
  using Seconds = std::chrono::duration<double>;

  LongdocClient(const std::string& target, std::shared_ptr<grpc::ChannelCredentials> credentials,
                RetryPolicy policy = {});

  // gRPC itself retries it.
  Outcome EmbedTexts(const longdoc::v1::EmbedTextsRequest& request, Seconds deadline,
                     longdoc::v1::EmbedTextsResponse* response);

  Outcome EmbedDocument(const longdoc::v1::DocumentHeader& header, const OpenDocument& open,
                        Seconds deadline, EmbeddedDocument* answer);

  // The same content is encoded once, so repeating the call is safe.
  Outcome KeepDocument(const longdoc::v1::DocumentHeader& header, const OpenDocument& open,
                       Seconds deadline, longdoc::v1::Document* document);

  // Scores in the order of the candidates. NOT_FOUND: the document is gone, keep it again.
  Outcome ScoreCandidates(const std::string& document, const std::vector<std::string>& candidates,
                          Seconds deadline, std::vector<longdoc::v1::CandidateScore>* scores);

 private:
  using Call = std::function<grpc::Status(grpc::ClientContext*)>;

  // Runs the call by the policy: one deadline for all attempts, one request id for all of them.
  Outcome Run(Seconds deadline, bool retry, const Call& call);

  const RetryPolicy policy_;
  const std::unique_ptr<longdoc::v1::EmbeddingService::Stub> embedding_;
  const std::unique_ptr<longdoc::v1::DocumentService::Stub> documents_;
  const std::unique_ptr<longdoc::v1::ScoringService::Stub> scoring_;

  LongdocClient(const std::shared_ptr<grpc::Channel>& channel, RetryPolicy policy);
};
