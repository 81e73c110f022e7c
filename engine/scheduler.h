// Runs passes on a fixed set of workers, the steps of several in turn. What a work computes is its
// own affair (work.h).
//
// Two lanes. Short works are packed into batches of at most `max_batch_tokens` and go first, so
// that they overtake a giant document between two of its steps; every kLongShare-th step still
// belongs to the long lane, so that a stream of short texts cannot starve a document. Long works
// run alone in their pass; up to kMaxLongPasses of them take steps in turn.
//
// Bounded: queued works and tokens (refused at Submit), bytes of running passes (a work waits until
// its plan fits the budget). Cancellation and deadlines are looked at before every step, and while
// queued at least every kSweepInterval: a cancelled work frees its memory within one step.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/backend.h"
#include "engine/byte_reservation.h"
#include "engine/engine.h"
#include "engine/pass.h"
#include "engine/work.h"
#include "engine/worker_scratch.h"

namespace longdoc {

class Scheduler {
 public:
  // `options` has its defaults filled in. The backend outlives the scheduler.
  Scheduler(Backend& backend, const EngineOptions& options);
  ~Scheduler() { Stop(); }

  // RESOURCE_EXHAUSTED (QUEUE_FULL with a retry delay) or UNAVAILABLE after Stop: then the work is
  // dropped without Done.
  absl::Status Submit(std::unique_ptr<Work> work);
  // Something small that only a worker may do, between two steps. Dropped after Stop.
  void RunSoon(std::function<void()> errand);
  // Of what arrives for works to come. It may hold a 64th of the budget, out of what long works
  // leave to short ones, so that no work waits for it for ever; beyond that nothing is reserved.
  ByteReservation ReserveForArrivals(int64_t bytes);
  // Ends every work with UNAVAILABLE, joins the workers. Idempotent.
  void Stop();
  // Of running passes, in place of the options'. Those that run keep what they have.
  void SetMemoryBudget(int64_t bytes);
  // Fills in the gauges of queue, workers and memory.
  void AddTo(EngineStats* stats) const;

 private:
  using Clock = std::chrono::steady_clock;
  using Dropped = std::vector<std::pair<std::unique_ptr<Work>, absl::Status>>;

  struct Running {
    std::vector<std::unique_ptr<Work>> works;
    std::unique_ptr<Pass> pass;
    ByteReservation reservation;
    Clock::time_point started;
    bool is_short = false;
    bool starting = true;           // its pass is being made; no steps yet
    bool advancing = false;         // a worker is moving it to its next phase, or ending it
    int64_t claimed = 0, done = 0;  // steps of the current phase
    absl::Status failure;           // first failure; no more steps are handed out
    double reported = 0;            // last progress told
    bool reporting = false;         // a worker is telling it: nobody else does, to keep the order
  };
  using RunningList = std::list<std::shared_ptr<Running>>;

  void RunWorker();
  // Everything below needs mutex_ held; what takes the lock may let go of it in between.
  bool RunErrand(std::unique_lock<std::mutex>& lock);
  bool StartSomething(std::unique_lock<std::mutex>& lock);
  bool RunOneStep(std::unique_lock<std::mutex>& lock, WorkerScratch& scratch);
  std::shared_ptr<Running> PickStep();
  std::shared_ptr<Running> FindClaimable(RunningList& list);
  std::shared_ptr<Running> TakeShortBatch();
  std::shared_ptr<Running> TakeLongWork();
  void Take(std::unique_ptr<Work>& queued, Running& running);
  void ReportProgress(std::unique_lock<std::mutex>& lock, Running& running);
  void AfterStep(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Running>& running);
  void Complete(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Running>& running);
  void CheckCancelled(Running& running);
  void SweepQueues(Dropped* dropped);
  void CountQueued(const Work& work, int sign);
  void CountRunning(const Running& running, int sign);
  // Without the mutex: nobody else has these works any more.
  static void Drop(Dropped&& dropped);
  static void Finish(Running& running);

  Backend& backend_;
  const EngineOptions options_;
  mutable std::mutex mutex_;
  int64_t memory_budget_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<std::function<void()>> errands_;
  std::deque<std::unique_ptr<Work>> short_queue_, long_queue_;
  RunningList short_running_, long_running_;
  int steps_since_long_ = 0;
  Clock::time_point last_sweep_;
  int64_t queued_works_ = 0, queued_tokens_ = 0;
  double queued_seconds_ = 0;
  int64_t running_works_ = 0, running_tokens_ = 0;
  std::shared_ptr<ByteReservation::Counter> reserved_bytes_;  // of running works
  std::shared_ptr<ByteReservation::Counter> arriving_bytes_;
  std::atomic<int64_t> scratch_bytes_{0};
  std::vector<std::thread> workers_;
};

}  // namespace longdoc
