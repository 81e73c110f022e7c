// The byte-level BPE implementation of Tokenizer; built by the loaders only.
#pragma once

#include <memory>
#include <string_view>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe_encoder.h"
#include "engine/text/bpe_model.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// Everything a loader finds out. `model.vocabulary()` holds the added tokens too.
struct BpeParts {
  BpeModel model;
  bool add_prefix_space = false;
  TrimOptions trim;
  AddedTokens added_tokens;
  SpecialTokens special;
  PairTemplate pair;
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeParts parts);

  std::unique_ptr<StreamingTokenizer> NewStream() const override;
  int32_t vocab_size() const override { return parts_.model.vocabulary().size(); }
  const SpecialTokens& special() const override { return parts_.special; }
  const PairTemplate& pair() const override { return parts_.pair; }
  bool byte_level() const override { return true; }
  std::string_view TokenText(int32_t id) const override {
    return parts_.model.vocabulary().Text(id);
  }
  int32_t TokenId(std::string_view text) const override {
    return parts_.model.vocabulary().Find(text);
  }

 private:
  const BpeParts parts_;
};

}  // namespace longdoc
