// Cuts a tokenized document into passages (late chunking: pooled after the whole was encoded).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/document.h"
#include "engine/options.h"

namespace longdoc {

// What passages are cut from. Tokens are counted without [CLS] and [SEP] here.
struct PassageSources {
  const std::vector<ByteRange>& token_bytes;  // of each kept token; empty when ids were sent
  const std::vector<int64_t>& sentence_ends;
  const std::vector<int64_t>& breaks;
  int64_t num_tokens;
  int64_t num_bytes;
  ByteRange kept;  // bytes that were encoded
};

// INVALID_ARGUMENT (INVALID_PASSAGE) naming the granularity and what is wrong with it.
absl::Status CheckPassageSpec(const PassageSpec& spec, size_t index, const DocumentLimits& limits);

// Appends the passages of one granularity, in order. Passages without a token (an empty span, or
// one that truncation cut off) are left out; the others keep their index. Token positions count
// [CLS], which belongs to the passage with the first token, as [SEP] does to the one with the last.
// INVALID_ARGUMENT: INVALID_PASSAGE (a range outside the text, ranges or sentences without text),
// TOO_MANY_PASSAGES.
absl::Status AppendPassages(const PassageSpec& spec, int32_t granularity,
                            const PassageSources& sources, const DocumentLimits& limits,
                            std::vector<Passage>* out);

}  // namespace longdoc
