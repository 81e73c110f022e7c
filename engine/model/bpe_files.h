// The texts of a byte-level BPE tokenizer in Hugging Face's layout. Private to engine/model.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace longdoc {

struct BpeFiles {
  std::string tokenizer_json;
  std::string vocab_json;
  std::string merges_txt;
};

// RoBERTa's tokenizer of these merges ("left right", one a line, lowest rank first), whose
// vocabulary follows from them: <s>, <pad>, </s>, <unk>, <mask>, the 256 bytes, what each merge
// makes. INVALID_ARGUMENT naming the line for a merge of what is no token yet, and for more than
// kMaxVocabularySize tokens.
absl::StatusOr<BpeFiles> MakeRobertaFiles(const std::string& merges);

// tokenizer_config.json of such a tokenizer; `max_tokens` is what the model advertises.
std::string RobertaConfigJson(int64_t max_tokens);

}  // namespace longdoc
