// A gated feed-forward on a few rows: down(gelu(gate) ⊙ up).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/backend.h"
#include "engine/worker_scratch.h"

namespace longdoc {

struct FeedForward {
  const PackedMatrix* gate_up = nullptr;  // [2F, C]
  const PackedMatrix* down = nullptr;     // [C, F]
  bool activate_second_half = false;      // else the first
  bool tanh_form = false;                 // of the GELU, else erf
};

// out [rows, C] fp32; `in` [rows, C] in the type that products read. Uses scratch.wide and .inner.
absl::Status RunFeedForward(Backend& backend, const FeedForward& ff, int64_t rows, const void* in,
                            float* out, WorkerScratch& scratch);

}  // namespace longdoc
