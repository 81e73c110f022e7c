#include "engine/text/bpe_tokenizer.h"

#include <utility>

#include "engine/text/piece_splitter.h"
#include "engine/text/text_stream.h"

namespace longdoc {
namespace {

// Behind the added tokens: pieces -> tokens. Between calls it holds the current piece, or an added
// token that still takes white space on its right.
class BpeStream final : public TextStream {
 public:
  explicit BpeStream(const BpeParts& parts)
      : TextStream(parts.added_tokens),
        encoder_(parts.model, parts.trim, &out_),
        splitter_(parts.add_prefix_space, &encoder_) {}

 private:
  void OnText(std::string_view text, int64_t base) override;
  void OnAddedToken(const AddedTokens::Match& match, ByteRange range) override;
  void OnEnd() override {
    CloseAdded();
    splitter_.EndText();
  }
  int64_t held_bytes() const override { return splitter_.pending_bytes(); }

  void CloseAdded() {
    if (open_.id >= 0) encoder_.EncodeAdded(std::exchange(open_, {}));
  }

  BpeEncoder encoder_;
  PieceSplitter splitter_;
  BpeEncoder::Added open_;  // id >= 0: white space that follows belongs to it
};

void BpeStream::OnText(std::string_view text, int64_t base) {
  if (open_.id >= 0) {
    const PieceKinds& kinds = PieceKinds::Get();
    size_t i = 0;
    while (i < text.size() && kinds[DecodeUtf8(text.data() + i)] == PieceKind::kSpace) {
      i += static_cast<size_t>(Utf8Length(static_cast<uint8_t>(text[i])));
    }
    open_.right_bytes += static_cast<int64_t>(i);
    if (i == text.size()) return;
    CloseAdded();
    text.remove_prefix(i);
    base += static_cast<int64_t>(i);
  }
  splitter_.Append(text, base);
}

void BpeStream::OnAddedToken(const AddedTokens::Match& match, ByteRange range) {
  CloseAdded();
  const PieceSplitter::Stripped left = splitter_.EndText(match.strip_left);
  open_ = {match.id, match.content, range.begin, range.end, left.chars, left.bytes, 0};
  if (!match.strip_right) CloseAdded();
}

}  // namespace

BpeTokenizer::BpeTokenizer(BpeParts parts) : parts_(std::move(parts)) {}

std::unique_ptr<StreamingTokenizer> BpeTokenizer::NewStream() const {
  return std::make_unique<BpeStream>(parts_);
}

}  // namespace longdoc
