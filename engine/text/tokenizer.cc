#include "engine/text/tokenizer.h"

namespace longdoc {

absl::StatusOr<TokenSequence> Tokenizer::Encode(std::string_view text,
                                                bool add_special_tokens) const {
  const std::unique_ptr<StreamingTokenizer> stream = NewStream();
  if (absl::Status status = stream->Append(text); !status.ok()) return status;
  if (absl::Status status = stream->Finish(); !status.ok()) return status;
  TokenSequence tokens = stream->Take();
  if (!add_special_tokens) return tokens;
  const int64_t size = static_cast<int64_t>(text.size());
  if (special().cls >= 0) {
    tokens.ids.insert(tokens.ids.begin(), special().cls);
    tokens.bytes.insert(tokens.bytes.begin(), ByteRange{0, 0});
  }
  if (special().sep >= 0) {
    tokens.ids.push_back(special().sep);
    tokens.bytes.push_back({size, size});
  }
  return tokens;
}

}  // namespace longdoc
