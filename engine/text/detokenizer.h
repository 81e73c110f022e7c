// Text from tokens, one at a time: what a token adds to what came before it.
#pragma once

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace longdoc {

// WordPiece: words stand apart by a space, unless "##" joins them or one of . , ! ? follows; the
// case and the white space that the tokenizer took away do not come back. Byte-level BPE: exactly
// the token's bytes, which may end inside a character. Special tokens add nothing, but [UNK] shows.
class Detokenizer {
 public:
  // `after_text`: something stands before the first token. The tokenizer outlives this.
  Detokenizer(const Tokenizer& tokenizer, bool after_text)
      : tokenizer_(tokenizer), after_text_(after_text) {}

  std::string Next(int32_t id);

 private:
  const Tokenizer& tokenizer_;
  bool after_text_;
};

}  // namespace longdoc
