// Ops that are called again and again with the same arguments, as one call: launching a small op
// takes the host longer than it takes the device.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longdoc {

// Of one backend, which outlives it (Backend::NewRecording). Confined to one thread at a time.
class OpRecording {
 public:
  virtual ~OpRecording() = default;

  // Keeps, in place of what was kept before, the ops that `ops` calls from this thread, none of
  // which runs. Whenever they are replayed, their addresses must be alive and hold what is meant.
  // `ops` has run before with the same arguments; it does not allocate, copy from or to the host,
  // wait, or start timers. False: they cannot be kept, and nothing is; they may be called instead.
  // Errors are those of calls before, or a lost device.
  virtual absl::StatusOr<bool> Record(const std::function<absl::Status()>& ops) = 0;

  // Runs what is kept, as if it were called now. Something is.
  virtual void Replay() = 0;
};

}  // namespace longdoc
