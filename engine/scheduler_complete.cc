// How a pass ends: counters, memory, results, callbacks.
#include <algorithm>
#include <utility>

#include "engine/scheduler.h"

namespace longdoc {
namespace {

constexpr double kRateSmoothing = 0.3;

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

}  // namespace

void Scheduler::Deliver(Finished&& finished) {
  for (auto& [pending, result] : finished) {
    std::move(pending.task.on_done)(std::move(result));
  }
}

void Scheduler::UpdateRates(const Running& running, const EncodeStats& stats) {
  const EncoderConfig& config = running.tasks[0].model->config();
  const double workers = static_cast<double>(workers_.size());
  const double dense = DenseFlopsPerToken(config) * static_cast<double>(stats.tokens);
  const double tile_flops =
      4.0 * kernels::kQueryBlock * kernels::kKeyBlock * static_cast<double>(config.head_dim);
  const double attention = tile_flops * static_cast<double>(stats.tiles_computed);
  auto update = [&](double flops, double seconds, double* rate) {
    if (seconds < 1e-3) return;
    *rate += kRateSmoothing * (flops / seconds * workers - *rate);
  };
  update(dense, stats.dense_seconds, &dense_rate_);
  update(attention, stats.attention_seconds, &attention_rate_);
}

void Scheduler::CountFinished(const Running& running, const EncodeStats& stats) {
  stats_.batches += 1;
  stats_.batch_sequences += static_cast<int64_t>(running.tasks.size());
  stats_.batch_tokens += stats.tokens;
  stats_.tiles_computed += stats.tiles_computed;
  stats_.tiles_dense += stats.tiles_dense;
  stats_.attention_seconds += stats.attention_seconds;
  stats_.dense_seconds += stats.dense_seconds;
  for (const Pending& p : running.tasks) {
    stats_.running_tasks -= 1;
    stats_.running_tokens -= static_cast<int64_t>(p.task.ids.size());
  }
  if (!running.failure.ok()) return;
  stats_.tokens_encoded += stats.tokens;
  UpdateRates(running, stats);
}

// Frees everything but the token vectors that somebody wants; returns what keeps those alive.
std::shared_ptr<const void> Scheduler::FreeBuffers(Running& running) {
  std::shared_ptr<ByteReservation> reservation = std::move(running.reservation);
  if (running.pass == nullptr) return nullptr;
  const std::shared_ptr<PassBuffers> buffers = running.pass->buffers();
  buffers->q.Reset();
  buffers->kv.Reset();
  buffers->bounds.Reset();
  const bool keep_x = running.failure.ok() &&
                      std::any_of(running.tasks.begin(), running.tasks.end(),
                                  [](const Pending& p) { return p.task.want_token_vectors; });
  if (!keep_x) {
    buffers->x.Reset();
    return nullptr;
  }
  reservation->ShrinkTo(buffers->x.bytes());
  using Kept = std::pair<std::shared_ptr<PassBuffers>, std::shared_ptr<ByteReservation>>;
  return std::make_shared<Kept>(buffers, std::move(reservation));
}

EncodeResult Scheduler::MakeResult(const Running& running, size_t index, double compute_seconds,
                                   const std::shared_ptr<const void>& token_owner) {
  const Pending& p = running.tasks[index];
  PassSequence& sequence = running.pass->sequences()[index];
  EncodeResult result;
  result.document = std::move(sequence.document);
  result.passages = std::move(sequence.passages);
  if (p.task.want_token_vectors) {
    result.token_vectors = running.pass->buffers()->x.as<float>() +
                           running.pass->first_token(index) * p.model->config().hidden_size;
    result.token_owner = token_owner;
  }
  result.stats = running.pass->stats(index);
  result.stats.compute_seconds = compute_seconds;
  result.stats.queue_seconds = Seconds(running.started - p.submitted);
  result.stats.planned_bytes = p.peak_bytes;
  return result;
}

void Scheduler::Complete(std::unique_lock<std::mutex>& lock,
                         const std::shared_ptr<Running>& running) {
  running->advancing = true;  // nobody else touches it any more
  (running->is_short ? short_running_ : long_running_).remove(running);
  EncodeStats stats;
  if (running->pass != nullptr) stats = running->pass->stats();
  const double compute_seconds = Seconds(Clock::now() - running->started);
  CountFinished(*running, stats);
  lock.unlock();
  Finished finished;
  {
    // Memory is free again before anyone is told.
    const std::shared_ptr<const void> token_owner = FreeBuffers(*running);
    for (size_t i = 0; i < running->tasks.size(); ++i) {
      Pending& p = running->tasks[i];
      absl::Status status = running->failure.ok() ? p.task.cancellation->Check() : running->failure;
      if (status.ok()) {
        EncodeResult result = MakeResult(*running, i, compute_seconds, token_owner);
        finished.emplace_back(std::move(p), std::move(result));
      } else {
        finished.emplace_back(std::move(p), std::move(status));
      }
    }
    running->pass.reset();
  }
  Deliver(std::move(finished));
  lock.lock();
  wake_.notify_all();
}

EngineStats Scheduler::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.reserved_bytes = *reserved_bytes_;
  stats.allocated_bytes = backend_.memory().allocated_bytes();
  stats.peak_allocated_bytes = backend_.memory().peak_bytes();
  stats.memory_budget_bytes = options_.memory_budget_bytes;
  stats.scratch_bytes = scratch_bytes_;
  return stats;
}

double Scheduler::dense_rate() const {
  std::lock_guard lock(mutex_);
  return dense_rate_;
}

double Scheduler::attention_rate() const {
  std::lock_guard lock(mutex_);
  return attention_rate_;
}

}  // namespace longdoc
