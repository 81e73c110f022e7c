// tokenizer.json with model.type WordPiece.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/json_sections.h"
#include "engine/text/loader_util.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/wordpiece_tokenizer.h"

namespace longdoc::text_internal {
namespace {

using nlohmann::json;

// Bounds the work and memory of one word; models have 100.
constexpr int64_t kMaxWordChars = 10'000;

absl::Status ReadNormalizer(const json& root, NormalizerOptions* options) {
  const json* section = FindMember(root, "normalizer");
  if (section == nullptr) {
    *options = {false, false, false, false};
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckType(*section, "normalizer", "BertNormalizer"));
  const std::string path = "normalizer";
  RETURN_IF_ERROR(ReadBool(*section, "clean_text", path, &options->clean_text));
  RETURN_IF_ERROR(ReadBool(*section, "handle_chinese_chars", path, &options->split_chinese_chars));
  RETURN_IF_ERROR(ReadBool(*section, "lowercase", path, &options->lowercase));
  options->strip_accents = options->lowercase;  // what null means
  return ReadBool(*section, "strip_accents", path, &options->strip_accents);
}

absl::Status ReadModel(const json& section, WordPieceModel* model) {
  std::string unk_token = "[UNK]";
  RETURN_IF_ERROR(ReadString(section, "unk_token", "model", &unk_token));
  RETURN_IF_ERROR(
      ReadString(section, "continuing_subword_prefix", "model", &model->continuing_prefix));
  if (model->continuing_prefix.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tokenizer.json: model.continuing_subword_prefix has %d bytes, limit %d",
                        model->continuing_prefix.size(), kMaxTokenBytes));
  }
  int64_t max_chars = 100;
  RETURN_IF_ERROR(ReadInt(section, "max_input_chars_per_word", "model", &max_chars));
  if (max_chars < 1 || max_chars > kMaxWordChars) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tokenizer.json: model.max_input_chars_per_word %d is not in [1, %d]",
                        max_chars, kMaxWordChars));
  }
  model->max_input_chars_per_word = static_cast<int32_t>(max_chars);
  RETURN_IF_ERROR(ReadModelVocabulary(section, &model->vocabulary));
  model->unk_id = model->vocabulary.Find(unk_token);
  if (model->unk_id < 0) {
    return absl::InvalidArgumentError("tokenizer.json: model.unk_token is not in model.vocab");
  }
  model->continuing_hash = PrefixHash::Extend(0, model->continuing_prefix);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseWordPieceJson(const json& root, const json& model) {
  const json* pre_tokenizer = FindMember(root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) {
    return absl::UnimplementedError(
        "tokenizer.json: pre_tokenizer is null (only BertPreTokenizer)");
  }
  RETURN_IF_ERROR(CheckType(*pre_tokenizer, "pre_tokenizer", "BertPreTokenizer"));
  WordPieceParts parts;
  Vocabulary& vocabulary = parts.model.vocabulary;
  RETURN_IF_ERROR(ReadNormalizer(root, &parts.normalizer));
  RETURN_IF_ERROR(ReadModel(model, &parts.model));
  RETURN_IF_ERROR(ReadAddedTokens(root, {}, &vocabulary, &parts.added_tokens));
  PostProcessor post;
  RETURN_IF_ERROR(ReadPostProcessor(root, /*byte_level=*/false, vocabulary, &post));
  parts.pair = std::move(post.pair);
  parts.special.cls = post.cls;
  parts.special.sep = post.sep;
  parts.special.pad = vocabulary.Find("[PAD]");
  parts.special.mask = vocabulary.Find("[MASK]");
  parts.special.unk = parts.model.unk_id;
  return std::make_unique<WordPieceTokenizer>(std::move(parts));
}

}  // namespace longdoc::text_internal
