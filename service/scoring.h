// Scores of one candidate against one encoded document, by every method asked for. Knows nothing of
// gRPC; what ScoreCandidates and RankDocuments have in common.
//
//   TokenizeInput, CheckCandidateLength → EncodeCandidate (only for methods that compare vectors) →
//   ScorePair
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/cancellation.h"
#include "engine/kept_document.h"
#include "engine/options.h"
#include "longdoc/v1/common.pb.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/context.h"
#include "service/executor.h"

namespace longdoc::service {

inline constexpr int32_t kMaxBestPassages = 64;
inline constexpr int64_t kMaxCandidateIdBytes = 256;

using Methods = std::vector<v1::ScoringMethod>;

// What can be asked of a document that is encoded for it, and of one that is kept.
Methods MethodsOf(const Model& model);
Methods MethodsOf(const KeptDocument& document);

// The methods asked for; none, or SCORING_METHOD_UNSPECIFIED: the first possible one of likelihood,
// cross-encoder and cosine. FAILED_PRECONDITION (METHOD_NOT_SUPPORTED) naming what `subject` can
// do; INVALID_ARGUMENT (INVALID_OPTION) for numbers that are no method and for the same one twice.
absl::StatusOr<Methods> ResolveMethods(absl::Span<const int> asked, const Methods& possible,
                                       const std::string& subject);

struct ScoringOptions {
  Methods methods;  // not empty
  bool token_log_probabilities = false;
  int32_t best_passages = 1;
  AttentionPolicy attention = {};  // of candidates

  bool Has(v1::ScoringMethod method) const;
  // Some method needs the candidate's vectors.
  bool needs_vectors() const { return Has(v1::COSINE) || Has(v1::LATE_INTERACTION); }
};

struct EncodedCandidate {
  std::vector<int32_t> ids;          // without special tokens
  std::vector<float> vector;         // [C]; empty when no method needs it
  std::vector<float> token_vectors;  // [m, C], special tokens included, of unit length; likewise
};

// Ids of a short text: a candidate, a query or a prompt, given as text (null: as `ids`; both null:
// none). INVALID_ARGUMENT: TEXT_TOO_LARGE (bytes; an id counts 4), INVALID_UTF8,
// TOKEN_OUT_OF_VOCABULARY.
absl::StatusOr<std::vector<int32_t>> TokenizeInput(const ServiceContext& context,
                                                   const Model& model, const std::string* text,
                                                   const v1::TokenIds* ids);
// The same from the oneof `input` of a Candidate or TextInput.
template <typename Input>
absl::StatusOr<std::vector<int32_t>> TokenizeInput(const ServiceContext& context,
                                                   const Model& model, const Input& input) {
  return TokenizeInput(context, model, input.has_text() ? &input.text() : nullptr,
                       input.has_token_ids() ? &input.token_ids() : nullptr);
}
// INVALID_ARGUMENT: EMPTY_CANDIDATE without tokens, CANDIDATE_TOO_LONG when one of the methods
// cannot take that many.
absl::Status CheckCandidateLength(const ServiceContext& context, const Model& model,
                                  const Methods& methods, int64_t tokens);

// Encodes the candidate, if a method needs it. `done` is called exactly once with no lock held: on
// the executor, or before this returns.
void EncodeCandidate(
    ServiceContext& context, const Executor& executor, const std::shared_ptr<const Model>& model,
    std::vector<int32_t> ids, const ScoringOptions& options,
    std::shared_ptr<CancellationToken> token,
    absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<const EncodedCandidate>>) &&> done);

// In the order of options.methods.
using ScoresDone = absl::AnyInvocable<void(absl::StatusOr<std::vector<v1::Score>>) &&>;
// `document` is held until the engine has done with it: pass one that holds its pin
// (PinnedDocument). `done` is called exactly once with no lock held, on a worker or before this
// returns; must be quick.
void ScorePair(ServiceContext& context, const std::shared_ptr<const KeptDocument>& document,
               const std::shared_ptr<const EncodedCandidate>& candidate,
               const ScoringOptions& options, const std::shared_ptr<CancellationToken>& token,
               ScoresDone done);

// The pin's document; the pin goes with the last copy.
std::shared_ptr<const KeptDocument> PinnedDocument(DocumentStore::Pin pin);

}  // namespace longdoc::service
