#include "engine/scheduler.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"

namespace longdoc {
namespace {

constexpr int kLongShare = 8;
constexpr int64_t kArrivalsShare = 64;  // of the budget
constexpr size_t kMaxLongPasses = 4;
constexpr std::chrono::milliseconds kSweepInterval(20);
constexpr double kProgressStep = 0.002;

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

absl::Status Draining() {
  return WithReason(absl::UnavailableError("the engine is shutting down"), "DRAINING");
}

}  // namespace

Scheduler::Scheduler(Backend& backend, const EngineOptions& options)
    : backend_(backend),
      options_(options),
      memory_budget_(options.memory_budget_bytes),
      reserved_bytes_(std::make_shared<ByteReservation::Counter>(0)),
      arriving_bytes_(std::make_shared<ByteReservation::Counter>(0)) {
  for (int i = 0; i < options.num_threads; ++i) {
    workers_.emplace_back([this, i] {
      pthread_setname_np(pthread_self(), absl::StrFormat("encode-%d", i).c_str());
      RunWorker();
    });
  }
}

absl::Status Scheduler::Submit(std::unique_ptr<Work> work) {
  const int64_t tokens = work->needs().tokens;
  std::lock_guard lock(mutex_);
  if (stopping_) return Draining();
  if (queued_works_ >= options_.max_queued_tasks ||
      queued_tokens_ + tokens > options_.max_queued_tokens) {
    absl::Status full = absl::ResourceExhaustedError(absl::StrFormat(
        "queue is full: %d tasks with %d tokens wait (limits %d and %d), %d tokens asked",
        queued_works_, queued_tokens_, options_.max_queued_tasks, options_.max_queued_tokens,
        tokens));
    return WithRetryDelay(WithReason(full, "QUEUE_FULL"), std::clamp(queued_seconds_, 0.1, 60.0));
  }
  work->submitted_ = Clock::now();
  CountQueued(*work, +1);
  auto& queue = work->needs().lane == Lane::kShort ? short_queue_ : long_queue_;
  queue.push_back(std::move(work));
  wake_.notify_one();
  return absl::OkStatus();
}

void Scheduler::RunSoon(std::function<void()> errand) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  errands_.push_back(std::move(errand));
  wake_.notify_one();
}

ByteReservation Scheduler::ReserveForArrivals(int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (*arriving_bytes_ + bytes > memory_budget_ / kArrivalsShare) return {};
  return ByteReservation(arriving_bytes_, bytes);
}

void Scheduler::SetMemoryBudget(int64_t bytes) {
  std::lock_guard lock(mutex_);
  memory_budget_ = bytes;
  wake_.notify_all();
}

void Scheduler::CountQueued(const Work& work, int sign) {
  queued_works_ += sign;
  queued_tokens_ += sign * work.needs().tokens;
  queued_seconds_ += sign * work.needs().expected_seconds;
}

void Scheduler::CountRunning(const Running& running, int sign) {
  for (const auto& work : running.works) {
    running_works_ += sign;
    running_tokens_ += sign * work->needs().tokens;
  }
}

void Scheduler::RunWorker() {
  backend_.InitWorkerThread();
  WorkerScratch scratch(backend_.scratch_memory());
  int64_t counted = 0;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (Clock::now() - last_sweep_ >= kSweepInterval) {
      Dropped dropped;
      SweepQueues(&dropped);
      lock.unlock();
      Drop(std::move(dropped));
      lock.lock();
    }
    const bool ran_errand = RunErrand(lock);
    if (StartSomething(lock) || RunOneStep(lock, scratch) || ran_errand) {
      scratch_bytes_ += scratch.bytes() - counted;
      counted = scratch.bytes();
      continue;
    }
    if (stopping_) break;
    // Queued work that cannot start yet may be cancelled meanwhile: look again soon.
    if (queued_works_ > 0 || !short_running_.empty() || !long_running_.empty()) {
      wake_.wait_for(lock, kSweepInterval);
    } else {
      wake_.wait(lock);
    }
  }
  scratch_bytes_ -= counted;
}

void Scheduler::SweepQueues(Dropped* dropped) {
  last_sweep_ = Clock::now();
  for (auto* queue : {&short_queue_, &long_queue_}) {
    for (auto it = queue->begin(); it != queue->end();) {
      absl::Status status = (*it)->needs().cancellation->Check();
      if (status.ok()) {
        ++it;
        continue;
      }
      CountQueued(**it, -1);
      dropped->emplace_back(std::move(*it), std::move(status));
      it = queue->erase(it);
    }
  }
  for (auto* list : {&short_running_, &long_running_}) {
    for (auto& running : *list) CheckCancelled(*running);
  }
}

void Scheduler::Take(std::unique_ptr<Work>& queued, Running& running) {
  CountQueued(*queued, -1);
  running.works.push_back(std::move(queued));
}

// The oldest short work, with all the queued ones that can share its pass.
std::shared_ptr<Scheduler::Running> Scheduler::TakeShortBatch() {
  if (short_queue_.empty() || short_running_.size() >= workers_.size()) return nullptr;
  int64_t tokens = 0, bytes = 0;
  auto running = std::make_shared<Running>();
  for (auto it = short_queue_.begin(); it != short_queue_.end(); ++it) {
    const WorkNeeds& needs = (*it)->needs();
    if (!running->works.empty() && !(*it)->CanJoin(*running->works[0])) continue;
    if (tokens > 0 && tokens + needs.tokens > options_.max_batch_tokens) break;
    if (*reserved_bytes_ + *arriving_bytes_ + bytes + needs.peak_bytes > memory_budget_) break;
    tokens += needs.tokens;
    bytes += needs.peak_bytes;
    Take(*it, *running);
  }
  if (running->works.empty()) return nullptr;
  short_queue_.erase(std::remove(short_queue_.begin(), short_queue_.end(), nullptr),
                     short_queue_.end());
  running->reservation = ByteReservation(reserved_bytes_, bytes);
  running->is_short = true;
  short_running_.push_back(running);
  return running;
}

std::shared_ptr<Scheduler::Running> Scheduler::TakeLongWork() {
  if (long_queue_.empty() || long_running_.size() >= kMaxLongPasses) return nullptr;
  // Strictly in order: a giant at the head waits for its memory and is not overtaken for ever.
  const int64_t bytes = long_queue_.front()->needs().peak_bytes;
  if (*reserved_bytes_ + bytes > LongTaskBudget(memory_budget_)) return nullptr;
  auto running = std::make_shared<Running>();
  running->reservation = ByteReservation(reserved_bytes_, bytes);
  Take(long_queue_.front(), *running);
  long_queue_.pop_front();
  long_running_.push_back(running);
  return running;
}

bool Scheduler::RunErrand(std::unique_lock<std::mutex>& lock) {
  if (errands_.empty()) return false;
  std::function<void()> errand = std::move(errands_.front());
  errands_.pop_front();
  lock.unlock();
  errand();
  errand = nullptr;  // frees what it holds without the mutex
  lock.lock();
  return true;
}

bool Scheduler::StartSomething(std::unique_lock<std::mutex>& lock) {
  std::shared_ptr<Running> running = TakeShortBatch();
  if (running == nullptr) running = TakeLongWork();
  if (running == nullptr) return false;
  running->started = Clock::now();
  CountRunning(*running, +1);
  lock.unlock();
  absl::StatusOr<std::unique_ptr<Pass>> pass = running->works[0]->MakePass(running->works);
  lock.lock();
  running->starting = false;
  if (pass.ok()) {
    running->pass = *std::move(pass);
  } else {
    running->failure = pass.status();
    Complete(lock, running);
  }
  wake_.notify_all();
  return true;
}

// A pass whose works are all cancelled or late stops; a batch goes on for those that are not.
void Scheduler::CheckCancelled(Running& running) {
  if (!running.failure.ok()) return;
  absl::Status status;
  for (const auto& work : running.works) {
    status = work->needs().cancellation->Check();
    if (status.ok()) return;
  }
  running.failure = status;
}

std::shared_ptr<Scheduler::Running> Scheduler::FindClaimable(RunningList& list) {
  for (auto it = list.begin(); it != list.end(); ++it) {
    std::shared_ptr<Running> running = *it;
    if (running->starting || running->advancing) continue;
    CheckCancelled(*running);
    const bool abandoned = !running->failure.ok() && running->claimed == running->done;
    const bool has_step = running->failure.ok() && running->claimed < running->pass->num_steps();
    if (!abandoned && !has_step) continue;
    list.splice(list.end(), list, it);  // the next one's turn next time
    return running;
  }
  return nullptr;
}

std::shared_ptr<Scheduler::Running> Scheduler::PickStep() {
  RunningList* first = &short_running_;
  RunningList* second = &long_running_;
  if (steps_since_long_ >= kLongShare) std::swap(first, second);
  std::shared_ptr<Running> running = FindClaimable(*first);
  if (running == nullptr) running = FindClaimable(*second);
  if (running != nullptr) steps_since_long_ = running->is_short ? steps_since_long_ + 1 : 0;
  return running;
}

bool Scheduler::RunOneStep(std::unique_lock<std::mutex>& lock, WorkerScratch& scratch) {
  std::shared_ptr<Running> running = PickStep();
  if (running == nullptr) return false;
  if (!running->failure.ok()) {  // nothing of it is running any more
    Complete(lock, running);
    return true;
  }
  const int64_t step = running->claimed++;
  lock.unlock();
  absl::Status status = running->pass->RunStep(step, scratch);
  status.Update(backend_.EndStep());
  lock.lock();
  if (running->failure.ok()) running->failure = std::move(status);
  ReportProgress(lock, *running);
  ++running->done;
  AfterStep(lock, running);
  return true;
}

// Called before the step counts as done, so that a work cannot complete while it is being told.
void Scheduler::ReportProgress(std::unique_lock<std::mutex>& lock, Running& running) {
  if (running.is_short || !running.failure.ok()) return;
  const double progress = running.pass->Progress(running.done + 1);
  if (running.reporting || progress - running.reported < kProgressStep) return;
  running.reported = progress;
  running.reporting = true;
  lock.unlock();
  running.works[0]->OnProgress(progress);
  lock.lock();
  running.reporting = false;
}

void Scheduler::AfterStep(std::unique_lock<std::mutex>& lock,
                          const std::shared_ptr<Running>& running) {
  if (!running->failure.ok()) {
    if (running->claimed == running->done && !running->advancing) Complete(lock, running);
    return;
  }
  if (running->advancing || running->done < running->pass->num_steps()) return;
  running->advancing = true;
  lock.unlock();
  running->pass->NextPhase();
  lock.lock();
  running->advancing = false;
  running->claimed = running->done = 0;
  if (running->pass->finished()) {
    Complete(lock, running);
  } else {
    wake_.notify_all();
  }
}

void Scheduler::Complete(std::unique_lock<std::mutex>& lock,
                         const std::shared_ptr<Running>& running) {
  running->advancing = true;  // nobody else touches it any more
  (running->is_short ? short_running_ : long_running_).remove(running);
  CountRunning(*running, -1);
  lock.unlock();
  Finish(*running);
  lock.lock();
  wake_.notify_all();
}

void Scheduler::Finish(Running& running) {
  WorkTimings timings;
  timings.compute_seconds = Seconds(Clock::now() - running.started);
  if (running.pass != nullptr) {
    running.works[0]->Collect(running.works, *running.pass, running.failure, running.reservation);
  }
  // Memory is free again before anyone is told.
  running.pass.reset();
  running.reservation = ByteReservation();
  for (auto& work : running.works) {
    timings.queue_seconds = Seconds(running.started - work->submitted_);
    work->Done(running.failure.ok() ? work->needs().cancellation->Check() : running.failure,
               timings);
    work.reset();
  }
}

void Scheduler::Drop(Dropped&& dropped) {
  for (auto& [work, status] : dropped) {
    work->Done(status, {Seconds(Clock::now() - work->submitted_), 0});
  }
}

void Scheduler::Stop() {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
  // Single-threaded from here on.
  errands_.clear();
  Dropped dropped;
  for (auto* queue : {&short_queue_, &long_queue_}) {
    for (auto& work : *queue) {
      CountQueued(*work, -1);
      dropped.emplace_back(std::move(work), Draining());
    }
    queue->clear();
  }
  for (auto* list : {&short_running_, &long_running_}) {
    for (auto& running : *list) {
      CountRunning(*running, -1);
      running->pass.reset();
      running->reservation = ByteReservation();
      for (auto& work : running->works) dropped.emplace_back(std::move(work), Draining());
    }
    list->clear();
  }
  Drop(std::move(dropped));
}

void Scheduler::AddTo(EngineStats* stats) const {
  std::lock_guard lock(mutex_);
  stats->queued_tasks = queued_works_;
  stats->queued_tokens = queued_tokens_;
  stats->running_tasks = running_works_;
  stats->running_tokens = running_tokens_;
  stats->reserved_bytes = *reserved_bytes_ + *arriving_bytes_;
  stats->allocated_bytes = backend_.memory().allocated_bytes();
  stats->peak_allocated_bytes = backend_.memory().peak_bytes();
  stats->memory_budget_bytes = memory_budget_;
  stats->scratch_bytes = scratch_bytes_;
}

}  // namespace longdoc
