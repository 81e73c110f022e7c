// The WordPiece implementation of Tokenizer; built by the loaders only.
#pragma once

#include <memory>
#include <string_view>

#include "engine/text/added_tokens.h"
#include "engine/text/normalizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/word_splitter.h"

namespace longdoc {

// Everything a loader finds out. `model.vocabulary` holds the added tokens too.
struct WordPieceParts {
  WordPieceModel model;
  NormalizerOptions normalizer;
  AddedTokens added_tokens;
  SpecialTokens special;
  PairTemplate pair;
};

class WordPieceTokenizer final : public Tokenizer {
 public:
  explicit WordPieceTokenizer(WordPieceParts parts);

  std::unique_ptr<StreamingTokenizer> NewStream() const override;
  int32_t vocab_size() const override { return parts_.model.vocabulary.size(); }
  const SpecialTokens& special() const override { return parts_.special; }
  const PairTemplate& pair() const override { return parts_.pair; }
  bool byte_level() const override { return false; }
  std::string_view TokenText(int32_t id) const override { return parts_.model.vocabulary.Text(id); }
  int32_t TokenId(std::string_view text) const override {
    return parts_.model.vocabulary.Find(text);
  }

 private:
  const WordPieceParts parts_;
};

}  // namespace longdoc
