// tokenizer.json -> WordPieceTokenizer.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/text/loader_util.h"
#include "engine/text/tokenizer.h"
#include "engine/text/wordpiece_tokenizer.h"

namespace longdoc {
namespace {

using nlohmann::json;
using text_internal::FindMember;
using text_internal::ReadBool;
using text_internal::ReadInt;
using text_internal::ReadString;

// Bounds the work and memory of one word; models have 100.
constexpr int64_t kMaxWordChars = 10'000;
constexpr size_t kMaxAddedTokens = 100'000;

absl::Status CheckObject(const json& section, const std::string& path) {
  if (section.is_object()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: %s is not an object", path));
}

// UNIMPLEMENTED unless `section`.type is `want`.
absl::Status CheckType(const json& section, const std::string& path, const std::string& want) {
  if (absl::Status status = CheckObject(section, path); !status.ok()) return status;
  std::string type;
  if (absl::Status status = ReadString(section, "type", path, &type); !status.ok()) return status;
  if (type == want) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrFormat("tokenizer.json: %s.type \"%s\" (only %s)", path, type.substr(0, 64), want));
}

absl::Status ReadNormalizer(const json& root, NormalizerOptions* options) {
  const json* section = FindMember(root, "normalizer");
  if (section == nullptr) {
    *options = {false, false, false, false};
    return absl::OkStatus();
  }
  if (absl::Status s = CheckType(*section, "normalizer", "BertNormalizer"); !s.ok()) return s;
  const std::string path = "normalizer";
  if (absl::Status s = ReadBool(*section, "clean_text", path, &options->clean_text); !s.ok()) {
    return s;
  }
  if (absl::Status s =
          ReadBool(*section, "handle_chinese_chars", path, &options->split_chinese_chars);
      !s.ok()) {
    return s;
  }
  if (absl::Status s = ReadBool(*section, "lowercase", path, &options->lowercase); !s.ok()) {
    return s;
  }
  options->strip_accents = options->lowercase;  // what null means
  return ReadBool(*section, "strip_accents", path, &options->strip_accents);
}

absl::Status ReadVocabulary(const json& section, Vocabulary* vocabulary) {
  const json* vocab = FindMember(section, "vocab");
  if (vocab == nullptr || !vocab->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: model.vocab is not an object");
  }
  if (static_cast<int64_t>(vocab->size()) > kMaxVocabularySize) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "tokenizer.json: model.vocab has %d entries, limit %d", vocab->size(), kMaxVocabularySize));
  }
  vocabulary->Reserve(static_cast<int64_t>(vocab->size()));
  for (const auto& [text, value] : vocab->items()) {
    if (!value.is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tokenizer.json: model.vocab has a value that is not an integer but %s",
                          value.type_name()));
    }
    const int64_t id = value.is_number_unsigned() && *value.get_ptr<const uint64_t*>() >
                                                         static_cast<uint64_t>(kMaxVocabularySize)
                           ? kMaxVocabularySize
                           : value.get<int64_t>();
    if (absl::Status status = vocabulary->Add(text, id); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& root, WordPieceModel* model) {
  const json* section = FindMember(root, "model");
  if (section == nullptr || !section->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: model is not an object");
  }
  // Files of the first releases have no type; the prefix without merges tells WordPiece then.
  const bool untyped = FindMember(*section, "type") == nullptr &&
                       FindMember(*section, "continuing_subword_prefix") != nullptr &&
                       FindMember(*section, "merges") == nullptr;
  if (absl::Status s = CheckType(*section, "model", "WordPiece"); !untyped && !s.ok()) return s;
  std::string unk_token = "[UNK]";
  if (absl::Status s = ReadString(*section, "unk_token", "model", &unk_token); !s.ok()) return s;
  if (absl::Status s =
          ReadString(*section, "continuing_subword_prefix", "model", &model->continuing_prefix);
      !s.ok()) {
    return s;
  }
  if (model->continuing_prefix.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tokenizer.json: model.continuing_subword_prefix has %d bytes, limit %d",
                        model->continuing_prefix.size(), kMaxTokenBytes));
  }
  int64_t max_chars = 100;
  if (absl::Status s = ReadInt(*section, "max_input_chars_per_word", "model", &max_chars);
      !s.ok()) {
    return s;
  }
  if (max_chars < 1 || max_chars > kMaxWordChars) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tokenizer.json: model.max_input_chars_per_word %d is not in [1, %d]",
                        max_chars, kMaxWordChars));
  }
  model->max_input_chars_per_word = static_cast<int32_t>(max_chars);
  if (absl::Status s = ReadVocabulary(*section, &model->vocabulary); !s.ok()) return s;
  model->unk_id = model->vocabulary.Find(unk_token);
  if (model->unk_id < 0) {
    return absl::InvalidArgumentError("tokenizer.json: model.unk_token is not in model.vocab");
  }
  model->continuing_hash = PrefixHash::Extend(0, model->continuing_prefix);
  return absl::OkStatus();
}

absl::Status ReadAddedToken(const json& entry, const std::string& path, WordPieceParts* parts) {
  if (absl::Status s = CheckObject(entry, path); !s.ok()) return s;
  std::string content;
  int64_t id = -1;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true;
  if (absl::Status s = ReadString(entry, "content", path, &content); !s.ok()) return s;
  if (absl::Status s = ReadInt(entry, "id", path, &id); !s.ok()) return s;
  if (absl::Status s = ReadBool(entry, "single_word", path, &single_word); !s.ok()) return s;
  if (absl::Status s = ReadBool(entry, "lstrip", path, &lstrip); !s.ok()) return s;
  if (absl::Status s = ReadBool(entry, "rstrip", path, &rstrip); !s.ok()) return s;
  if (absl::Status s = ReadBool(entry, "normalized", path, &normalized); !s.ok()) return s;
  if (single_word || lstrip || rstrip || normalized) {
    const char* field = single_word ? "single_word"
                        : lstrip    ? "lstrip"
                        : rstrip    ? "rstrip"
                                    : "normalized";
    return absl::UnimplementedError(
        absl::StrFormat("tokenizer.json: %s.%s is true (only false)", path, field));
  }
  if (content.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: %s.content is empty", path));
  }
  Vocabulary& vocabulary = parts->model.vocabulary;
  const int32_t known = vocabulary.Find(content);
  if (known < 0) {
    if (absl::Status s = vocabulary.Add(content, id); !s.ok()) return s;
  } else if (known != id) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "tokenizer.json: %s.id is %d, the vocabulary has %d for this token", path, id, known));
  }
  parts->added_tokens.Add(content, static_cast<int32_t>(id));
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const json& root, WordPieceParts* parts) {
  const json* list = FindMember(root, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) {
    return absl::InvalidArgumentError("tokenizer.json: added_tokens is not an array");
  }
  if (list->size() > kMaxAddedTokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "tokenizer.json: added_tokens has %d entries, limit %d", list->size(), kMaxAddedTokens));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = absl::StrFormat("added_tokens[%d]", i);
    if (absl::Status s = ReadAddedToken((*list)[i], path, parts); !s.ok()) return s;
  }
  parts->added_tokens.Finish();
  return absl::OkStatus();
}

// Id of the token named by entry.SpecialToken.id of a template, or -1 if it is none.
int32_t TemplateToken(const json& entry, const Vocabulary& vocabulary) {
  const json* special = FindMember(entry, "SpecialToken");
  const json* name = special == nullptr ? nullptr : FindMember(*special, "id");
  if (name == nullptr || !name->is_string()) return -1;
  return vocabulary.Find(*name->get_ptr<const std::string*>());
}

// Id of a BertProcessing pair ["[CLS]", 101], or -1 if it is none or contradicts the vocabulary.
int32_t PairToken(const json* pair, const Vocabulary& vocabulary) {
  if (pair == nullptr || !pair->is_array() || pair->size() != 2) return -1;
  const json& name = (*pair)[0];
  const json& id = (*pair)[1];
  if (!name.is_string() || !id.is_number_integer()) return -1;
  const int32_t found = vocabulary.Find(*name.get_ptr<const std::string*>());
  return id == found ? found : -1;
}

// What stands before and after a single text. No post_processor: nothing.
absl::Status ReadPostProcessor(const json& root, WordPieceParts* parts) {
  const json* section = FindMember(root, "post_processor");
  if (section == nullptr) return absl::OkStatus();
  const Vocabulary& vocabulary = parts->model.vocabulary;
  std::string type;
  if (absl::Status s = ReadString(*section, "type", "post_processor", &type); !s.ok()) return s;
  if (type == "BertProcessing") {
    parts->special.cls = PairToken(FindMember(*section, "cls"), vocabulary);
    parts->special.sep = PairToken(FindMember(*section, "sep"), vocabulary);
  } else if (type == "TemplateProcessing") {
    const json* single = FindMember(*section, "single");
    if (single == nullptr || !single->is_array() || single->size() != 3 ||
        FindMember((*single)[1], "Sequence") == nullptr) {
      return absl::UnimplementedError(
          "tokenizer.json: post_processor.single is not special token, sequence, special token");
    }
    parts->special.cls = TemplateToken((*single)[0], vocabulary);
    parts->special.sep = TemplateToken((*single)[2], vocabulary);
  } else {
    return CheckType(*section, "post_processor", "TemplateProcessing or BertProcessing");
  }
  if (parts->special.cls < 0 || parts->special.sep < 0) {
    return absl::InvalidArgumentError(
        "tokenizer.json: post_processor names a special token that the vocabulary lacks");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json_text) {
  absl::StatusOr<json> root = text_internal::ParseJsonObject(json_text, "tokenizer.json");
  if (!root.ok()) return root.status();
  const json* pre_tokenizer = FindMember(*root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) {
    return absl::UnimplementedError(
        "tokenizer.json: pre_tokenizer is null (only BertPreTokenizer)");
  }
  if (absl::Status s = CheckType(*pre_tokenizer, "pre_tokenizer", "BertPreTokenizer"); !s.ok()) {
    return s;
  }
  WordPieceParts parts;
  if (absl::Status s = ReadNormalizer(*root, &parts.normalizer); !s.ok()) return s;
  if (absl::Status s = ReadModel(*root, &parts.model); !s.ok()) return s;
  if (absl::Status s = ReadAddedTokens(*root, &parts); !s.ok()) return s;
  if (absl::Status s = ReadPostProcessor(*root, &parts); !s.ok()) return s;
  parts.special.pad = parts.model.vocabulary.Find("[PAD]");
  parts.special.mask = parts.model.vocabulary.Find("[MASK]");
  parts.special.unk = parts.model.unk_id;
  return std::make_unique<WordPieceTokenizer>(std::move(parts));
}

}  // namespace longdoc
