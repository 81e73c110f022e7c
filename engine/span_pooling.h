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

  int64_t num_steps() const;
  absl::Status Run(int64_t step, const float* x, WorkerScratch& scratch);
  // Once all steps have run: document and passages.
  EncodeResult TakeVectors(size_t sequence) { return std::move(results_[sequence]); }

 private:
  struct Vector {
    int64_t begin, end;  // packed tokens
    float* out;
  };

  Backend& backend_;
  const int64_t dim_;
  const PackedMatrix* const projection_;
  std::vector<EncodeResult> results_;
  std::vector<Vector> vectors_;
};

}  // namespace longdoc
