// One way to embed documents, whether in this process or through a server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "longdoc/v1/common.pb.h"
#include "longdoc/v1/model_service.pb.h"
#include "service/tools/input.h"

namespace longdoc::tools {

// What is asked of every document of a run.
struct EmbedOptions {
  std::vector<PassageSpec> passages;
  VectorOptions vector;
  Overflow overflow = Overflow::kError;
  AttentionPolicy attention;
  bool token_vectors = false;
};

// A document: bytes as they are read, or token ids.
struct DocumentInput {
  std::string name;                    // of messages and of the output
  std::unique_ptr<ByteSource> source;  // null: `ids`
  std::vector<int32_t> ids;
};

enum class VectorKind { kDocument, kPassage, kToken };

// One vector as it is printed.
struct VectorRecord {
  VectorKind kind = VectorKind::kDocument;
  int32_t granularity = 0;  // passages: index of the --passages or --sentences option
  int64_t index = 0;        // passages: within the granularity; tokens: position
  TokenSpan tokens;
  ByteRange bytes;
  VectorEncoding encoding = VectorEncoding::kFloat32;
  int32_t dimensions = 0;
  float scale = 1;   // kInt8: component = int8 * scale
  std::string data;  // as EncodeVector writes it
};

struct EmbedProgress {
  const char* stage = "";   // "sending", "waiting", "encoding"
  double fraction = 0;      // of the stage, when it is known; else < 0
  int64_t tokens = 0;       // so far
  double seconds_left = 0;  // 0: not known
};

// Receives what an embedding gives. Calls never overlap.
class EmbedSink {
 public:
  virtual ~EmbedSink() = default;
  virtual absl::Status OnVector(const VectorRecord& record) = 0;
  virtual void OnProgress(const EmbedProgress& progress) = 0;
};

struct EmbedSummary {
  std::string model, model_revision;
  v1::EncodeStats stats;
  int64_t num_passages = 0;
};

class Embedder {
 public:
  virtual ~Embedder() = default;
  // Passages and tokens in order, the document's vector last.
  virtual absl::StatusOr<EmbedSummary> Embed(const EmbedOptions& options, DocumentInput& document,
                                             EmbedSink& sink) = 0;
  virtual absl::StatusOr<v1::EstimateDocumentResponse> Plan(int64_t tokens, int64_t num_passages,
                                                            bool token_vectors,
                                                            const AttentionPolicy& attention) = 0;
};

struct LocalOptions {
  std::string model_dir;
  int64_t max_tokens = 0;  // of a document, special tokens included
  EngineOptions engine;
};
// Loads the model into an engine of its own.
absl::StatusOr<std::unique_ptr<Embedder>> NewLocalEmbedder(const LocalOptions& options);

struct RemoteOptions {
  std::string address;            // HOST:PORT
  std::string model;              // name on the server; empty: its default
  std::string tls_ca;             // PEM files; any of the three turns TLS on
  std::string tls_cert, tls_key;  // of the client, for mutual TLS
  std::string tls_server_name;    // expected in the certificate, if it is not HOST
  std::string token_file;         // first line: bearer token
  double timeout_seconds = 3600;  // of one call
};
// Connects when first used. INVALID_ARGUMENT or NOT_FOUND for unusable files.
absl::StatusOr<std::unique_ptr<Embedder>> NewRemoteEmbedder(const RemoteOptions& options);

}  // namespace longdoc::tools
