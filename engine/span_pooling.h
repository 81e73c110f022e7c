// The last phase of an encode: the vectors of documents and passages from the states of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/encode_pass.h"
#include "engine/worker_scratch.h"

namespace longdoc {

// Distinct steps may run at once.
class SpanPooling {
 public:
  // Vectors are means over [C] states, then multiplied with `projection` ([dimensions, C]) unless
  // that is null. Arguments by reference or pointer outlive this.
  SpanPooling(Backend& backend, const PassPacking& packing, int64_t dim,
              const PackedMatrix* projection);
  absl::Status Allocate();

  int64_t bytes() const { return vectors_.bytes(); }  // as allocated

  int64_t num_steps() const;
  absl::Status Run(int64_t step, const float* x, WorkerScratch& scratch);
  // Once all steps have run: waits for the vectors. Then document and passages may be taken.
  absl::Status Fetch();
  EncodeResult TakeVectors(size_t sequence) const;

 private:
  int64_t out_dim() const { return projection_ == nullptr ? dim_ : projection_->n(); }

  Backend& backend_;
  const PassPacking& packing_;
  const int64_t dim_;
  const PackedMatrix* const projection_;
  std::vector<int64_t> begin_, end_;  // packed tokens; each sequence's whole, then its spans
  std::vector<size_t> first_;         // of a sequence
  Placed placed_begin_, placed_end_;
  Buffer vectors_;  // [spans, out_dim]
};

}  // namespace longdoc
