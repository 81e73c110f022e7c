#include "engine/text/json_sections.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/loader_util.h"

namespace longdoc::text_internal {
namespace {

using nlohmann::json;

constexpr size_t kMaxAddedTokens = 100'000;
// Tokens of the two kinds of `normalized` are compared pairwise.
constexpr size_t kMaxMixedTokens = 512;
constexpr size_t kMaxProcessors = 8;
constexpr size_t kMaxTemplate = 64;

struct AddedToken {
  std::string content;
  int64_t id = -1;
  bool lstrip = false, rstrip = false, normalized = true;
};

absl::StatusOr<AddedToken> ReadAddedToken(const json& entry, const std::string& path,
                                          const AddedTokenSupport& support) {
  RETURN_IF_ERROR(CheckObject(entry, path));
  AddedToken token;
  bool single_word = false;
  RETURN_IF_ERROR(ReadString(entry, "content", path, &token.content));
  RETURN_IF_ERROR(ReadInt(entry, "id", path, &token.id));
  RETURN_IF_ERROR(ReadBool(entry, "single_word", path, &single_word));
  RETURN_IF_ERROR(ReadBool(entry, "lstrip", path, &token.lstrip));
  RETURN_IF_ERROR(ReadBool(entry, "rstrip", path, &token.rstrip));
  RETURN_IF_ERROR(ReadBool(entry, "normalized", path, &token.normalized));
  const char* refused = single_word                               ? "single_word"
                        : token.lstrip && !support.strip          ? "lstrip"
                        : token.rstrip && !support.strip          ? "rstrip"
                        : token.normalized && !support.normalized ? "normalized"
                                                                  : nullptr;
  if (refused != nullptr) {
    return absl::UnimplementedError(
        absl::StrFormat("tokenizer.json: %s.%s is true (only false)", path, refused));
  }
  if (token.content.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: %s.content is empty", path));
  }
  return token;
}

// Could a text be cut differently when `a` is looked for before `b`, instead of both at once?
bool Overlap(std::string_view a, std::string_view b) {
  if (a.find(b) != std::string_view::npos || b.find(a) != std::string_view::npos) return true;
  const size_t longest = std::min(a.size(), b.size());
  for (size_t n = 1; n < longest; ++n) {
    if (a.substr(a.size() - n) == b.substr(0, n) || b.substr(b.size() - n) == a.substr(0, n)) {
      return true;
    }
  }
  return false;
}

// The library looks for tokens with normalized=false first. All at once is the same if no token of
// one kind overlaps one of the other.
absl::Status CheckMixed(const std::vector<AddedToken>& tokens) {
  std::vector<std::string_view> kinds[2];
  for (const AddedToken& token : tokens) kinds[token.normalized ? 1 : 0].push_back(token.content);
  if (kinds[0].empty() || kinds[1].empty()) return absl::OkStatus();
  if (tokens.size() > kMaxMixedTokens) {
    return absl::UnimplementedError(absl::StrFormat(
        "tokenizer.json: added_tokens has %d entries, some normalized and some not (limit %d)",
        tokens.size(), kMaxMixedTokens));
  }
  for (const std::string_view a : kinds[0]) {
    for (const std::string_view b : kinds[1]) {
      if (!Overlap(a, b)) continue;
      return absl::UnimplementedError(
          "tokenizer.json: added_tokens has overlapping tokens, one normalized and one not");
    }
  }
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

absl::Status MissingToken() {
  return absl::InvalidArgumentError(
      "tokenizer.json: post_processor names a special token that the vocabulary lacks");
}

// Any template that has A once and then B once; of others no pair is known.
absl::Status ReadPairTemplate(const json& pair, const Vocabulary& vocabulary, PairTemplate* out) {
  if (!pair.is_array() || pair.size() > kMaxTemplate) return absl::OkStatus();
  PairTemplate result;
  std::string seen;
  for (const json& entry : pair) {
    const bool is_text = FindMember(entry, "Sequence") != nullptr;
    const json* part = FindMember(entry, is_text ? "Sequence" : "SpecialToken");
    if (part == nullptr) return absl::OkStatus();
    int64_t type_id = 0;
    RETURN_IF_ERROR(ReadInt(*part, "type_id", "post_processor.pair", &type_id));
    result.typed |= type_id != 0;
    if (is_text) {
      std::string name;
      RETURN_IF_ERROR(ReadString(*part, "id", "post_processor.pair", &name));
      seen += name;
      continue;
    }
    const int32_t id = TemplateToken(entry, vocabulary);
    if (id < 0) return MissingToken();
    (seen.empty() ? result.first : seen == "A" ? result.middle : result.last).push_back(id);
  }
  if (seen == "AB") *out = std::move(result);
  return absl::OkStatus();
}

absl::Status ReadTemplate(const json& section, const Vocabulary& vocabulary, PostProcessor* out) {
  const json* single = FindMember(section, "single");
  if (single == nullptr || !single->is_array() || single->size() != 3 ||
      FindMember((*single)[1], "Sequence") == nullptr) {
    return absl::UnimplementedError(
        "tokenizer.json: post_processor.single is not special token, sequence, special token");
  }
  out->cls = TemplateToken((*single)[0], vocabulary);
  out->sep = TemplateToken((*single)[2], vocabulary);
  if (out->cls < 0 || out->sep < 0) return MissingToken();
  const json* pair = FindMember(section, "pair");
  return pair == nullptr ? absl::OkStatus() : ReadPairTemplate(*pair, vocabulary, &out->pair);
}

absl::Status ReadTrim(const json& section, TrimOptions* trim) {
  *trim = {true, true};  // what an absent field means
  RETURN_IF_ERROR(ReadBool(section, "trim_offsets", "post_processor", &trim->trim));
  return ReadBool(section, "add_prefix_space", "post_processor", &trim->prefix_space);
}

absl::Status ReadProcessor(const json& section, bool byte_level, const Vocabulary& vocabulary,
                           PostProcessor* out) {
  std::string type;
  RETURN_IF_ERROR(ReadString(section, "type", "post_processor", &type));
  if (type == "TemplateProcessing") return ReadTemplate(section, vocabulary, out);
  if (type == "ByteLevel" && byte_level) return ReadTrim(section, &out->trim);
  const bool is_roberta = type == "RobertaProcessing" && byte_level;
  if (!is_roberta && type != "BertProcessing") {
    return CheckType(section, "post_processor",
                     byte_level ? "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel"
                                : "TemplateProcessing or BertProcessing");
  }
  out->cls = PairToken(FindMember(section, "cls"), vocabulary);
  out->sep = PairToken(FindMember(section, "sep"), vocabulary);
  if (out->cls < 0 || out->sep < 0) return MissingToken();
  out->pair = is_roberta ? RobertaPair(out->cls, out->sep) : BertPair(out->cls, out->sep);
  return is_roberta ? ReadTrim(section, &out->trim) : absl::OkStatus();
}

}  // namespace

absl::Status CheckObject(const json& section, const std::string& path) {
  if (section.is_object()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: %s is not an object", path));
}

absl::Status CheckType(const json& section, const std::string& path, const std::string& want) {
  RETURN_IF_ERROR(CheckObject(section, path));
  std::string type;
  RETURN_IF_ERROR(ReadString(section, "type", path, &type));
  if (type == want) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrFormat("tokenizer.json: %s.type \"%s\" (only %s)", path, type.substr(0, 64), want));
}

absl::Status ReadVocabulary(const json& vocab, const std::string& path, Vocabulary* vocabulary) {
  if (static_cast<int64_t>(vocab.size()) > kMaxVocabularySize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has %d entries, limit %d", path, vocab.size(), kMaxVocabularySize));
  }
  vocabulary->Reserve(static_cast<int64_t>(vocab.size()));
  for (const auto& [text, value] : vocab.items()) {
    if (!value.is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s has a value that is not an integer but %s", path, value.type_name()));
    }
    const int64_t id = value.is_number_unsigned() && *value.get_ptr<const uint64_t*>() >
                                                         static_cast<uint64_t>(kMaxVocabularySize)
                           ? kMaxVocabularySize
                           : value.get<int64_t>();
    RETURN_IF_ERROR(vocabulary->Add(text, id));
  }
  return absl::OkStatus();
}

absl::Status ReadModelVocabulary(const json& model, Vocabulary* vocabulary) {
  const json* vocab = FindMember(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: model.vocab is not an object");
  }
  return ReadVocabulary(*vocab, "tokenizer.json: model.vocab", vocabulary);
}

absl::Status ReadAddedTokens(const json& root, const AddedTokenSupport& support,
                             Vocabulary* vocabulary, AddedTokens* added_tokens) {
  const json* list = FindMember(root, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) {
    return absl::InvalidArgumentError("tokenizer.json: added_tokens is not an array");
  }
  if (list->size() > kMaxAddedTokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "tokenizer.json: added_tokens has %d entries, limit %d", list->size(), kMaxAddedTokens));
  }
  std::vector<AddedToken> tokens;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = absl::StrFormat("added_tokens[%d]", i);
    ASSIGN_OR_RETURN(const AddedToken token, ReadAddedToken((*list)[i], path, support));
    const int32_t known = vocabulary->Find(token.content);
    if (known < 0) {
      RETURN_IF_ERROR(vocabulary->Add(token.content, token.id));
    } else if (known != token.id) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tokenizer.json: %s.id is %d, the vocabulary has %d for this token", path,
                          token.id, known));
    }
    added_tokens->Add(token.content, static_cast<int32_t>(token.id), token.lstrip, token.rstrip);
    tokens.push_back(token);
  }
  added_tokens->Finish();
  return CheckMixed(tokens);
}

absl::Status ReadPostProcessor(const json& root, bool byte_level, const Vocabulary& vocabulary,
                               PostProcessor* out) {
  const json* section = FindMember(root, "post_processor");
  if (section == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckObject(*section, "post_processor"));
  const json* list = FindMember(*section, "processors");
  if (!byte_level || list == nullptr) return ReadProcessor(*section, byte_level, vocabulary, out);
  RETURN_IF_ERROR(CheckType(*section, "post_processor", "Sequence"));
  if (!list->is_array() || list->size() > kMaxProcessors) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "tokenizer.json: post_processor.processors is not an array of at most %d", kMaxProcessors));
  }
  for (const json& processor : *list) {
    RETURN_IF_ERROR(CheckObject(processor, "post_processor.processors"));
    RETURN_IF_ERROR(ReadProcessor(processor, byte_level, vocabulary, out));
  }
  return absl::OkStatus();
}

PairTemplate BertPair(int32_t cls, int32_t sep) { return {{cls}, {sep}, {sep}, /*typed=*/true}; }

PairTemplate RobertaPair(int32_t cls, int32_t sep) {
  return {{cls}, {sep, sep}, {sep}, /*typed=*/false};
}

}  // namespace longdoc::text_internal
