// The sections of tokenizer.json that WordPiece and BPE files share.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe_encoder.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace longdoc::text_internal {

// INVALID_ARGUMENT naming `path` unless `section` is an object.
absl::Status CheckObject(const nlohmann::json& section, const std::string& path);

// UNIMPLEMENTED unless `section`.type is `want`, which may also be a list for the message.
absl::Status CheckType(const nlohmann::json& section, const std::string& path,
                       const std::string& want);

// `vocab`: an object of token to id. `path` names it in messages.
absl::Status ReadVocabulary(const nlohmann::json& vocab, const std::string& path,
                            Vocabulary* vocabulary);

// Member "vocab" of tokenizer.json's model, which must be an object.
absl::Status ReadModelVocabulary(const nlohmann::json& model, Vocabulary* vocabulary);

// added_tokens, which may be new to the vocabulary. UNIMPLEMENTED for single_word, and for the
// flags that `support` lacks.
struct AddedTokenSupport {
  bool strip = false;       // lstrip, rstrip
  bool normalized = false;  // there is no normalizer, so that it only says what is matched first
};
absl::Status ReadAddedTokens(const nlohmann::json& root, const AddedTokenSupport& support,
                             Vocabulary* vocabulary, AddedTokens* added_tokens);

// What stands around a text and between two; and byte-level BPE's trimming of ranges.
struct PostProcessor {
  int32_t cls = -1, sep = -1;
  PairTemplate pair;
  TrimOptions trim;
};
// post_processor: TemplateProcessing, BertProcessing; if `byte_level` also RobertaProcessing,
// ByteLevel and a Sequence of these. Absent: nothing. UNIMPLEMENTED for others.
absl::Status ReadPostProcessor(const nlohmann::json& root, bool byte_level,
                               const Vocabulary& vocabulary, PostProcessor* out);

// Ids in [first] A [middle] B [last] of the two processors that have names.
PairTemplate BertPair(int32_t cls, int32_t sep);
PairTemplate RobertaPair(int32_t cls, int32_t sep);

}  // namespace longdoc::text_internal
