#include "engine/cross_encoder.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/gemm.h"

namespace longdoc {

CrossEncoderHead::CrossEncoderHead(const HeadWeights& weights)
    : pooler_(ToFloats(weights.pooler)),
      pooler_bias_(ToFloats(weights.pooler_bias)),
      classifier_(ToFloats(weights.classifier)),
      classifier_bias_(ToFloats(weights.classifier_bias)[0]) {}

double CrossEncoderHead::Logit(absl::Span<const float> state) const {
  const size_t c = pooler_bias_.size();
  double logit = classifier_bias_;
  for (size_t o = 0; o < c; ++o) {
    const float* row = pooler_.data() + o * c;
    double sum = pooler_bias_[o];
    for (size_t i = 0; i < c; ++i) sum += static_cast<double>(row[i]) * state[i];
    logit += classifier_[o] * std::tanh(sum);
  }
  return logit;
}

int64_t CrossEncoderHead::bytes() const {
  const size_t floats = pooler_.size() + pooler_bias_.size() + classifier_.size() + 1;
  return static_cast<int64_t>(floats * sizeof(float));
}

bool CanReadPairs(const Tokenizer& tokenizer) {
  const PairTemplate& pair = tokenizer.pair();
  return !pair.typed && !(pair.first.empty() && pair.middle.empty() && pair.last.empty());
}

absl::Span<const int32_t> WithoutSpecialTokens(const Tokenizer& tokenizer,
                                               absl::Span<const int32_t> ids) {
  const SpecialTokens& special = tokenizer.special();
  const bool surrounded =
      ids.size() >= 2 && ids.front() == special.cls && ids.back() == special.sep;
  return surrounded ? ids.subspan(1, ids.size() - 2) : ids;
}

std::vector<int32_t> PairIds(const Tokenizer& tokenizer, absl::Span<const int32_t> query,
                             absl::Span<const int32_t> document) {
  const PairTemplate& pair = tokenizer.pair();
  const absl::Span<const int32_t> parts[] = {pair.first, query, pair.middle, document, pair.last};
  size_t size = 0;
  for (const absl::Span<const int32_t> part : parts) size += part.size();
  std::vector<int32_t> ids;
  ids.reserve(size);
  for (const absl::Span<const int32_t> part : parts)
    ids.insert(ids.end(), part.begin(), part.end());
  return ids;
}

absl::Status SubmitCrossEncode(Engine& engine, CrossEncodeTask&& task) {
  if (task.model == nullptr || task.cancellation == nullptr || task.on_done == nullptr) {
    return absl::InternalError("cross-encode task without a model, token or callback");
  }
  const Model& model = *task.model;
  if (!model.info().can_cross_encode || model.cross_encoder() == nullptr) {
    return WithReason(absl::FailedPreconditionError(absl::StrFormat(
                          "model \"%s\" has no reranker's head, or its tokenizer no pairs of texts",
                          model.name())),
                      "METHOD_NOT_SUPPORTED");
  }
  if (task.query.empty()) {
    return WithReason(absl::InvalidArgumentError("the query has no token"), "EMPTY_CANDIDATE");
  }
  if (task.document.empty()) {
    return WithReason(absl::InvalidArgumentError("the document has no token"), "EMPTY_DOCUMENT");
  }
  EncodeTask encode;
  encode.model = task.model;
  encode.ids = PairIds(model.tokenizer(), task.query, task.document);
  encode.spans = {{0, 1}};  // the first token's state, as its mean
  encode.attention = task.attention;
  encode.cancellation = std::move(task.cancellation);
  encode.on_done = [held = std::move(task.model),
                    done = std::move(task.on_done)](absl::StatusOr<EncodeResult> result) mutable {
    if (!result.ok()) return std::move(done)(result.status());
    const double logit = held->cross_encoder()->Logit(result->passages);
    if (!std::isfinite(logit)) {
      return std::move(done)(absl::InternalError("logit of a cross-encoder is not finite"));
    }
    std::move(done)(CrossEncodeResult{logit, result->stats});
  };
  return engine.Submit(std::move(encode));
}

}  // namespace longdoc
