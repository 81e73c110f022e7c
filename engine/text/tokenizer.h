// Tokenization with byte offsets, one-shot and streaming: WordPiece and byte-level BPE.
//
// The algorithms are Hugging Face's pipelines: BERT's (BertNormalizer, BertPreTokenizer, WordPiece)
// and GPT-2's and RoBERTa's (ByteLevel, BPE), each with its post-processing; reference:
// docs/models.md "Tokenizer". Offsets are byte positions in the *original* UTF-8 text, so that
// passages can be cut there.
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
// begin == end == 0 at the front, begin == end == text size at the back. Ranges lie on character
// borders; tokens of byte-level BPE that hold parts of one character all have its whole range, and
// those of white space that `trim_offsets` removes have an empty one.
struct TokenSequence {
  std::vector<int32_t> ids;
  std::vector<ByteRange> bytes;  // same length as ids
};

// By role: `cls` stands before a text and `sep` after it ([CLS], [SEP] of BERT; <s>, </s> of
// RoBERTa; none of GPT-2).
struct SpecialTokens {
  int32_t pad = -1, unk = -1, cls = -1, sep = -1, mask = -1;  // -1: the vocabulary has none
};

// How the model reads two texts as one sequence: `first` A `middle` B `last`.
struct PairTemplate {
  std::vector<int32_t> first, middle, last;  // all empty: the tokenizer does not say
  bool typed = false;  // B's tokens have another token type than A's (BERT; not RoBERTa)
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
  // Bytes held back because a later byte may still change their tokens. Bounded: a WordPiece word
  // longer than the model's max_input_chars_per_word becomes [UNK] without being stored, and a run
  // that GPT-2's pre-tokenizer would make one piece is cut when it has kMaxPieceBytes.
  virtual int64_t pending_bytes() const = 0;
};

// An immutable vocabulary with its rules. Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::unique_ptr<StreamingTokenizer> NewStream() const = 0;
  virtual int32_t vocab_size() const = 0;  // highest id + 1
  virtual const SpecialTokens& special() const = 0;
  virtual const PairTemplate& pair() const = 0;
  // Tokens are spelled in GPT-2's alphabet of bytes (byte_level.h), not as text.
  virtual bool byte_level() const = 0;
  // Text of a token as the vocabulary spells it ("##ing", "\u0120the"); empty for an id without
  // entry.
  virtual std::string_view TokenText(int32_t id) const = 0;
  // Id of a token text, or -1.
  virtual int32_t TokenId(std::string_view text) const = 0;

  // Whole text at once; with `add_special_tokens`, [CLS] first and [SEP] last.
  absl::StatusOr<TokenSequence> Encode(std::string_view text, bool add_special_tokens) const;
};

// Bytes after which a run of letters, numbers, white space or other characters is cut, where the
// library would make one piece of it. No text has such runs; memory must stay bounded.
inline constexpr size_t kMaxPieceBytes = size_t{16} << 10;

// Loads `tokenizer.json` if the directory has one, else `vocab.txt` (with tokenizer_config.json's
// do_lower_case, strip_accents, tokenize_chinese_chars where present; BERT-uncased defaults), else
// `vocab.json` and `merges.txt` (with tokenizer_config.json's add_prefix_space).
// NOT_FOUND when none exists; INVALID_ARGUMENT / UNIMPLEMENTED naming the field otherwise.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

// The formats from memory; these are also what the fuzz target drives. model.type of tokenizer.json
// chooses: WordPiece or BPE.
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
// Byte-level BPE of `vocab` (a JSON object: token to id) and `merges` (one a line). With <s> and
// </s> in the vocabulary it is RoBERTa's, whose special tokens are found in text; else GPT-2's.
absl::StatusOr<std::unique_ptr<Tokenizer>> ParseVocabMerges(std::string_view vocab,
                                                            std::string_view merges,
                                                            bool add_prefix_space = false);

}  // namespace longdoc
