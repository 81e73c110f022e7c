#include "engine/document.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/arriving_ids.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/passages.h"

namespace longdoc {
namespace {

constexpr int64_t kSpecialTokens = 2;  // [CLS] and [SEP] around a text

absl::Status Fail(const std::string& message, std::string_view reason) {
  return WithReason(absl::InvalidArgumentError(message), reason);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentBuilder>> DocumentBuilder::Create(
    const Tokenizer& tokenizer, std::vector<PassageSpec> passages, Overflow overflow,
    const DocumentLimits& limits) {
  for (size_t i = 0; i < passages.size(); ++i) {
    RETURN_IF_ERROR(CheckPassageSpec(passages[i], i, limits));
  }
  return std::unique_ptr<DocumentBuilder>(
      new DocumentBuilder(tokenizer, std::move(passages), overflow, limits));
}

DocumentBuilder::DocumentBuilder(const Tokenizer& tokenizer, std::vector<PassageSpec> passages,
                                 Overflow overflow, const DocumentLimits& limits)
    : tokenizer_(tokenizer),
      specs_(std::move(passages)),
      overflow_(overflow),
      limits_(limits),
      stream_(tokenizer.NewStream()) {
  for (const PassageSpec& s : specs_) want_sentences_ |= s.kind == PassageSpec::Kind::kSentences;
}

absl::Status DocumentBuilder::AppendText(std::string_view bytes) {
  if (has_ids_) {
    return Fail("the document mixes text and token ids", "MIXED_CONTENT");
  }
  const int64_t size = num_bytes() + static_cast<int64_t>(bytes.size());
  if (size > limits_.max_bytes) {
    return Fail(absl::StrFormat("the document has at least %d bytes, the limit is %d", size,
                                limits_.max_bytes),
                "DOCUMENT_TOO_LARGE");
  }
  if (want_sentences_) sentences_.Append(bytes);
  absl::Status status = stream_->Append(bytes);
  if (!status.ok()) return WithReason(status, "INVALID_UTF8");
  return TakeTokens();
}

absl::Status DocumentBuilder::AppendIds(absl::Span<const int32_t> ids) {
  if (ids.empty()) return absl::OkStatus();
  if (num_bytes() > 0) {
    return Fail("the document mixes text and token ids", "MIXED_CONTENT");
  }
  has_ids_ = true;
  tokens_.ids.insert(tokens_.ids.end(), ids.begin(), ids.end());
  return CheckTokens();
}

absl::Status DocumentBuilder::AppendBreak() {
  if (has_ids_) return Fail("passage breaks need text, not token ids", "MIXED_CONTENT");
  if (static_cast<int64_t>(breaks_.size()) >= limits_.max_passages) {
    return Fail(absl::StrFormat("more than %d passage breaks", limits_.max_passages),
                "TOO_MANY_PASSAGES");
  }
  breaks_.push_back(num_bytes());
  return absl::OkStatus();
}

absl::Status DocumentBuilder::TakeTokens() {
  TokenSequence fresh = stream_->Take();
  tokens_.ids.insert(tokens_.ids.end(), fresh.ids.begin(), fresh.ids.end());
  tokens_.bytes.insert(tokens_.bytes.end(), fresh.bytes.begin(), fresh.bytes.end());
  return CheckTokens();
}

int64_t DocumentBuilder::room() const {
  return std::max<int64_t>(1, limits_.max_tokens - (has_ids_ ? 0 : kSpecialTokens));
}

// Holds at most about twice the limit, whatever is sent.
absl::Status DocumentBuilder::CheckTokens() {
  const int64_t held = static_cast<int64_t>(tokens_.ids.size());
  if (held <= room()) {
    SendIds();
    return absl::OkStatus();
  }
  switch (overflow_) {
    case Overflow::kError:
      return Fail(absl::StrFormat("the document has at least %d tokens, the limit is %d",
                                  num_tokens(), limits_.max_tokens),
                  "TOO_MANY_TOKENS");
    case Overflow::kTruncateEnd:
      Drop(0, room());
      break;
    case Overflow::kTruncateStart:
      if (held > 2 * room()) Drop(held - room(), held);
      break;
  }
  return absl::OkStatus();
}

// Those that nothing but a cut of the beginning can change.
void DocumentBuilder::SendIds() {
  if (arriving_ == nullptr || sent_ == tokens_.ids.size()) return;
  if (sent_ == 0 && !has_ids_) arriving_->Append({tokenizer_.special().cls});
  arriving_->Append(absl::MakeConstSpan(tokens_.ids).subspan(sent_));
  sent_ = tokens_.ids.size();
}

// Keeps tokens [begin, end) of those held.
void DocumentBuilder::Drop(int64_t begin, int64_t end) {
  const int64_t held = static_cast<int64_t>(tokens_.ids.size());
  if (begin > 0) arriving_ = nullptr;
  dropped_front_ += begin;
  dropped_back_ += held - end;
  auto keep = [begin, end](auto& v) {
    if (v.empty()) return;
    v.erase(v.begin() + end, v.end());
    v.erase(v.begin(), v.begin() + begin);
  };
  keep(tokens_.ids);
  keep(tokens_.bytes);
}

int64_t DocumentBuilder::num_tokens() const {
  const int64_t held = static_cast<int64_t>(tokens_.ids.size());
  return held + dropped_front_ + dropped_back_ + (has_ids_ ? 0 : kSpecialTokens);
}

int64_t DocumentBuilder::num_bytes() const { return stream_->num_bytes(); }

absl::StatusOr<TokenizedDocument> DocumentBuilder::Finish() {
  if (!has_ids_) {
    absl::Status status = stream_->Finish();
    if (!status.ok()) return WithReason(status, "INVALID_UTF8");
    sentences_.Finish();
    RETURN_IF_ERROR(TakeTokens());
  }
  const int64_t held = static_cast<int64_t>(tokens_.ids.size());
  if (held == 0) {
    return Fail(absl::StrFormat("the document is empty: %d bytes and no token", num_bytes()),
                "EMPTY_DOCUMENT");
  }
  if (held > room()) Drop(held - room(), held);  // kTruncateStart's last cut

  TokenizedDocument doc;
  doc.num_bytes = num_bytes();
  doc.input_tokens = num_tokens();
  doc.truncated = dropped_front_ + dropped_back_ > 0;
  if (!has_ids_) {
    doc.kept = {dropped_front_ > 0 ? tokens_.bytes.front().begin : 0,
                dropped_back_ > 0 ? tokens_.bytes.back().end : doc.num_bytes};
  }
  const PassageSources sources{tokens_.bytes, sentences_.ends(),
                               breaks_,       static_cast<int64_t>(tokens_.ids.size()),
                               num_bytes(),   doc.kept};
  for (size_t i = 0; i < specs_.size(); ++i) {
    RETURN_IF_ERROR(
        AppendPassages(specs_[i], static_cast<int32_t>(i), sources, limits_, &doc.passages));
  }
  doc.arrived = std::move(arriving_);
  doc.ids = std::move(tokens_.ids);
  doc.bytes = std::move(tokens_.bytes);
  if (!has_ids_) {
    doc.ids.insert(doc.ids.begin(), tokenizer_.special().cls);
    doc.ids.push_back(tokenizer_.special().sep);
    doc.bytes.insert(doc.bytes.begin(), ByteRange{});
    doc.bytes.push_back({doc.num_bytes, doc.num_bytes});
  }
  return doc;
}

}  // namespace longdoc
