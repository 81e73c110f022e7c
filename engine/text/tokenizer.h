// WordPiece tokenization with byte offsets, one-shot and streaming.
//
// The algorithm is Hugging Face's BERT pipeline (BertNormalizer, BertPreTokenizer, WordPiece,
// template post-processing); reference: docs/models.md "Tokenizer". Offsets are byte positions in
// the *original* UTF-8 text, so that passages can be cut there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longdoc {

// Half-open byte range of the original text.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

// Token ids with the bytes they came from. Special tokens ([CLS], [SEP]) have empty ranges:
// begin == end == 0 at the front, begin == end == text size at the back.
struct TokenSequence {
  std::vector<int32_t> ids;
  std::vector<ByteRange> bytes;  // same length as ids
};

struct SpecialTokens {
  int32_t pad = -1, unk = -1, cls = -1, sep = -1, mask = -1;  // -1: the vocabulary has none
};

// Receives the tokens of one text while its bytes arrive. Any split of the bytes gives the same
// tokens, to the last one. Not thread-safe; one per document.
class StreamingTokenizer {
 public:
  virtual ~StreamingTokenizer() = default;
  // Appends the next bytes. Errors (sticky): INVALID_ARGUMENT for invalid UTF-8, naming the byte
  // offset in the document. Emits only tokens that later bytes cannot change.
  virtual absl::Status Append(std::string_view bytes) = 0;
  // Ends the text and emits the rest. INVALID_ARGUMENT if it ends inside a character.
  virtual absl::Status Finish() = 0;
  // Tokens emitted so far and not yet taken, without special tokens; clears them.
  virtual TokenSequence Take() = 0;
  // Tokens emitted so far, taken or not (for limits).
  virtual int64_t num_tokens() const = 0;
  virtual int64_t num_bytes() const = 0;
  // Bytes held back because a later byte may still change their tokens. Bounded: a word longer
  // than the model's max_input_chars_per_word becomes [UNK] without being stored.
  virtual int64_t pending_bytes() const = 0;
};

// An immutable vocabulary with its rules. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::unique_ptr<StreamingTokenizer> NewStream() const = 0;
  virtual int32_t vocab_size() const = 0;  // highest id + 1
  virtual const SpecialTokens& special() const = 0;
  // Text of a token as the vocabulary spells it ("##ing"); empty for an id without entry.
  virtual std::string_view TokenText(int32_t id) const = 0;
  // Id of a token text, or -1.
  virtual int32_t TokenId(std::string_view text) const = 0;

  // Whole text at once; with `add_special_tokens`, [CLS] first and [SEP] last.
  absl::StatusOr<TokenSequence> Encode(std::string_view text, bool add_special_tokens) const;
};

// Loads `tokenizer.json` if the directory has one, else `vocab.txt` (with tokenizer_config.json's
// do_lower_case, strip_accents, tokenize_chinese_chars where present; BERT-uncased defaults).
// NOT_FOUND when neither exists; INVALID_ARGUMENT / UNIMPLEMENTED naming the field otherwise.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

// The two formats from memory; these are also what the fuzz target drives.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json);
struct WordPieceOptions {
  bool lowercase = true;
  bool strip_accents = true;
  bool split_chinese_chars = true;
  int32_t max_input_chars_per_word = 100;
  std::string continuing_prefix = "##";
  std::string unk_token = "[UNK]";
};
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseVocabTxt(std::string_view vocab,
                                                         const WordPieceOptions& options = {});

}  // namespace longdoc
