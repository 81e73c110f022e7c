// The tokenizer of a model directory: which files it has, and what tokenizer_config.json adds.
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/loader_util.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace longdoc {
namespace {

using text_internal::FindMember;
using text_internal::ReadBool;
using text_internal::ReadString;

constexpr char kConfigName[] = "tokenizer_config.json";

// tokenizer_config.json, where it is there, has what vocabularies cannot say; else an empty object.
absl::StatusOr<nlohmann::json> ReadConfig(const std::string& model_dir) {
  const absl::StatusOr<std::string> text = text_internal::ReadFile(
      absl::StrFormat("%s/%s", model_dir, kConfigName), /*max_bytes=*/kMaxVocabularyFileBytes);
  if (absl::IsNotFound(text.status())) return nlohmann::json::object();
  if (!text.ok()) return text.status();
  return text_internal::ParseJsonObject(*text, kConfigName);
}

absl::Status ReadWordPieceOptions(const nlohmann::json& config, WordPieceOptions* options) {
  const std::string what = kConfigName;
  RETURN_IF_ERROR(ReadBool(config, "do_lower_case", what, &options->lowercase));
  options->strip_accents = options->lowercase;  // what null means
  RETURN_IF_ERROR(ReadBool(config, "strip_accents", what, &options->strip_accents));
  RETURN_IF_ERROR(ReadBool(config, "tokenize_chinese_chars", what, &options->split_chinese_chars));
  // Either a string or an added token with its flags.
  const nlohmann::json* unk = FindMember(config, "unk_token");
  if (unk != nullptr && unk->is_object()) {
    return ReadString(*unk, "content", what + ".unk_token", &options->unk_token);
  }
  return ReadString(config, "unk_token", what, &options->unk_token);
}

// vocab.json, and merges.txt which must be beside it.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadVocabMerges(const std::string& model_dir) {
  const absl::StatusOr<std::string> vocab =
      text_internal::ReadFile(model_dir + "/vocab.json", kMaxVocabularyFileBytes);
  if (absl::IsNotFound(vocab.status())) {
    return absl::NotFoundError(
        absl::StrFormat("%s: no tokenizer.json, vocab.txt or vocab.json", model_dir));
  }
  if (!vocab.ok()) return vocab.status();
  const absl::StatusOr<std::string> merges =
      text_internal::ReadFile(model_dir + "/merges.txt", kMaxVocabularyFileBytes);
  if (absl::IsNotFound(merges.status())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: vocab.json without merges.txt", model_dir));
  }
  if (!merges.ok()) return merges.status();
  ASSIGN_OR_RETURN(const nlohmann::json config, ReadConfig(model_dir));
  bool add_prefix_space = false;
  RETURN_IF_ERROR(ReadBool(config, "add_prefix_space", kConfigName, &add_prefix_space));
  return ParseVocabMerges(*vocab, *merges, add_prefix_space);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const absl::StatusOr<std::string> json =
      text_internal::ReadFile(model_dir + "/tokenizer.json", kMaxVocabularyFileBytes);
  if (json.ok()) return ParseTokenizerJson(*json);
  if (!absl::IsNotFound(json.status())) return json.status();
  const absl::StatusOr<std::string> vocab =
      text_internal::ReadFile(model_dir + "/vocab.txt", kMaxVocabularyFileBytes);
  if (absl::IsNotFound(vocab.status())) return LoadVocabMerges(model_dir);
  if (!vocab.ok()) return vocab.status();
  ASSIGN_OR_RETURN(const nlohmann::json config, ReadConfig(model_dir));
  WordPieceOptions options;
  RETURN_IF_ERROR(ReadWordPieceOptions(config, &options));
  return ParseVocabTxt(*vocab, options);
}

}  // namespace longdoc
