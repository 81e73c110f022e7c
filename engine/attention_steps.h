// The attention of every layer of a pass: its memory, its work cut into steps, what it did. Made by
// Backend::MakeAttention.
//
// A layer is: store the queries, keys and values of all tokens; the bound steps; the attend steps.
// Steps of a kind are independent of each other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "engine/worker_scratch.h"
#include "kernels/attention.h"

namespace longdoc {

// Memory is allocated once and used by all layers in turn. Distinct steps of a kind may run at
// once.
class AttentionSteps {
 public:
  virtual ~AttentionSteps() = default;

  // Projected rows of packed tokens [begin, begin + rows), fp32: queries [H·D]; keys and values
  // [Hk·D keys | Hk·D values]. Strides in elements.
  virtual void StoreQueries(int64_t begin, int64_t rows, const float* q, int64_t stride) = 0;
  virtual void StoreKeysValues(int64_t begin, int64_t rows, const float* kv, int64_t stride) = 0;

  // Gathered tokens: cuts the work anew when positions have changed, before its attend steps.
  virtual void PlanUnits() = 0;

  // After the keys of all tokens have been stored; none when nothing can be skipped.
  virtual int64_t num_bound_steps() const = 0;
  virtual void Bound(int64_t step) = 0;
  virtual int64_t num_attend_steps() const = 0;
  virtual absl::Status Attend(int64_t step, WorkerScratch& scratch) = 0;

  // Outputs [begin, begin + rows) in the type that products read; in scratch.input when they must
  // be widened for that, which has room for them.
  virtual const void* Outputs(int64_t begin, int64_t rows, WorkerScratch& scratch) const = 0;

  // What all layers did, as of the last FetchStats; on host backends as of now.
  virtual absl::Status FetchStats() = 0;
  virtual kernels::AttentionStats stats(size_t sequence) const = 0;
};

// Adds counts, keeps the largest bound.
inline void AddStats(const kernels::AttentionStats& from, kernels::AttentionStats* to) {
  to->tiles_computed += from.tiles_computed;
  to->tiles_dense += from.tiles_dense;
  to->max_bound = std::max(to->max_bound, from.max_bound);
}

}  // namespace longdoc
