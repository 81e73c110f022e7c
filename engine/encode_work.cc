#include "engine/encode_work.h"

#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/spill.h"
#include "engine/token_vectors.h"

namespace longdoc {
namespace {

// Before anything has run: a cautious guess per worker, in FLOP/s.
constexpr double kFirstRate = 4e10;
constexpr double kRateSmoothing = 0.3;

// Memory that outlives its pass, with its bytes of the budget: freed first, counted last.
template <typename T>
struct Kept {
  ByteReservation reservation;
  T memory;
};

// What is kept may move from the device from now on, and takes its bytes with it.
template <typename T>
void Hold(Backend& backend, ByteReservation& reservation, std::shared_ptr<const T>& memory) {
  if (memory == nullptr) return;
  if (backend.spill() != nullptr) backend.spill()->Add(*memory);
  auto kept = std::make_shared<Kept<std::shared_ptr<const T>>>();
  kept->reservation = reservation.Split(memory->bytes());
  kept->memory = std::move(memory);
  memory = std::shared_ptr<const T>(kept, kept->memory.get());
}

EncodeWork& AsEncode(const std::unique_ptr<Work>& work) { return static_cast<EncodeWork&>(*work); }

}  // namespace

EncodeMeter::EncodeMeter(int num_workers)
    : num_workers_(num_workers),
      dense_rate_(kFirstRate * num_workers),
      attention_rate_(kFirstRate * num_workers) {}

void EncodeMeter::Count(const EncodePass& pass, int64_t sequences, bool ok) {
  const EncodeStats stats = pass.stats();
  std::lock_guard lock(mutex_);
  counters_.batches += 1;
  counters_.batch_sequences += sequences;
  counters_.batch_tokens += stats.tokens;
  counters_.tiles_computed += stats.tiles_computed;
  counters_.tiles_dense += stats.tiles_dense;
  counters_.attention_seconds += stats.attention_seconds;
  counters_.dense_seconds += stats.dense_seconds;
  counters_.routing += stats.routing;
  if (!ok) return;
  counters_.tokens_encoded += stats.tokens;
  auto update = [&](double flops, double seconds, double* rate) {
    if (seconds < 1e-3) return;
    *rate += kRateSmoothing * (flops / seconds * num_workers_ - *rate);
  };
  update(stats.dense_flops, stats.dense_seconds, &dense_rate_);
  update(stats.attention_flops, stats.attention_seconds, &attention_rate_);
}

double EncodeMeter::ExpectedSeconds(double dense_flops, double attention_flops) const {
  std::lock_guard lock(mutex_);
  return dense_flops / dense_rate_ + attention_flops / attention_rate_;
}

void EncodeMeter::AddTo(EngineStats* stats) const {
  std::lock_guard lock(mutex_);
  stats->batches = counters_.batches;
  stats->batch_sequences = counters_.batch_sequences;
  stats->batch_tokens = counters_.batch_tokens;
  stats->tokens_encoded = counters_.tokens_encoded;
  stats->tiles_computed = counters_.tiles_computed;
  stats->tiles_dense = counters_.tiles_dense;
  stats->attention_seconds = counters_.attention_seconds;
  stats->dense_seconds = counters_.dense_seconds;
  stats->routing = counters_.routing;
}

EncodeWork::EncodeWork(EncodeTask&& task, std::shared_ptr<const EncodingModel> model,
                       WorkNeeds needs, Backend& backend, EncodeMeter& meter)
    : Work(std::move(needs)),
      task_(std::move(task)),
      model_(std::move(model)),
      backend_(backend),
      meter_(meter) {}

bool EncodeWork::CanJoin(const Work& first) const {
  const auto* other = dynamic_cast<const EncodeWork*>(&first);
  // Of one kind as to token vectors: a batch's live in one piece, for as long as one is held.
  return other != nullptr && other->model_ == model_ && other->task_.attention == task_.attention &&
         other->task_.want_token_vectors == task_.want_token_vectors &&
         other->task_.keep_token_vectors == task_.keep_token_vectors;
}

absl::StatusOr<std::unique_ptr<Pass>> EncodeWork::MakePass(Batch batch) {
  std::vector<PassSequence> sequences;
  for (const auto& work : batch) {
    const EncodeTask& task = AsEncode(work).task_;
    sequences.push_back({task.ids, task.spans, task.want_token_vectors, task.keep_token_vectors,
                         task.want_cross_kv, task.cross_kv_type, task.arrived.get()});
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Pass> pass,
                   model_->MakePass(backend_, task_.attention, sequences));
  return pass;
}

void EncodeWork::OnProgress(double share) {
  if (task_.on_progress) task_.on_progress(share);
}

void EncodeWork::Collect(Batch batch, Pass& pass, const absl::Status& status,
                         ByteReservation& reservation) {
  auto& encode = static_cast<EncodePass&>(pass);
  meter_.Count(encode, static_cast<int64_t>(batch.size()), status.ok());
  if (!status.ok()) return;
  for (size_t i = 0; i < batch.size(); ++i) {
    EncodeResult& result = AsEncode(batch[i]).result_;
    result = encode.TakeResult(i);
    ByteReservation none;
    ByteReservation& counted = AsEncode(batch[i]).task_.caller_counts_kept ? none : reservation;
    Hold(backend_, counted, result.cross_kv);
    Hold(backend_, counted, result.kept_token_vectors);
  }
  if (!task_.want_token_vectors) return;  // like all of the batch
  auto kept = std::make_shared<Kept<Buffer>>();
  kept->memory = encode.TakeTokenVectors();
  kept->reservation = reservation.Split(kept->memory.bytes());
  for (size_t i = 0; i < batch.size(); ++i) {
    EncodeResult& result = AsEncode(batch[i]).result_;
    result.token_vectors =
        kept->memory.as<float>() + encode.first_token(i) * model_->info().dimensions;
    result.token_owner = kept;
  }
}

void EncodeWork::Done(const absl::Status& status, const WorkTimings& timings) {
  if (!status.ok()) {
    result_ = EncodeResult();  // its memory is free before anyone is told
    std::move(task_.on_done)(status);
    return;
  }
  result_.stats.queue_seconds = timings.queue_seconds;
  result_.stats.compute_seconds = timings.compute_seconds;
  result_.stats.planned_bytes = needs().peak_bytes;
  std::move(task_.on_done)(std::move(result_));
}

}  // namespace longdoc
