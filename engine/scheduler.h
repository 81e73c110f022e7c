// Runs forward passes on a fixed set of workers, the steps of several in turn.
//
// Two lanes. Short texts are packed into batches of at most `max_batch_tokens` and go first, so
// that they overtake a giant document between two of its steps; every kLongShare-th step still
// belongs to the long lane, so that a stream of short texts cannot starve a document. Long
// documents run alone in their pass; up to kMaxLongPasses of them take steps in turn.
//
// Bounded: queued tasks and tokens (refused at Submit), bytes of running passes (a task waits until
// its plan fits the budget). Cancellation and deadlines are looked at before every step, and while
// queued at least every kSweepInterval: a cancelled task frees its memory within one step.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "engine/byte_reservation.h"
#include "engine/engine.h"
#include "engine/forward_pass.h"

namespace longdoc {

class Scheduler {
 public:
  // `options` has its defaults filled in. The backend outlives the scheduler.
  Scheduler(Backend& backend, const EngineOptions& options);
  ~Scheduler() { Stop(); }

  // See Engine::Submit; the task has been validated. `peak_bytes` is its plan.
  absl::Status Submit(EncodeTask&& task, std::shared_ptr<const EncoderModel> model,
                      int64_t peak_bytes);
  void Stop();
  EngineStats stats() const;
  // Rates seen so far (FLOP/s over all workers), for predictions.
  double dense_rate() const;
  double attention_rate() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending {
    EncodeTask task;
    std::shared_ptr<const EncoderModel> model;
    int64_t peak_bytes = 0;
    Clock::time_point submitted;
  };
  using Finished = std::vector<std::pair<Pending, absl::StatusOr<EncodeResult>>>;

  struct Running {
    std::unique_ptr<ForwardPass> pass;
    std::vector<Pending> tasks;  // in the order of pass->sequences()
    std::shared_ptr<ByteReservation> reservation;
    Clock::time_point started;
    bool is_short = false;
    bool starting = true;           // its pass is being made; no steps yet
    bool advancing = false;         // a worker is moving it to its next phase
    int64_t claimed = 0, done = 0;  // steps of the current phase
    absl::Status failure;           // first failure; no more steps are handed out
    double reported = 0;            // last progress told
  };
  using RunningList = std::list<std::shared_ptr<Running>>;

  void RunWorker();
  // Everything below needs mutex_ held; the first two may let go of it in between.
  bool StartSomething(std::unique_lock<std::mutex>& lock);
  bool RunOneStep(std::unique_lock<std::mutex>& lock, WorkerScratch& scratch);
  std::shared_ptr<Running> PickStep();
  std::shared_ptr<Running> FindClaimable(RunningList& list);
  std::shared_ptr<Running> TakeShortBatch();
  std::shared_ptr<Running> TakeLongTask();
  bool Reserve(int64_t bytes, int64_t limit, Running& running);
  void ReportProgress(std::unique_lock<std::mutex>& lock, Running& running);
  void AfterStep(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Running>& running);
  void Complete(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Running>& running);
  void CountFinished(const Running& running, const EncodeStats& stats);
  void CheckCancelled(Running& running);
  void SweepQueues(Finished* dropped);
  void CountQueued(const Pending& pending, int sign);
  void UpdateRates(const Running& running, const EncodeStats& stats);
  // Without the mutex: the pass is nobody else's any more.
  static std::shared_ptr<const void> FreeBuffers(Running& running);
  static EncodeResult MakeResult(const Running& running, size_t index, double compute_seconds,
                                 const std::shared_ptr<const void>& token_owner);
  static void Deliver(Finished&& finished);

  Backend& backend_;
  const EngineOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<Pending> short_queue_, long_queue_;
  RunningList short_running_, long_running_;
  int steps_since_long_ = 0;
  Clock::time_point last_sweep_;
  EngineStats stats_;  // counters and queue gauges
  std::shared_ptr<std::atomic<int64_t>> reserved_bytes_;
  std::atomic<int64_t> scratch_bytes_{0};
  double dense_rate_, attention_rate_;
  std::vector<std::thread> workers_;
};

}  // namespace longdoc
