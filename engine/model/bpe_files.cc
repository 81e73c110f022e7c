#include "engine/model/bpe_files.h"

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/text/byte_level.h"
#include "engine/text/vocabulary.h"

namespace longdoc {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<const char*, 5> kSpecial = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"};

// Tokens in the order of their ids, and the merges as tokenizer.json has them.
class VocabularyMaker {
 public:
  VocabularyMaker() {
    for (const char* token : kSpecial) Add(token);
    std::vector<std::string> bytes(256);
    for (int byte = 0; byte < 256; ++byte) {
      AppendByteLevel(std::string(1, static_cast<char>(byte)), &bytes[static_cast<size_t>(byte)]);
    }
    std::sort(bytes.begin(), bytes.end());  // by their characters, as the library's trainer does
    for (const std::string& token : bytes) Add(token);
  }

  absl::Status AddMerge(std::string_view line, int64_t number) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string left(line.substr(0, space)),
        right(line.substr(std::min(space + 1, line.size())));
    if (!known_.contains(left) || !known_.contains(right)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("merges, line %d: not two tokens with a space between", number));
    }
    if (static_cast<int64_t>(known_.size()) >= kMaxVocabularySize) {
      return absl::InvalidArgumentError(
          absl::StrFormat("merges, line %d: more than %d tokens", number, kMaxVocabularySize));
    }
    Add(left + right);
    merges_.push_back(Json::array({left, right}));
    return absl::OkStatus();
  }

  const Json& vocab() const { return vocab_; }
  const Json& merges() const { return merges_; }

 private:
  void Add(const std::string& token) {
    // emplace_back: operator[] of an ordered object searches it, which is quadratic in the end.
    if (known_.insert(token).second) {
      vocab_.get_ref<Json::object_t&>().emplace_back(token, known_.size() - 1);
    }
  }

  absl::flat_hash_set<std::string> known_;
  Json vocab_ = Json::object(), merges_ = Json::array();
};

Json AddedToken(int id) {
  return {{"id", id},
          {"content", kSpecial[static_cast<size_t>(id)]},
          {"single_word", false},
          {"lstrip", std::string_view(kSpecial[static_cast<size_t>(id)]) == "<mask>"},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

Json TokenizerOf(const VocabularyMaker& maker) {
  Json added = Json::array();
  for (int id = 0; id < static_cast<int>(kSpecial.size()); ++id) added.push_back(AddedToken(id));
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor",
           {{"type", "RobertaProcessing"},
            {"sep", Json::array({"</s>", 2})},
            {"cls", Json::array({"<s>", 0})},
            {"trim_offsets", true},
            {"add_prefix_space", false}}},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", maker.vocab()},
            {"merges", maker.merges()}}}};
}

}  // namespace

absl::StatusOr<BpeFiles> MakeRobertaFiles(const std::string& merges) {
  VocabularyMaker maker;
  std::string_view rest = merges;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.empty()) RETURN_IF_ERROR(maker.AddMerge(line, number));
  }
  try {
    return BpeFiles{TokenizerOf(maker).dump(1) + "\n", maker.vocab().dump() + "\n", merges};
  } catch (const std::exception& error) {  // memory
    return absl::ResourceExhaustedError(absl::StrCat("merges: ", error.what()));
  }
}

std::string RobertaConfigJson(int64_t max_tokens) {
  const Json json = {
      {"add_prefix_space", false},
      {"bos_token", "<s>"},
      {"cls_token", "<s>"},
      {"eos_token", "</s>"},
      {"mask_token", "<mask>"},
      {"model_max_length", max_tokens},
      {"pad_token", "<pad>"},
      {"sep_token", "</s>"},
      {"tokenizer_class", "RobertaTokenizer"},
      {"trim_offsets", true},
      {"unk_token", "<unk>"},
  };
  return json.dump(2) + "\n";
}

}  // namespace longdoc
