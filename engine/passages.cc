#include "engine/passages.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

using Kind = PassageSpec::Kind;

absl::Status Invalid(const std::string& message) {
  return WithReason(absl::InvalidArgumentError(message), "INVALID_PASSAGE");
}

class Cutter {
 public:
  Cutter(int32_t granularity, const PassageSources& sources, const DocumentLimits& limits,
         std::vector<Passage>* out)
      : granularity_(granularity), s_(sources), limits_(limits), out_(out) {}

  absl::Status ByTokens(int64_t size) {
    int32_t index = 0;
    for (int64_t begin = 0; begin < s_.num_tokens; begin += size, ++index) {
      RETURN_IF_ERROR(Add(index, begin, std::min(begin + size, s_.num_tokens)));
    }
    return absl::OkStatus();
  }

  // `ends`: ascending byte offsets where pieces of the text end; `size` pieces make a passage.
  absl::Status ByEnds(const std::vector<int64_t>& ends, int64_t size) {
    int64_t token = 0;
    int32_t index = 0;
    for (size_t i = 0; i < ends.size(); ++index) {
      i = std::min(ends.size(), i + static_cast<size_t>(size));
      const int64_t first = token;
      const bool last = i == ends.size();
      // Every token belongs to the piece in which it begins; the last piece takes what is left.
      token = last ? s_.num_tokens : FirstTokenFrom(ends[i - 1], first);
      RETURN_IF_ERROR(Add(index, first, token));
    }
    return absl::OkStatus();
  }

  // A token belongs to every range that it overlaps.
  absl::Status ByRanges(const std::vector<ByteRange>& ranges) {
    for (size_t i = 0; i < ranges.size(); ++i) {
      const ByteRange& r = ranges[i];
      if (r.end > s_.num_bytes) {
        return Invalid(absl::StrFormat(
            "passage %d of granularity %d ends at byte %d, but the document has %d bytes", i,
            granularity_, r.end, s_.num_bytes));
      }
      const auto& tokens = s_.token_bytes;
      const auto first = std::partition_point(tokens.begin(), tokens.end(),
                                              [&](const ByteRange& t) { return t.end <= r.begin; });
      const auto last = std::partition_point(first, tokens.end(),
                                             [&](const ByteRange& t) { return t.begin < r.end; });
      RETURN_IF_ERROR(Add(static_cast<int32_t>(i), first - tokens.begin(), last - tokens.begin()));
    }
    return absl::OkStatus();
  }

 private:
  int64_t FirstTokenFrom(int64_t byte, int64_t from) const {
    const auto it = std::partition_point(s_.token_bytes.begin() + from, s_.token_bytes.end(),
                                         [byte](const ByteRange& t) { return t.begin < byte; });
    return it - s_.token_bytes.begin();
  }

  absl::Status Add(int32_t index, int64_t begin, int64_t end) {
    if (begin >= end) return absl::OkStatus();
    if (static_cast<int64_t>(out_->size()) >= limits_.max_passages) {
      return WithReason(absl::InvalidArgumentError(absl::StrFormat(
                            "the document has more than %d passages", limits_.max_passages)),
                        "TOO_MANY_PASSAGES");
    }
    Passage p;
    p.granularity = granularity_;
    p.index = index;
    p.tokens = {begin, end};
    if (!s_.token_bytes.empty()) {
      p.bytes = {s_.token_bytes[begin].begin, s_.token_bytes[end - 1].end};
      // Shift behind [CLS]; the ends of the text take the special tokens in.
      p.tokens.begin += begin == 0 ? 0 : 1;
      p.tokens.end += end == s_.num_tokens ? 2 : 1;
    }
    out_->push_back(p);
    return absl::OkStatus();
  }

  const int32_t granularity_;
  const PassageSources& s_;
  const DocumentLimits& limits_;
  std::vector<Passage>* const out_;
};

}  // namespace

absl::Status CheckPassageSpec(const PassageSpec& spec, size_t index, const DocumentLimits& limits) {
  if (spec.kind == Kind::kTokens || spec.kind == Kind::kSentences) {
    if (spec.size >= 1) return absl::OkStatus();
    return Invalid(absl::StrFormat("granularity %d: passage size must be at least 1, got %d", index,
                                   spec.size));
  }
  if (spec.kind == Kind::kBreaks) return absl::OkStatus();
  if (static_cast<int64_t>(spec.ranges.size()) > limits.max_passages) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat("granularity %d: %d ranges, the limit is %d",
                                                   index, spec.ranges.size(), limits.max_passages)),
        "TOO_MANY_PASSAGES");
  }
  for (size_t i = 0; i < spec.ranges.size(); ++i) {
    const ByteRange& r = spec.ranges[i];
    if (r.begin >= 0 && r.begin < r.end) continue;
    return Invalid(
        absl::StrFormat("granularity %d: range %d is [%d, %d), which is empty or negative", index,
                        i, r.begin, r.end));
  }
  return absl::OkStatus();
}

absl::Status AppendPassages(const PassageSpec& spec, int32_t granularity,
                            const PassageSources& sources, const DocumentLimits& limits,
                            std::vector<Passage>* out) {
  Cutter cutter(granularity, sources, limits, out);
  if (spec.kind == Kind::kTokens) return cutter.ByTokens(spec.size);
  if (sources.token_bytes.empty()) {
    return Invalid(absl::StrFormat("granularity %d needs text, but the document came as token ids",
                                   granularity));
  }
  if (spec.kind == Kind::kByteRanges) return cutter.ByRanges(spec.ranges);
  if (spec.kind == Kind::kSentences) return cutter.ByEnds(sources.sentence_ends, spec.size);
  std::vector<int64_t> ends = sources.breaks;
  ends.push_back(sources.num_bytes);
  return cutter.ByEnds(ends, 1);
}

}  // namespace longdoc
