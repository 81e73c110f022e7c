// Cross-encoders: a reranker reads a query and a document as one sequence, and its head makes one
// logit of the first token's last state. The higher, the more relevant; 1/(1 + e^−logit) is a
// probability. Nothing of the document can be kept but its ids: every pair is a pass of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/cancellation.h"
#include "engine/engine.h"
#include "engine/model/encoder_weights.h"
#include "engine/options.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// Immutable.
class CrossEncoderHead {
 public:
  // Copies the weights, all of which must be there.
  explicit CrossEncoderHead(const HeadWeights& weights);

  // classifier·tanh(pooler·state + pooler_bias) + classifier_bias, summed in double; C² + C
  // multiply-adds. `state`: [C].
  double Logit(absl::Span<const float> state) const;

  int64_t bytes() const;

 private:
  std::vector<float> pooler_, pooler_bias_;  // [C, C], [C]
  std::vector<float> classifier_;            // [C]
  float classifier_bias_;
};

// Does the tokenizer say how two texts are joined, in a way that our encoders compute? They add the
// same token type to all tokens, so that templates with two types are out.
bool CanReadPairs(const Tokenizer& tokenizer);

// The ids of a text without the special tokens that stand around it, if both are there.
absl::Span<const int32_t> WithoutSpecialTokens(const Tokenizer& tokenizer,
                                               absl::Span<const int32_t> ids);

// What the model reads: <s> query </s></s> document </s> for RoBERTa's tokenizers. Both come
// without special tokens; the tokenizer must be one that CanReadPairs.
std::vector<int32_t> PairIds(const Tokenizer& tokenizer, absl::Span<const int32_t> query,
                             absl::Span<const int32_t> document);

struct CrossEncodeResult {
  double logit = 0;
  EncodeStats stats;
};

struct CrossEncodeTask {
  std::shared_ptr<const Model> model;
  std::vector<int32_t> query, document;  // without special tokens
  AttentionPolicy attention;
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called exactly once, from a worker or from Stop, iff SubmitCrossEncode returned OK. Must be
  // quick.
  absl::AnyInvocable<void(absl::StatusOr<CrossEncodeResult>) &&> on_done;
};

// Queues the pair as an encode, which short ones share a batch as other short texts do. Never
// blocks; `task` is used up either way. FAILED_PRECONDITION (METHOD_NOT_SUPPORTED) for a model that
// cannot; INVALID_ARGUMENT (EMPTY_CANDIDATE, EMPTY_DOCUMENT) for a side without tokens; otherwise
// as Engine::Submit. on_done gets INTERNAL should the logit not be finite.
absl::Status SubmitCrossEncode(Engine& engine, CrossEncodeTask&& task);

}  // namespace longdoc
