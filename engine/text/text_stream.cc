#include "engine/text/text_stream.h"

#include <utility>

namespace longdoc {
namespace {

// Bytes looked at together; bounds what a large Append copies.
constexpr size_t kBlockBytes = size_t{64} << 10;

}  // namespace

absl::Status TextStream::Append(std::string_view bytes) {
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

absl::Status TextStream::Finish() {
  if (!status_.ok()) return status_;
  status_ = validator_.Finish();
  if (!status_.ok()) return status_;
  Process(/*at_end=*/true);
  OnEnd();
  status_ = absl::FailedPreconditionError("tokenizer stream has been finished");
  return absl::OkStatus();
}

TokenSequence TextStream::Take() {
  num_taken_ += static_cast<int64_t>(out_.ids.size());
  return std::exchange(out_, TokenSequence());
}

void TextStream::Process(bool at_end) {
  // An incomplete character at the end stays in raw_.
  const std::string_view raw =
      std::string_view(raw_).substr(0, raw_.size() - validator_.pending_bytes());
  size_t begin = 0;  // of the text not yet handed on
  size_t i = 0;      // no added token starts in [begin, i)
  size_t keep = raw.size();
  while (true) {
    i = added_.NextCandidate(raw, i);
    if (i == raw.size()) break;
    const AddedTokens::Match match = added_.MatchAt(raw.substr(i), at_end);
    if (match.kind == AddedTokens::Match::kNeedMore) {
      keep = i;
      break;
    }
    if (match.kind == AddedTokens::Match::kNone) {
      ++i;
      continue;
    }
    if (i > begin) OnText(raw.substr(begin, i - begin), raw_begin_ + static_cast<int64_t>(begin));
    const int64_t token_begin = raw_begin_ + static_cast<int64_t>(i);
    OnAddedToken(match, {token_begin, token_begin + static_cast<int64_t>(match.length)});
    begin = i += match.length;
  }
  if (keep > begin) {
    OnText(raw.substr(begin, keep - begin), raw_begin_ + static_cast<int64_t>(begin));
  }
  raw_begin_ += static_cast<int64_t>(keep);
  raw_.erase(0, keep);
}

}  // namespace longdoc
