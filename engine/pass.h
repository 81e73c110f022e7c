// Work on a device as phases of small independent steps.
//
// The steps of a phase may run in any order on any threads; a phase starts when the one before has
// finished. The scheduler owns that protocol and knows nothing else of what runs.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/worker_scratch.h"

namespace longdoc {

class Pass {
 public:
  virtual ~Pass() = default;
  // Steps of the current phase; 0 only when the pass is over.
  virtual int64_t num_steps() const = 0;
  virtual bool finished() const = 0;
  // Runs step [0, num_steps()) of the current phase. Distinct steps may run at once.
  virtual absl::Status RunStep(int64_t step, WorkerScratch& scratch) = 0;
  // All steps of the phase have run: moves on to the next phase that has steps.
  virtual void NextPhase() = 0;
  // Share of the whole work done, in [0, 1], when `steps_done` steps of the current phase are.
  virtual double Progress(int64_t steps_done) const = 0;
};

}  // namespace longdoc
