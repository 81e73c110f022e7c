// MaxSim of a candidate over the token vectors of an encoded document (late interaction):
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
#include "engine/similarity.h"
#include "engine/token_vectors.h"
#include "engine/work.h"

namespace longdoc {

struct MaxSimResult {
  double score = 0;
  std::vector<PassageSimilarity> passages;  // the best first
};

// One candidate against the token vectors of one document. Those of the same document share a pass,
// so that its vectors are read once for all of them.
struct MaxSimTask {
  std::shared_ptr<const TokenVectors> document;     // [n, C], of this engine
  absl::Span<const Passage> passages;               // token spans within [0, n), not empty
  std::shared_ptr<const void> owner;                // keeps them alive
  std::vector<float> candidate;                     // [m, C], rows of unit length
  int64_t best_passages = 0;                        // how many to tell
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called exactly once, from a worker or from Stop, iff the work was submitted. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<MaxSimResult>) &&> on_done;
};

// Time O(n·m·C + passages·m); memory 4·m·(n/tile + 2·passages) bytes with the backend's tile of
// tokens, no matter how the passages overlap, and MaxSimScratchBytes. INVALID_ARGUMENT for empty or
// misshapen inputs.
absl::StatusOr<std::unique_ptr<Work>> MakeMaxSimWork(Backend& backend, MaxSimTask&& task);
// Most scratch that a worker takes for it, beyond what its input takes: one tile of products, and
// what finding its maxima takes.
int64_t MaxSimScratchBytes(Backend& backend);

}  // namespace longdoc
