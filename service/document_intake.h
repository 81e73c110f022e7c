// A streamed document's content on its way to the engine: pieces in, a tokenized document out.
//
// Not thread-safe: whoever receives a document feeds its pieces, in order, from one job at a time
// (a strand). Knows nothing of gRPC or of the order of messages (content_order.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/cancellation.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/content_key.h"
#include "service/context.h"
#include "service/request_options.h"

namespace longdoc::service {

// Content of one message.
struct ContentPiece {
  enum class Kind { kText, kIds, kBreak };
  Kind kind = Kind::kBreak;
  std::string text{};
  size_t consumed = 0;  // of text
  std::vector<int32_t> ids{};

  // Moves the content out of a chunk that has some.
  static ContentPiece Take(v1::DocumentChunk&& chunk);
  // Bytes, or ids.
  int64_t size() const {
    return static_cast<int64_t>(kind == Kind::kIds ? ids.size() : text.size());
  }
  // What flow control counts: bytes, 4 for an id.
  int64_t bytes() const { return kind == Kind::kIds ? 4 * size() : size(); }
  bool done() const { return kind != Kind::kText || consumed >= text.size(); }
};

class DocumentIntake {
 public:
  // Tokenized by one call of Consume; about a millisecond of work.
  static constexpr size_t kSliceBytes = 64 << 10;

  // Checks what the options tell before any content: limits, the engine's memory for the declared
  // tokens and, for a document to be kept, the store's room. `context` outlives the intake.
  static absl::StatusOr<std::unique_ptr<DocumentIntake>> Create(const ServiceContext& context,
                                                                std::shared_ptr<const Model> model,
                                                                const DocumentOptions& options);

  // The next slice of a piece, to be called until it is done; *consumed gets its bytes. Not OK:
  // what is wrong with the content, or RESOURCE_EXHAUSTED as soon as the document has become too
  // large for engine or store.
  absl::Status Consume(ContentPiece& piece, int64_t* consumed);
  // The whole document. Once.
  absl::StatusOr<TokenizedDocument> Finish();

  int64_t num_tokens() const { return num_tokens_; }
  bool has_ids() const { return num_ids_ > 0; }
  // Of a document to be kept, after Finish; see content_key.h.
  const std::string& content_key() const { return content_key_; }

 private:
  DocumentIntake(const ServiceContext& context, std::shared_ptr<const Model> model,
                 const DocumentOptions& options)
      : context_(context), model_(std::move(model)), options_(options) {}
  absl::Status AppendIds(const std::vector<int32_t>& ids);
  absl::Status CheckGrowth();

  const ServiceContext& context_;
  const std::shared_ptr<const Model> model_;
  const DocumentOptions options_;
  std::unique_ptr<DocumentBuilder> builder_;  // until Finish
  ContentKey hash_;
  std::string content_key_;
  int64_t num_tokens_ = 0;
  int64_t num_ids_ = 0;
  int64_t next_check_ = 4096;
};

// What an encode of this document would take in the engine's and, if it is to be kept, in the
// store's memory: RESOURCE_EXHAUSTED (DOCUMENT_EXCEEDS_MEMORY or DOCUMENT_BUDGET_EXCEEDED) if it
// cannot be had.
absl::Status CheckMemory(const ServiceContext& context, const Model& model,
                         const DocumentOptions& options, int64_t tokens);

// Bytes that such a document will take in the store.
absl::StatusOr<int64_t> BytesToKeep(const ServiceContext& context, const Model& model,
                                    const DocumentOptions& options, int64_t tokens,
                                    int64_t passages);

// A task to encode the document, but for its callbacks. Takes the ids, or copies them if they are
// wanted for scoring.
EncodeTask MakeEncodeTask(std::shared_ptr<const Model> model, const DocumentOptions& options,
                          TokenizedDocument& document,
                          std::shared_ptr<CancellationToken> cancellation);

}  // namespace longdoc::service
