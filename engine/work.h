// What the scheduler runs: one thing that a caller asked for, whatever it is.
//
// The life of a work, all of it the scheduler's doing:
//
//   queued → MakePass (asked of the batch's first) → the pass's steps → Collect (likewise) → Done
//
// A work that is cancelled, late or drained before it has a pass goes straight to Done. Done is
// called exactly once for every work that Scheduler::Submit took.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/cancellation.h"
#include "engine/byte_reservation.h"
#include "engine/pass.h"

namespace longdoc {

// Short works are packed into one pass and go first; a long one has a pass of its own.
enum class Lane { kShort, kLong };

struct WorkNeeds {
  int64_t tokens = 0;           // count against the queue's limit and a batch's
  int64_t peak_bytes = 0;       // reserved in the engine's budget from before MakePass on
  double expected_seconds = 0;  // with all workers; tells refused callers when to come again
  Lane lane = Lane::kShort;
  std::shared_ptr<CancellationToken> cancellation;  // never null
};

struct WorkTimings {
  double queue_seconds = 0;
  double compute_seconds = 0;  // of the pass, wall clock; 0 when there was none
};

class Work {
 public:
  // Works that share a pass, in the order in which they were submitted; never empty.
  using Batch = absl::Span<const std::unique_ptr<Work>>;

  explicit Work(WorkNeeds needs) : needs_(std::move(needs)) {}
  virtual ~Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  const WorkNeeds& needs() const { return needs_; }

  // Whether this may share the pass of `first`, which is in the short lane as this is. Every work
  // can join itself. Called with the scheduler locked: must be quick.
  virtual bool CanJoin(const Work& first) const = 0;

  // Everything below is called by a worker that holds no lock.
  //
  // Asked of batch[0]: a pass for all of the batch, with its memory allocated. The works outlive
  // it.
  virtual absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) = 0;
  // Long lane only: the share of the pass that is done, in [0, 1], ascending.
  virtual void OnProgress(double share) { static_cast<void>(share); }
  // Asked of batch[0] when no step runs any more: moves the results from `pass` to the works, and
  // counts what the pass did, also when `status`, the pass's, is not OK. What outlives the pass
  // takes its bytes with it (ByteReservation::Split); the rest is free before Done is called.
  virtual void Collect(Batch batch, Pass& pass, const absl::Status& status,
                       ByteReservation& reservation) = 0;
  // The end: tells the caller. Must be quick.
  virtual void Done(const absl::Status& status, const WorkTimings& timings) = 0;

 private:
  friend class Scheduler;
  const WorkNeeds needs_;
  std::chrono::steady_clock::time_point submitted_;
};

}  // namespace longdoc
