// Similarities of a candidate with an encoded document: cosine of pooled vectors, and MaxSim over
// token vectors (late interaction):
//
//   MaxSim(candidate, tokens) = mean over the candidate's tokens i of max over tokens j of u_i·d_j
//
// The same sweep over the document gives the MaxSim restricted to each passage's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/base/cancellation.h"
#include "engine/options.h"
#include "engine/work.h"

namespace longdoc {

struct PassageSimilarity {
  int32_t passage = 0;  // index into the document's passages, all granularities
  double score = 0;
};

// In double. 0 when one of the vectors is zero, NaN when one is not finite.
double CosineSimilarity(absl::Span<const float> a, absl::Span<const float> b);

// The `count` best of `scores`, best first; equal ones in order of index. What is not a number
// comes after everything else.
std::vector<PassageSimilarity> SelectBest(absl::Span<const double> scores, int64_t count);

// Cosines of `candidate` [C] with the bf16 rows of `passages` [n, C]; the `count` best.
std::vector<PassageSimilarity> BestPassages(absl::Span<const float> candidate,
                                            absl::Span<const uint16_t> passages, int64_t count);

struct MaxSimResult {
  double score = 0;
  std::vector<PassageSimilarity> passages;  // the best first
};

// One candidate against the token vectors of one document. Those of the same document share a pass,
// so that its vectors are read once for all of them.
struct MaxSimTask {
  int64_t dimensions = 0;                           // C
  absl::Span<const uint16_t> document;              // bf16 [n, C], rows of unit length
  absl::Span<const Passage> passages;               // token spans within [0, n), not empty
  std::shared_ptr<const void> owner;                // keeps both alive
  std::vector<float> candidate;                     // [m, C], rows of unit length
  int64_t best_passages = 0;                        // how many to tell
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called exactly once, from a worker or from Stop, iff the work was submitted. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<MaxSimResult>) &&> on_done;
};

// Time O(n·m·C + passages·m); memory 4·m·(n/256 + 2·passages) bytes, no matter how the passages
// overlap. INVALID_ARGUMENT for empty or misshapen inputs.
absl::StatusOr<std::unique_ptr<Work>> MakeMaxSimWork(Backend& backend, MaxSimTask&& task);

}  // namespace longdoc
