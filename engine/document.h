// A document while it arrives: bytes (or ids) in, a token sequence with passages out.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/options.h"
#include "engine/text/sentence_splitter.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

class ArrivingIds;

struct DocumentLimits {
  int64_t max_tokens = 1 << 20;  // special tokens included
  int64_t max_bytes = 64 << 20;
  int64_t max_passages = 1 << 16;
};

// The whole document, ready to encode.
struct TokenizedDocument {
  std::vector<int32_t> ids;       // with [CLS] and [SEP] (not added to ids given by the client)
  std::vector<ByteRange> bytes;   // of each token; empty when the client sent ids
  std::vector<Passage> passages;  // all granularities, in request order
  int64_t num_bytes = 0;          // of the text received
  int64_t input_tokens = 0;       // before truncation
  bool truncated = false;
  ByteRange kept;  // bytes that were encoded
  // What was given to the builder, with the first ids; null if they are others than those above.
  std::shared_ptr<ArrivingIds> arrived;
};

// Not thread-safe; one per document. Memory: 20 bytes a token; the text is not kept.
class DocumentBuilder {
 public:
  // `tokenizer` must outlive the builder. Granularities are checked here: INVALID_ARGUMENT.
  static absl::StatusOr<std::unique_ptr<DocumentBuilder>> Create(const Tokenizer& tokenizer,
                                                                 std::vector<PassageSpec> passages,
                                                                 Overflow overflow,
                                                                 const DocumentLimits& limits);
  // From now on appends ids to `arriving` (arriving_ids.h) as they are certain; before any content.
  void SendIdsTo(std::shared_ptr<ArrivingIds> arriving) { arriving_ = std::move(arriving); }

  // The next bytes of the text, split anywhere. Fails as soon as a limit is certain to be broken
  // (INVALID_ARGUMENT, reasons TOO_MANY_TOKENS, DOCUMENT_TOO_LARGE, INVALID_UTF8).
  absl::Status AppendText(std::string_view bytes);
  // Ids instead of text (the two do not mix: INVALID_ARGUMENT, reason MIXED_CONTENT). Special
  // tokens are the client's business.
  absl::Status AppendIds(absl::Span<const int32_t> ids);
  // A passage border at the current end of the bytes (for PassageSpec::Kind::kBreaks).
  absl::Status AppendBreak();
  // INVALID_ARGUMENT (EMPTY_DOCUMENT) when nothing was appended or the text holds no token.
  absl::StatusOr<TokenizedDocument> Finish();

  int64_t num_tokens() const;  // so far, special tokens included
  int64_t num_bytes() const;
  int64_t pending_bytes() const { return stream_->pending_bytes(); }

 private:
  DocumentBuilder(const Tokenizer& tokenizer, std::vector<PassageSpec> passages, Overflow overflow,
                  const DocumentLimits& limits);
  absl::Status TakeTokens();
  absl::Status CheckTokens();
  void SendIds();
  void Drop(int64_t begin, int64_t end);
  int64_t room() const;  // tokens without the special ones

  const Tokenizer& tokenizer_;
  const std::vector<PassageSpec> specs_;
  const Overflow overflow_;
  const DocumentLimits limits_;
  std::unique_ptr<StreamingTokenizer> stream_;
  SentenceSplitter sentences_;
  bool want_sentences_ = false;
  bool has_ids_ = false;
  std::vector<int64_t> breaks_;
  TokenSequence tokens_;  // those kept; `bytes` stays empty for the client's ids
  int64_t dropped_front_ = 0, dropped_back_ = 0;
  std::shared_ptr<ArrivingIds> arriving_;  // or null
  size_t sent_ = 0;                        // of tokens_
};

}  // namespace longdoc
