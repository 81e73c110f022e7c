// Scores and generations as work of the scheduler, and what all decodes of an engine share.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/decode_task.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "engine/score_pass.h"
#include "engine/work.h"

namespace longdoc {

// The cache of self-attention, counters, and how fast this machine decodes. Thread-safe; outlives
// the works, and the backend outlives it.
class DecodeResources {
 public:
  // `memory_budget`: the engine's, which is also what all caches may hold together.
  DecodeResources(Backend& backend, int64_t memory_budget);

  Backend& backend() { return backend_; }
  KvPagePool& pages() { return pages_; }
  // What one task may plan.
  int64_t task_limit() const { return LongTaskBudget(pages_.limit_bytes()); }

  // A pass that has ended, well or not.
  void CountScored(const DecodeCount& count, double flops, bool ok);
  void CountGenerated(const DecodeCount& count);
  // With all workers, at the rate of scoring seen so far (a cautious guess before any).
  double ExpectedSeconds(double flops) const;
  void AddTo(EngineStats* stats) const;

 private:
  Backend& backend_;
  KvPagePool pages_;
  mutable std::mutex mutex_;
  DecodeCounters counters_;
  double rate_;  // FLOP/s over all workers
};

// Checks and plans a task; what is wrong with single candidates is told when the work runs. Errors:
//   FAILED_PRECONDITION (METHOD_NOT_SUPPORTED)    the model has no decoder
//   INVALID_ARGUMENT    (NO_CANDIDATES)           there is nothing to score
//   INVALID_ARGUMENT    (DOCUMENT_OF_ANOTHER_MODEL)
//   RESOURCE_EXHAUSTED  (DECODE_EXCEEDS_MEMORY)   can never fit, naming needed and available bytes
//
// Few candidates go into the short lane and share a pass with others of the same document; what
// takes longer has a pass of its own in the long lane, so that it does not hold up short texts.
absl::StatusOr<std::unique_ptr<Work>> MakeScoreWork(DecodeResources& resources, ScoreTask&& task);

// Likewise, and always in the long lane. Besides:
//   INVALID_ARGUMENT (TOKEN_OUT_OF_VOCABULARY, TOO_MANY_TOKENS, INVALID_SAMPLING)
absl::StatusOr<std::unique_ptr<Work>> MakeGenerateWork(DecodeResources& resources,
                                                       GenerateTask&& task);

}  // namespace longdoc
