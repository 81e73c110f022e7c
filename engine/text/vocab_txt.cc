// vocab.txt -> WordPieceTokenizer.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/text/json_sections.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "engine/text/wordpiece_tokenizer.h"

namespace longdoc {
namespace {

constexpr int32_t kMaxWordChars = 10'000;

// One token a line, the line number is the id. The last line may lack its line feed.
absl::Status ReadLines(std::string_view text, Vocabulary* vocabulary) {
  Utf8Validator validator;
  absl::Status status = validator.Append(text);
  if (status.ok()) status = validator.Finish();
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("vocab.txt: %s", std::string(status.message())));
  }
  const int64_t lines = std::count(text.begin(), text.end(), '\n') + 1;
  vocabulary->Reserve(std::min(lines, kMaxVocabularySize));
  int64_t id = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    status = vocabulary->Add(line, id++);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("vocab.txt, line %d: %s", id, std::string(status.message())));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseVocabTxt(std::string_view vocab,
                                                         const WordPieceOptions& options) {
  if (static_cast<int64_t>(vocab.size()) > kMaxVocabularyFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("vocab.txt: %d bytes, limit %d", vocab.size(), kMaxVocabularyFileBytes));
  }
  if (options.max_input_chars_per_word < 1 || options.max_input_chars_per_word > kMaxWordChars) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_input_chars_per_word %d is not in [1, %d]",
                        options.max_input_chars_per_word, kMaxWordChars));
  }
  WordPieceParts parts;
  WordPieceModel& model = parts.model;
  if (absl::Status s = ReadLines(vocab, &model.vocabulary); !s.ok()) return s;
  model.unk_id = model.vocabulary.Find(options.unk_token);
  if (model.unk_id < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocab.txt: the unknown token \"%s\" is missing", options.unk_token.substr(0, 64)));
  }
  model.continuing_prefix = options.continuing_prefix;
  model.continuing_hash = PrefixHash::Extend(0, model.continuing_prefix);
  model.max_input_chars_per_word = options.max_input_chars_per_word;
  parts.normalizer.clean_text = true;
  parts.normalizer.lowercase = options.lowercase;
  parts.normalizer.strip_accents = options.strip_accents;
  parts.normalizer.split_chinese_chars = options.split_chinese_chars;

  parts.special.unk = model.unk_id;
  parts.special.pad = model.vocabulary.Find("[PAD]");
  parts.special.cls = model.vocabulary.Find("[CLS]");
  parts.special.sep = model.vocabulary.Find("[SEP]");
  parts.special.mask = model.vocabulary.Find("[MASK]");
  if (parts.special.cls >= 0 && parts.special.sep >= 0) {
    parts.pair = text_internal::BertPair(parts.special.cls, parts.special.sep);
  }
  // The special tokens are found in raw text, as the library's BertTokenizer does.
  for (const int32_t id : {parts.special.unk, parts.special.pad, parts.special.cls,
                           parts.special.sep, parts.special.mask}) {
    if (id >= 0) parts.added_tokens.Add(model.vocabulary.Text(id), id);
  }
  parts.added_tokens.Finish();
  return std::make_unique<WordPieceTokenizer>(std::move(parts));
}

}  // namespace longdoc
