#include "engine/text/wordpiece_tokenizer.h"

#include <utility>

#include "engine/text/text_stream.h"
#include "engine/text/utf8.h"

namespace longdoc {
namespace {

// Behind the added tokens: normalizer -> words -> tokens. Between calls it holds a run of combining
// characters (in the normalizer) and the current word (in the splitter): both bounded.
class WordPieceStream final : public TextStream {
 public:
  explicit WordPieceStream(const WordPieceParts& parts)
      : TextStream(parts.added_tokens),
        splitter_(parts.model, &out_),
        normalizer_(parts.normalizer, &splitter_) {}

 private:
  void OnText(std::string_view text, int64_t base) override;
  void OnAddedToken(const AddedTokens::Match& match, ByteRange range) override {
    normalizer_.EndPiece();
    splitter_.EmitToken(match.id, range);
  }
  void OnEnd() override { normalizer_.EndPiece(); }
  int64_t held_bytes() const override {
    return splitter_.pending_bytes() + normalizer_.pending_bytes();
  }

  WordSplitter splitter_;
  BertNormalizer normalizer_;
};

void WordPieceStream::OnText(std::string_view text, int64_t base) {
  for (size_t i = 0; i < text.size();) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      size_t end = i + 1;
      while (end < text.size() && static_cast<uint8_t>(text[end]) < 0x80) ++end;
      normalizer_.AppendAscii(text.data() + i, end - i, base + static_cast<int64_t>(i));
      i = end;
    } else {
      const int length = Utf8Length(static_cast<uint8_t>(text[i]));
      const int64_t begin = base + static_cast<int64_t>(i);
      normalizer_.Append(DecodeUtf8(text.data() + i), {begin, begin + length});
      i += length;
    }
  }
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(WordPieceParts parts) : parts_(std::move(parts)) {}

std::unique_ptr<StreamingTokenizer> WordPieceTokenizer::NewStream() const {
  return std::make_unique<WordPieceStream>(parts_);
}

}  // namespace longdoc
