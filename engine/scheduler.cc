#include "engine/scheduler.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/planner.h"

namespace longdoc {
namespace {

constexpr int kLongShare = 8;
constexpr size_t kMaxLongPasses = 4;
constexpr std::chrono::milliseconds kSweepInterval(20);
constexpr double kProgressStep = 0.002;
// Before anything has run: a cautious guess per worker.
constexpr double kFirstRate = 4e10;

}  // namespace

Scheduler::Scheduler(Backend& backend, const EngineOptions& options)
    : backend_(backend),
      options_(options),
      reserved_bytes_(std::make_shared<std::atomic<int64_t>>(0)),
      dense_rate_(kFirstRate * options.num_threads),
      attention_rate_(kFirstRate * options.num_threads) {
  for (int i = 0; i < options.num_threads; ++i) {
    workers_.emplace_back([this, i] {
      pthread_setname_np(pthread_self(), absl::StrFormat("encode-%d", i).c_str());
      RunWorker();
    });
  }
}

absl::Status Scheduler::Submit(EncodeTask&& task, std::shared_ptr<const EncoderModel> model,
                               int64_t peak_bytes) {
  const int64_t tokens = static_cast<int64_t>(task.ids.size());
  std::lock_guard lock(mutex_);
  if (stopping_) {
    return WithReason(absl::UnavailableError("the engine is shutting down"), "DRAINING");
  }
  if (stats_.queued_tasks >= options_.max_queued_tasks ||
      stats_.queued_tokens + tokens > options_.max_queued_tokens) {
    const double wait = DenseFlopsPerToken(model->config()) *
                        static_cast<double>(stats_.queued_tokens) / dense_rate_;
    absl::Status full = absl::ResourceExhaustedError(absl::StrFormat(
        "queue is full: %d tasks with %d tokens wait (limits %d and %d), %d tokens asked",
        stats_.queued_tasks, stats_.queued_tokens, options_.max_queued_tasks,
        options_.max_queued_tokens, tokens));
    return WithRetryDelay(WithReason(full, "QUEUE_FULL"), std::clamp(wait, 0.1, 60.0));
  }
  Pending pending{std::move(task), std::move(model), peak_bytes, Clock::now()};
  CountQueued(pending, +1);
  auto& queue = tokens <= options_.short_text_tokens ? short_queue_ : long_queue_;
  queue.push_back(std::move(pending));
  wake_.notify_one();
  return absl::OkStatus();
}

void Scheduler::CountQueued(const Pending& pending, int sign) {
  stats_.queued_tasks += sign;
  stats_.queued_tokens += sign * static_cast<int64_t>(pending.task.ids.size());
}

void Scheduler::RunWorker() {
  backend_.InitWorkerThread();
  MemoryPool scratch_pool(0);
  WorkerScratch scratch(scratch_pool);
  int64_t counted = 0;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (Clock::now() - last_sweep_ >= kSweepInterval) {
      Finished dropped;
      SweepQueues(&dropped);
      lock.unlock();
      Deliver(std::move(dropped));
      lock.lock();
    }
    if (StartSomething(lock) || RunOneStep(lock, scratch)) {
      scratch_bytes_ += scratch.bytes() - counted;
      counted = scratch.bytes();
      continue;
    }
    if (stopping_) break;
    // Queued work that cannot start yet may be cancelled meanwhile: look again soon.
    if (stats_.queued_tasks > 0 || !short_running_.empty() || !long_running_.empty()) {
      wake_.wait_for(lock, kSweepInterval);
    } else {
      wake_.wait(lock);
    }
  }
  scratch_bytes_ -= counted;
}

void Scheduler::SweepQueues(Finished* dropped) {
  last_sweep_ = Clock::now();
  for (auto* queue : {&short_queue_, &long_queue_}) {
    for (auto it = queue->begin(); it != queue->end();) {
      absl::Status status = it->task.cancellation->Check();
      if (status.ok()) {
        ++it;
        continue;
      }
      CountQueued(*it, -1);
      dropped->emplace_back(std::move(*it), std::move(status));
      it = queue->erase(it);
    }
  }
  for (auto* list : {&short_running_, &long_running_}) {
    for (auto& running : *list) CheckCancelled(*running);
  }
}

bool Scheduler::Reserve(int64_t bytes, int64_t limit, Running& running) {
  if (*reserved_bytes_ + bytes > limit) return false;
  *reserved_bytes_ += bytes;
  running.reservation = std::make_shared<ByteReservation>(reserved_bytes_, bytes);
  return true;
}

// The oldest short text, with all the queued ones that can share its pass.
std::shared_ptr<Scheduler::Running> Scheduler::TakeShortBatch() {
  if (short_queue_.empty() || short_running_.size() >= workers_.size()) return nullptr;
  const Pending& first = short_queue_.front();
  const EncoderModel* model = first.model.get();
  const AttentionPolicy policy = first.task.attention;
  auto fits = [&](const Pending& p) {
    return p.model.get() == model && p.task.attention == policy;
  };

  int64_t tokens = 0, bytes = 0;
  size_t count = 0;
  for (const Pending& p : short_queue_) {
    if (!fits(p)) continue;
    const int64_t n = static_cast<int64_t>(p.task.ids.size());
    if (count > 0 && tokens + n > options_.max_batch_tokens) break;
    if (*reserved_bytes_ + bytes + p.peak_bytes > options_.memory_budget_bytes) break;
    tokens += n;
    bytes += p.peak_bytes;
    ++count;
  }
  auto running = std::make_shared<Running>();
  if (count == 0 || !Reserve(bytes, options_.memory_budget_bytes, *running)) return nullptr;
  for (auto it = short_queue_.begin(); count > 0;) {
    if (!fits(*it)) {
      ++it;
      continue;
    }
    CountQueued(*it, -1);
    running->tasks.push_back(std::move(*it));
    it = short_queue_.erase(it);
    --count;
  }
  running->is_short = true;
  short_running_.push_back(running);
  return running;
}

std::shared_ptr<Scheduler::Running> Scheduler::TakeLongTask() {
  if (long_queue_.empty() || long_running_.size() >= kMaxLongPasses) return nullptr;
  auto running = std::make_shared<Running>();
  // Strictly in order: a giant at the head waits for its memory and is not overtaken for ever.
  const int64_t limit = LongTaskBudget(options_.memory_budget_bytes);
  if (!Reserve(long_queue_.front().peak_bytes, limit, *running)) return nullptr;
  CountQueued(long_queue_.front(), -1);
  running->tasks.push_back(std::move(long_queue_.front()));
  long_queue_.pop_front();
  long_running_.push_back(running);
  return running;
}

bool Scheduler::StartSomething(std::unique_lock<std::mutex>& lock) {
  std::shared_ptr<Running> running = TakeShortBatch();
  if (running == nullptr) running = TakeLongTask();
  if (running == nullptr) return false;
  running->started = Clock::now();
  for (const Pending& p : running->tasks) {
    stats_.running_tasks += 1;
    stats_.running_tokens += static_cast<int64_t>(p.task.ids.size());
  }
  lock.unlock();
  std::vector<PassSequence> sequences;
  for (const Pending& p : running->tasks) sequences.push_back({p.task.ids, p.task.spans, {}, {}});
  auto pass = ForwardPass::Create(backend_, running->tasks[0].model,
                                  running->tasks[0].task.attention, std::move(sequences));
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

// A pass whose tasks are all cancelled or late stops; the others of a batch go on.
void Scheduler::CheckCancelled(Running& running) {
  if (!running.failure.ok()) return;
  absl::Status status;
  for (const Pending& p : running.tasks) {
    status = p.task.cancellation->Check();
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
  lock.lock();
  if (running->failure.ok()) running->failure = std::move(status);
  ReportProgress(lock, *running);
  ++running->done;
  AfterStep(lock, running);
  return true;
}

// Called before the step counts as done, so that a task cannot complete while it is being told.
void Scheduler::ReportProgress(std::unique_lock<std::mutex>& lock, Running& running) {
  if (running.is_short || !running.failure.ok()) return;
  const auto& report = running.tasks[0].task.on_progress;
  const double progress = running.pass->Progress(running.done + 1);
  if (!report || progress - running.reported < kProgressStep) return;
  running.reported = progress;
  lock.unlock();
  report(progress);
  lock.lock();
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

void Scheduler::Stop() {
  Finished dropped;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& t : workers_) t.join();
  // Single-threaded from here on.
  const absl::Status stopped =
      WithReason(absl::UnavailableError("the engine is shutting down"), "DRAINING");
  for (auto* queue : {&short_queue_, &long_queue_}) {
    for (Pending& p : *queue) dropped.emplace_back(std::move(p), stopped);
    queue->clear();
  }
  for (auto* list : {&short_running_, &long_running_}) {
    for (auto& running : *list) {
      for (Pending& p : running->tasks) dropped.emplace_back(std::move(p), stopped);
      running->pass.reset();
      running->reservation.reset();
    }
    list->clear();
  }
  Deliver(std::move(dropped));
}

}  // namespace longdoc
