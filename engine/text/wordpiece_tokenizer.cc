#include "engine/text/wordpiece_tokenizer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/text/utf8.h"

namespace longdoc {
namespace {

// Bytes looked at together; bounds what a large Append copies.
constexpr size_t kBlockBytes = size_t{64} << 10;

// Raw bytes -> validation -> added tokens -> normalizer -> words -> tokens. Between calls it holds
// an incomplete character or a possible start of an added token (raw_), a run of combining
// characters (in the normalizer) and the current word (in the splitter): all bounded.
class WordPieceStream final : public StreamingTokenizer {
 public:
  explicit WordPieceStream(const WordPieceParts& parts)
      : parts_(parts), splitter_(parts.model, &out_), normalizer_(parts.normalizer, &splitter_) {}

  absl::Status Append(std::string_view bytes) override;
  absl::Status Finish() override;
  TokenSequence Take() override;
  int64_t num_tokens() const override { return num_taken_ + static_cast<int64_t>(out_.ids.size()); }
  int64_t num_bytes() const override { return validator_.num_bytes(); }
  int64_t pending_bytes() const override {
    return static_cast<int64_t>(raw_.size()) + splitter_.pending_bytes() +
           normalizer_.pending_bytes();
  }

 private:
  // Consumes what it can of raw_.
  void Process(bool at_end);
  // Complete characters without added tokens; `base` is the offset of text[0].
  void Text(std::string_view text, int64_t base);

  const WordPieceParts& parts_;
  Utf8Validator validator_;
  TokenSequence out_;
  WordSplitter splitter_;
  BertNormalizer normalizer_;
  std::string raw_;        // bytes accepted and not yet processed
  int64_t raw_begin_ = 0;  // offset of raw_[0] in the text
  int64_t num_taken_ = 0;
  absl::Status status_;
};

absl::Status WordPieceStream::Append(std::string_view bytes) {
  if (!status_.ok()) return status_;
  while (!bytes.empty()) {
    const std::string_view block = bytes.substr(0, kBlockBytes);
    status_ = validator_.Append(block);
    if (!status_.ok()) return status_;
    raw_.append(block);
    Process(/*at_end=*/false);
    bytes.remove_prefix(block.size());
  }
  return absl::OkStatus();
}

absl::Status WordPieceStream::Finish() {
  if (!status_.ok()) return status_;
  status_ = validator_.Finish();
  if (!status_.ok()) return status_;
  Process(/*at_end=*/true);
  normalizer_.EndPiece();
  status_ = absl::FailedPreconditionError("tokenizer stream has been finished");
  return absl::OkStatus();
}

TokenSequence WordPieceStream::Take() {
  num_taken_ += static_cast<int64_t>(out_.ids.size());
  return std::exchange(out_, TokenSequence());
}

void WordPieceStream::Process(bool at_end) {
  const AddedTokens& added = parts_.added_tokens;
  // An incomplete character at the end stays in raw_.
  const std::string_view raw =
      std::string_view(raw_).substr(0, raw_.size() - validator_.pending_bytes());
  size_t begin = 0;  // of the text not yet handed on
  size_t i = 0;      // no added token starts in [begin, i)
  size_t keep = raw.size();
  while (true) {
    i = added.NextCandidate(raw, i);
    if (i == raw.size()) break;
    const AddedTokens::Match match = added.MatchAt(raw.substr(i), at_end);
    if (match.kind == AddedTokens::Match::kNeedMore) {
      keep = i;
      break;
    }
    if (match.kind == AddedTokens::Match::kNone) {
      ++i;
      continue;
    }
    Text(raw.substr(begin, i - begin), raw_begin_ + static_cast<int64_t>(begin));
    normalizer_.EndPiece();
    const int64_t token_begin = raw_begin_ + static_cast<int64_t>(i);
    splitter_.EmitToken(match.id, {token_begin, token_begin + static_cast<int64_t>(match.length)});
    begin = i += match.length;
  }
  Text(raw.substr(begin, keep - begin), raw_begin_ + static_cast<int64_t>(begin));
  raw_begin_ += static_cast<int64_t>(keep);
  raw_.erase(0, keep);
}

void WordPieceStream::Text(std::string_view text, int64_t base) {
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
