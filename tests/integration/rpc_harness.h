// A real server on a loopback port, and a client that drives EmbedDocument by hand.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "longdoc/v1/document_service.grpc.pb.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "longdoc/v1/scoring_service.grpc.pb.h"
#include "service/server.h"
#include "tests/support/fake_engine.h"

namespace longdoc::testing {

// Directory of a random model of this shape with SmallVocabulary; made once per process.
const std::string& PresetModelDir(const std::string& preset);
const std::string& TinyModelDir();  // of "tiny"

// The value of a key in a call's trailing metadata, or "".
std::string TrailingValue(const grpc::ClientContext& context, const char* key);

class RpcHarness {
 public:
  // With the real engine and a model of this preset and name.
  static std::unique_ptr<RpcHarness> WithEngine(const service::Limits& limits = {},
                                                const service::DocumentsConfig& documents = {},
                                                const std::string& preset = "tiny");
  // With an engine under the test's control (model "fake").
  static std::unique_ptr<RpcHarness> WithFake(const service::Limits& limits = {},
                                              const service::DocumentsConfig& documents = {});
  ~RpcHarness();

  v1::DocumentService::Stub& documents() { return *documents_; }
  v1::EmbeddingService::Stub& embeddings() { return *embeddings_; }
  v1::ModelService::Stub& models() { return *models_; }
  v1::ScoringService::Stub& scoring() { return *scoring_; }
  service::Server& server() { return *server_; }
  FakeEngine& fake() { return *fake_; }
  const Engine& engine() const { return server_->engine(); }

  // Waits until no stream is open and the engine holds no memory for requests; false after ten
  // seconds. The time it took, if wanted.
  bool WaitUntilIdle(double* seconds = nullptr) const;

 private:
  RpcHarness() = default;
  void Start(const service::ServerOptions& options, const service::Server::EngineFactory& factory);

  FakeEngine* fake_ = nullptr;
  std::unique_ptr<service::Server> server_;
  std::unique_ptr<v1::DocumentService::Stub> documents_;
  std::unique_ptr<v1::EmbeddingService::Stub> embeddings_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::ScoringService::Stub> scoring_;
};

// Polls until the condition holds; false after twenty seconds.
bool WaitFor(const std::function<bool()>& condition);

// What came back from one EmbedDocument call.
struct DocumentAnswer {
  grpc::Status status;
  std::string reason;          // trailing metadata
  std::string retry_delay;     // trailing metadata
  std::string retry_pushback;  // trailing metadata
  std::string request_id;      // initial metadata and trailing metadata: it has to be in one
  std::vector<v1::PassageVector> passages;
  std::vector<v1::TokenVectors> token_frames;
  std::vector<v1::Progress> progress;
  bool has_result = false;
  bool result_was_last = true;  // nothing came after it
  size_t largest_frame = 0;
  v1::EmbedDocumentResult result;
};

// One stream, step by step.
class DocumentCall {
 public:
  explicit DocumentCall(RpcHarness& harness, double deadline_seconds = 60,
                        const std::string& request_id = "");
  bool Header(const v1::DocumentHeader& header);
  bool Text(int64_t offset, const std::string& bytes);
  bool Ids(int64_t offset, const std::vector<int32_t>& ids);
  bool Break();
  bool Write(const v1::EmbedDocumentRequest& request) { return stream_->Write(request); }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }
  bool Read(v1::EmbedDocumentResponse* response) { return stream_->Read(response); }
  // Reads to the end. `between` runs before each read.
  DocumentAnswer Finish(const std::function<void()>& between = nullptr);

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EmbedDocumentRequest, v1::EmbedDocumentResponse>>
      stream_;
};

// Sends header and text, cut after each of `cuts` (ascending byte positions), and reads everything.
DocumentAnswer EmbedText(RpcHarness& harness, const v1::DocumentHeader& header,
                         const std::string& text, const std::vector<size_t>& cuts = {});

// `words` words of the small vocabulary, some of them not in it, sentences, and characters of
// several bytes. Deterministic in `seed`.
std::string SampleText(int words, uint64_t seed);

}  // namespace longdoc::testing
