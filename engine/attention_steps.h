// The attention of every layer of a pass: its memory, its work cut into steps, what it did.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/worker_scratch.h"

namespace longdoc {

// Memory and plan are made once and used by all layers in turn. Distinct steps of a kind may run at
// once.
class AttentionSteps {
 public:
  // `problem` says everything but q, kv and bounds, which are allocated here. The arrays that it
  // points to, and the backend, outlive this. INTERNAL when the problem is not sound.
  static absl::StatusOr<std::unique_ptr<AttentionSteps>> Create(
      Backend& backend, const kernels::AttentionProblem& problem);
  // Bytes that Create allocates; only shapes, cu_seqlens and storage are read.
  static int64_t Bytes(const kernels::AttentionProblem& problem);

  const kernels::AttentionProblem& problem() const { return problem_; }

  // Gathered tokens: cuts the work anew when positions have changed, before its attend steps.
  void PlanUnits();

  // After the keys of all tokens have been stored; none when nothing can be skipped.
  int64_t num_bound_steps() const { return static_cast<int64_t>(bound_steps_.size()); }
  void Bound(int64_t step);
  int64_t num_attend_steps() const { return static_cast<int64_t>(unit_groups_.size()) - 1; }
  absl::Status Attend(int64_t step, WorkerScratch& scratch);

  // Outputs [begin, begin + rows) in the type that products read; in scratch.input when they must
  // be widened for that, which has room for them.
  const void* Outputs(int64_t begin, int64_t rows, WorkerScratch& scratch) const;

  // Of all layers so far.
  kernels::AttentionStats stats(size_t sequence) const;

 private:
  struct BoundStep {  // all keys of sequences × kv heads
    int64_t sequence_begin, sequence_end;
    int32_t head_begin, head_end;
  };

  explicit AttentionSteps(Backend& backend) : backend_(backend) {}
  void PlanBounds();

  Backend& backend_;
  kernels::AttentionProblem problem_;
  Buffer q_, kv_, bounds_;
  std::vector<BoundStep> bound_steps_;
  std::vector<kernels::AttentionUnit> units_;
  std::vector<int64_t> unit_groups_;  // step i runs units [groups[i], groups[i+1])
  mutable std::mutex mutex_;
  std::vector<kernels::AttentionStats> stats_;  // by sequence
};

// Adds counts, keeps the largest bound.
void AddStats(const kernels::AttentionStats& from, kernels::AttentionStats* to);

}  // namespace longdoc
