// Similarities of a candidate with pooled vectors of an encoded document. Late interaction with its
// tokens: max_sim.h.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

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

}  // namespace longdoc
