// tokenizer.json with model.type BPE, and vocab.json with merges.txt -> BpeTokenizer.
#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/json_sections.h"
#include "engine/text/loader_util.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace longdoc {
namespace {

using nlohmann::json;
using text_internal::FindMember;
using text_internal::ReadBool;
using text_internal::ReadString;

// A merge as one string: "left right".
absl::Status AddMergeLine(std::string_view line, BpeModel* model) {
  constexpr std::string_view kVersion = "#version";
  if (line.substr(0, kVersion.size()) == kVersion) return absl::OkStatus();  // a comment
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    return absl::InvalidArgumentError("is not two tokens with a space between");
  }
  return model->AddMerge(line.substr(0, space), line.substr(space + 1));
}

absl::Status AddMergeEntry(const json& entry, BpeModel* model) {
  if (entry.is_string()) return AddMergeLine(*entry.get_ptr<const std::string*>(), model);
  if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_string()) {
    return absl::InvalidArgumentError("is neither a string nor an array of two strings");
  }
  return model->AddMerge(*entry[0].get_ptr<const std::string*>(),
                         *entry[1].get_ptr<const std::string*>());
}

absl::Status ReadMerges(const json& section, BpeModel* model) {
  const json* merges = FindMember(section, "merges");
  if (merges == nullptr || !merges->is_array()) {
    return absl::InvalidArgumentError("tokenizer.json: model.merges is not an array");
  }
  if (static_cast<int64_t>(merges->size()) > kMaxVocabularySize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tokenizer.json: model.merges has %d entries, limit %d", merges->size(),
                        kMaxVocabularySize));
  }
  model->ReserveMerges(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const absl::Status status = AddMergeEntry((*merges)[i], model);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("tokenizer.json: model.merges[%d]: %s", i,
                                                        std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

// What would change the merging, and no byte-level model has.
absl::Status RefuseVariants(const json& section) {
  const json* dropout = FindMember(section, "dropout");
  if (dropout != nullptr && *dropout != 0.0) {
    return absl::UnimplementedError("tokenizer.json: model.dropout is not null (only null)");
  }
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    std::string value;
    RETURN_IF_ERROR(ReadString(section, field, "model", &value));
    if (value.empty()) continue;
    return absl::UnimplementedError(
        absl::StrFormat("tokenizer.json: model.%s is not empty (only null or empty)", field));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& section, std::string* unk_token, BpeModel* model) {
  RETURN_IF_ERROR(RefuseVariants(section));
  RETURN_IF_ERROR(ReadString(section, "unk_token", "model", unk_token));
  bool ignore_merges = false;
  RETURN_IF_ERROR(ReadBool(section, "ignore_merges", "model", &ignore_merges));
  RETURN_IF_ERROR(text_internal::ReadModelVocabulary(section, &model->mutable_vocabulary()));
  RETURN_IF_ERROR(ReadMerges(section, model));
  return model->Finish(ignore_merges);
}

absl::Status ReadPreTokenizer(const json& root, bool* add_prefix_space) {
  const json* section = FindMember(root, "pre_tokenizer");
  if (section == nullptr) {
    return absl::UnimplementedError("tokenizer.json: pre_tokenizer is null (only ByteLevel)");
  }
  RETURN_IF_ERROR(text_internal::CheckType(*section, "pre_tokenizer", "ByteLevel"));
  *add_prefix_space = true;  // what an absent field means
  bool use_regex = true;
  RETURN_IF_ERROR(ReadBool(*section, "add_prefix_space", "pre_tokenizer", add_prefix_space));
  RETURN_IF_ERROR(ReadBool(*section, "use_regex", "pre_tokenizer", &use_regex));
  if (use_regex) return absl::OkStatus();
  return absl::UnimplementedError("tokenizer.json: pre_tokenizer.use_regex is false (only true)");
}

// The first of `names` that the vocabulary has, or -1.
int32_t FirstOf(const Vocabulary& vocabulary, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const int32_t id = vocabulary.Find(name); id >= 0) return id;
  }
  return -1;
}

// Roles that no section names, by the spellings of RoBERTa, GPT-2 and BERT.
void FindSpecial(const std::string& unk_token, BpeParts* parts) {
  const Vocabulary& vocabulary = parts->model.vocabulary();
  parts->special.pad = FirstOf(vocabulary, {"<pad>", "[PAD]", "<|padding|>"});
  parts->special.mask = FirstOf(vocabulary, {"<mask>", "[MASK]"});
  parts->special.unk = FirstOf(vocabulary, {unk_token.c_str(), "<unk>", "[UNK]"});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> text_internal::ParseBpeJson(const json& root,
                                                                       const json& model) {
  if (const json* normalizer = FindMember(root, "normalizer"); normalizer != nullptr) {
    return CheckType(*normalizer, "normalizer", "null");
  }
  BpeParts parts;
  RETURN_IF_ERROR(ReadPreTokenizer(root, &parts.add_prefix_space));
  std::string unk_token;
  RETURN_IF_ERROR(ReadModel(model, &unk_token, &parts.model));
  Vocabulary& vocabulary = parts.model.mutable_vocabulary();
  RETURN_IF_ERROR(ReadAddedTokens(root, {/*strip=*/true, /*normalized=*/true}, &vocabulary,
                                  &parts.added_tokens));
  PostProcessor post;
  RETURN_IF_ERROR(ReadPostProcessor(root, /*byte_level=*/true, vocabulary, &post));
  parts.trim = post.trim;
  parts.pair = std::move(post.pair);
  parts.special.cls = post.cls;
  parts.special.sep = post.sep;
  FindSpecial(unk_token, &parts);
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseVocabMerges(std::string_view vocab,
                                                            std::string_view merges,
                                                            bool add_prefix_space) {
  ASSIGN_OR_RETURN(const json entries, text_internal::ParseJsonObject(vocab, "vocab.json"));
  BpeParts parts;
  BpeModel& model = parts.model;
  RETURN_IF_ERROR(
      text_internal::ReadVocabulary(entries, "vocab.json", &model.mutable_vocabulary()));
  if (static_cast<int64_t>(merges.size()) > kMaxVocabularyFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("merges.txt: %d bytes, limit %d", merges.size(), kMaxVocabularyFileBytes));
  }
  for (int64_t line_number = 1; !merges.empty(); ++line_number) {
    const size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    if (line.empty()) continue;
    const absl::Status status = AddMergeLine(line, &model);
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("merges.txt, line %d: %s", line_number, std::string(status.message())));
    }
  }
  RETURN_IF_ERROR(model.Finish(/*ignore_merges=*/false));
  parts.add_prefix_space = add_prefix_space;
  const Vocabulary& vocabulary = model.vocabulary();
  const int32_t cls = vocabulary.Find("<s>"), sep = vocabulary.Find("</s>");
  if (cls >= 0 && sep >= 0) {
    parts.special.cls = cls;
    parts.special.sep = sep;
    parts.pair = text_internal::RobertaPair(cls, sep);
    parts.trim = {/*trim=*/true, /*prefix_space=*/add_prefix_space};
  }
  FindSpecial("", &parts);
  // What is found in raw text, as the library's tokenizers of both kinds do.
  for (const char* token : {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"}) {
    const int32_t id = vocabulary.Find(token);
    if (id >= 0) parts.added_tokens.Add(token, id, /*strip_left=*/std::string(token) == "<mask>");
  }
  parts.added_tokens.Finish();
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

}  // namespace longdoc
