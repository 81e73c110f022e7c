#include "engine/max_sim.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/spill.h"
#include "kernels/similarity.h"

namespace longdoc {
namespace {

// Steps of the last phase are of about this many reads, like those of the first.
constexpr int64_t kReadsPerStep = 1 << 20;
// More than a blink with all workers: has a pass of its own, and lets short texts go first.
constexpr double kLongFlops = 2e10;
// A cautious guess, only told to callers that must wait.
constexpr double kFlopsPerSecond = 1e10;
// Candidates' tokens of one product: tiles of products stay small, whatever is asked at once.
constexpr int64_t kColumnTile = 1024;

class MaxSimWork;

// The slots of the maxima (kernels/similarity.h): one per block of document tokens, then two per
// passage, for the rows that it takes of its first block and, unless that is the same, of its last.
//
// Phase 1, a step per block: products with all candidates' vectors, and their maxima. Phase 2, a
// step per group of passages (the whole document counts as one more): ends and whole blocks between
// them make the score. Phase 3 fetches the scores.
class MaxSimPass final : public Pass {
 public:
  static absl::StatusOr<std::unique_ptr<MaxSimPass>> Create(Backend& backend, Work::Batch batch);

  int64_t num_steps() const override;
  bool finished() const override { return phase_ == Phase::kDone; }
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) override;
  void NextPhase() override;
  double Progress(int64_t steps_done) const override;

  // Of batch[index], once the pass is finished.
  absl::StatusOr<MaxSimResult> Result(size_t index, int64_t best_passages) const;

 private:
  enum class Phase { kProducts, kSpans, kFetch, kDone };

  explicit MaxSimPass(Backend& backend) : backend_(backend) {}
  absl::Status Pack(Work::Batch batch);
  absl::Status Allocate();
  void PlanSpans();
  absl::Status RunProducts(int64_t block, WorkerScratch& scratch);
  void RunSpans(int64_t step);

  int64_t num_spans() const { return static_cast<int64_t>(spans_.size()); }
  int64_t num_candidates() const { return static_cast<int64_t>(columns_.size()) - 1; }

  Backend& backend_;
  std::shared_ptr<const TokenVectors> document_;
  KeptMemoryUse document_use_;
  absl::Span<const Passage> passages_;  // empty when nobody asked for any
  int64_t tile_ = 0, num_blocks_ = 0;
  std::vector<int64_t> columns_;  // of each candidate: [columns_[i], columns_[i+1])
  std::vector<std::unique_ptr<PackedMatrix>> packed_;  // kColumnTile columns each
  std::vector<kernels::RowRange> ranges_;              // by block
  std::vector<int64_t> block_ranges_;                  // [blocks + 1], into ranges_
  std::vector<kernels::MaximaSpan> spans_;             // of the passages, then of the document
  int64_t spans_per_step_ = 1;
  Placed placed_ranges_, placed_spans_, placed_columns_;
  Buffer maxima_;  // fp32 [slots, columns]
  Buffer scores_;  // double [candidates, spans]
  Placed fetched_;
  Phase phase_ = Phase::kProducts;
};

class MaxSimWork final : public Work {
 public:
  MaxSimWork(Backend& backend, MaxSimTask&& task, WorkNeeds needs)
      : Work(std::move(needs)), backend_(backend), task_(std::move(task)) {}

  bool CanJoin(const Work& first) const override {
    const auto* other = dynamic_cast<const MaxSimWork*>(&first);
    return other != nullptr && other->task_.document == task_.document &&
           other->task_.passages.data() == task_.passages.data() &&
           (other->task_.best_passages > 0) == (task_.best_passages > 0);
  }
  absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) override {
    ASSIGN_OR_RETURN(std::unique_ptr<MaxSimPass> pass, MaxSimPass::Create(backend_, batch));
    return pass;
  }
  void Collect(Batch batch, Pass& pass, const absl::Status& status, ByteReservation&) override {
    if (!status.ok()) return;
    const auto& done = static_cast<const MaxSimPass&>(pass);
    for (size_t i = 0; i < batch.size(); ++i) {
      auto& work = static_cast<MaxSimWork&>(*batch[i]);
      work.result_ = done.Result(i, work.task_.best_passages);
    }
  }
  void Done(const absl::Status& status, const WorkTimings&) override {
    if (!status.ok()) result_ = status;
    std::move(task_.on_done)(std::move(result_));
  }

  const MaxSimTask& task() const { return task_; }

 private:
  Backend& backend_;
  MaxSimTask task_;
  absl::StatusOr<MaxSimResult> result_ = absl::InternalError("pass without a result");
};

const MaxSimTask& TaskOf(const std::unique_ptr<Work>& work) {
  return static_cast<const MaxSimWork&>(*work).task();
}

template <typename T>
int64_t BytesOf(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

absl::StatusOr<std::unique_ptr<MaxSimPass>> MaxSimPass::Create(Backend& backend,
                                                               Work::Batch batch) {
  std::unique_ptr<MaxSimPass> pass(new MaxSimPass(backend));
  const MaxSimTask& first = TaskOf(batch[0]);
  pass->document_ = first.document;
  pass->tile_ = backend.info().token_tile;
  pass->num_blocks_ = kernels::CeilDiv(first.document->tokens, pass->tile_);
  if (first.best_passages > 0) pass->passages_ = first.passages;  // like all of the batch
  if (backend.spill() != nullptr) {
    ASSIGN_OR_RETURN(pass->document_use_, backend.spill()->Use(*first.document));
  }
  RETURN_IF_ERROR(pass->Pack(batch));
  pass->PlanSpans();
  RETURN_IF_ERROR(pass->Allocate());
  return pass;
}

absl::Status MaxSimPass::Pack(Work::Batch batch) {
  const int64_t dim = document_->dimensions;
  std::vector<TensorView> rows;
  int64_t waiting = 0;  // columns of `rows`
  const auto pack = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> packed, backend_.Pack(rows, {}));
    packed_.push_back(std::move(packed));
    rows.clear();
    waiting = 0;
    return absl::OkStatus();
  };
  columns_ = {0};
  for (const auto& work : batch) {
    const MaxSimTask& task = TaskOf(work);
    const int64_t tokens = static_cast<int64_t>(task.candidate.size()) / dim;
    for (int64_t done = 0; done < tokens;) {
      const int64_t part = std::min(tokens - done, kColumnTile - waiting);
      rows.push_back({DType::kF32, {part, dim}, task.candidate.data() + done * dim});
      done += part;
      waiting += part;
      if (waiting == kColumnTile) RETURN_IF_ERROR(pack());
    }
    columns_.push_back(columns_.back() + tokens);
  }
  return rows.empty() ? absl::OkStatus() : pack();
}

absl::Status MaxSimPass::Allocate() {
  MemoryPool& memory = backend_.memory();
  const int64_t slots = num_blocks_ + 2 * static_cast<int64_t>(passages_.size());
  ASSIGN_OR_RETURN(maxima_, memory.Allocate(4 * slots * columns_.back(), /*zeroed=*/false));
  ASSIGN_OR_RETURN(scores_, memory.Allocate(8 * num_candidates() * num_spans(), /*zeroed=*/false));
  ASSIGN_OR_RETURN(placed_ranges_, backend_.Place(ranges_.data(), BytesOf(ranges_)));
  ASSIGN_OR_RETURN(placed_spans_, backend_.Place(spans_.data(), BytesOf(spans_)));
  ASSIGN_OR_RETURN(placed_columns_, backend_.Place(columns_.data(), BytesOf(columns_)));
  return absl::OkStatus();
}

// See above, the slots.
void MaxSimPass::PlanSpans() {
  const int64_t tokens = document_->tokens;
  std::vector<std::vector<kernels::RowRange>> by_block(static_cast<size_t>(num_blocks_));
  const auto add = [&](int64_t block, int64_t begin, int64_t end, int64_t slot) {
    by_block[block].push_back({static_cast<int32_t>(begin), static_cast<int32_t>(end), slot});
  };
  for (int64_t b = 0; b < num_blocks_; ++b) add(b, 0, std::min(tile_, tokens - b * tile_), b);
  int64_t reads = num_blocks_;
  for (size_t p = 0; p < passages_.size(); ++p) {
    const TokenSpan& tokens_of = passages_[p].tokens;
    const int64_t first = tokens_of.begin / tile_, last = (tokens_of.end - 1) / tile_;
    kernels::MaximaSpan span;
    span.first = num_blocks_ + 2 * static_cast<int64_t>(p);
    add(first, tokens_of.begin - first * tile_, std::min(tokens_of.end - first * tile_, tile_),
        span.first);
    if (last > first) {
      span.last = span.first + 1;
      add(last, 0, tokens_of.end - last * tile_, span.last);
      span.begin = first + 1;
      span.end = last;
    }
    spans_.push_back(span);
    reads += 2 + span.end - span.begin;
  }
  spans_.push_back({-1, -1, 0, num_blocks_});
  block_ranges_ = {0};
  for (const auto& ranges : by_block) {
    ranges_.insert(ranges_.end(), ranges.begin(), ranges.end());
    block_ranges_.push_back(static_cast<int64_t>(ranges_.size()));
  }
  const int64_t steps = std::max<int64_t>(1, reads * columns_.back() / kReadsPerStep);
  spans_per_step_ = std::max<int64_t>(1, num_spans() / steps);
}

int64_t MaxSimPass::num_steps() const {
  switch (phase_) {
    case Phase::kProducts:
      return num_blocks_;
    case Phase::kSpans:
      return kernels::CeilDiv(num_spans(), spans_per_step_);
    case Phase::kFetch:
      return 1;
    case Phase::kDone:
      return 0;
  }
  return 0;
}

void MaxSimPass::NextPhase() {
  if (phase_ != Phase::kDone) phase_ = static_cast<Phase>(static_cast<int>(phase_) + 1);
}

double MaxSimPass::Progress(int64_t steps_done) const {
  constexpr double kBefore[] = {0, 0.95, 1};
  if (phase_ >= Phase::kFetch) return 1;
  const int phase = static_cast<int>(phase_);
  const double share = static_cast<double>(steps_done) / static_cast<double>(num_steps());
  return kBefore[phase] + share * (kBefore[phase + 1] - kBefore[phase]);
}

absl::Status MaxSimPass::RunStep(int64_t step, WorkerScratch& scratch) {
  if (phase_ == Phase::kProducts) return RunProducts(step, scratch);
  if (phase_ == Phase::kSpans) {
    RunSpans(step);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(fetched_, backend_.Fetch(scores_.data(), scores_.bytes()));
  return absl::OkStatus();
}

absl::Status MaxSimPass::RunProducts(int64_t block, WorkerScratch& scratch) {
  const int64_t dim = document_->dimensions, columns = columns_.back();
  kernels::ColumnMaximaArgs args;
  args.rows = std::min(tile_, document_->tokens - block * tile_);
  args.ranges = placed_ranges_.as<kernels::RowRange>() + block_ranges_[block];
  args.num_ranges = block_ranges_[block + 1] - block_ranges_[block];
  args.out_stride = columns;
  const uint16_t* vectors = document_->data() + block * tile_ * dim;
  const void* input = vectors;
  if (backend_.info().gemm_type == DType::kF32) {
    RETURN_IF_ERROR(scratch.Ensure(scratch.input, tile_ * dim * 4));
    backend_.Bf16ToF32(vectors, args.rows * dim, scratch.input.as<float>());
    input = scratch.input.data();
  }
  for (size_t t = 0; t < packed_.size(); ++t) {
    args.columns = packed_[t]->n();
    args.out = maxima_.as<float>() + static_cast<int64_t>(t) * kColumnTile;
    RETURN_IF_ERROR(scratch.Ensure(scratch.wide, tile_ * args.columns * 4));
    RETURN_IF_ERROR(scratch.Ensure(scratch.attention,
                                   backend_.ColumnMaximaScratchBytes(args.rows, args.columns)));
    args.in = scratch.wide.as<float>();
    args.scratch = scratch.attention.data();
    RETURN_IF_ERROR(packed_[t]->Gemm(args.rows, input, scratch.wide.as<float>()));
    backend_.ColumnMaxima(args);
  }
  return absl::OkStatus();
}

void MaxSimPass::RunSpans(int64_t step) {
  const int64_t begin = step * spans_per_step_;
  kernels::SumMaximaArgs args;
  args.maxima = maxima_.as<float>();
  args.stride = columns_.back();
  args.spans = placed_spans_.as<kernels::MaximaSpan>() + begin;
  args.num_spans = std::min(spans_per_step_, num_spans() - begin);
  args.columns = placed_columns_.as<int64_t>();
  args.num_candidates = num_candidates();
  args.scores = scores_.as<double>() + begin;
  args.scores_stride = num_spans();
  backend_.SumMaxima(args);
}

absl::StatusOr<MaxSimResult> MaxSimPass::Result(size_t index, int64_t best_passages) const {
  const double* scores = fetched_.as<double>() + static_cast<int64_t>(index) * num_spans();
  MaxSimResult result;
  result.score = scores[passages_.size()];
  if (!std::isfinite(result.score)) {
    return absl::InternalError("similarity of token vectors is not finite");
  }
  if (best_passages > 0 && !passages_.empty()) {
    result.passages = SelectBest({scores, passages_.size()}, best_passages);
  }
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Work>> MakeMaxSimWork(Backend& backend, MaxSimTask&& task) {
  if (task.document == nullptr) {
    return absl::InternalError("late interaction without a document");
  }
  const int64_t dim = task.document->dimensions, tokens = task.document->tokens;
  const int64_t values = static_cast<int64_t>(task.candidate.size());
  if (dim < 1 || tokens < 1 || values == 0 || values % dim != 0 || task.best_passages < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "late interaction of %d candidate values with %d document tokens of %d dimensions, %d best "
        "passages",
        values, tokens, dim, task.best_passages));
  }
  for (const Passage& passage : task.passages) {
    const TokenSpan& s = passage.tokens;
    if (s.begin >= 0 && s.begin < s.end && s.end <= tokens) continue;
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "passage of tokens [%d, %d) is empty or outside [0, %d)", s.begin, s.end, tokens)),
        "INVALID_PASSAGE");
  }
  const int64_t columns = values / dim;
  const int64_t passages = task.best_passages > 0 ? static_cast<int64_t>(task.passages.size()) : 0;
  const int64_t slots = kernels::CeilDiv(tokens, backend.info().token_tile) + 2 * passages;
  constexpr int64_t kRangeBytes = sizeof(kernels::RowRange),
                    kSpanBytes = sizeof(kernels::MaximaSpan);
  WorkNeeds needs;
  needs.tokens = columns;
  // Maxima; candidates as they are packed, for a moment in fp32 as well; scores; what the host says
  // of slots and spans.
  needs.peak_bytes = 4 * columns * slots + 6 * columns * dim + 8 * (passages + 1) +
                     kRangeBytes * slots + kSpanBytes * (passages + 1);
  // What a device must have of the document besides: it cannot move while it is used.
  if (backend.spill() != nullptr) needs.peak_bytes += task.document->bytes();
  const double flops = 2.0 * static_cast<double>(tokens * columns) * static_cast<double>(dim);
  needs.expected_seconds = flops / (kFlopsPerSecond * backend.info().num_workers);
  needs.lane = flops > kLongFlops ? Lane::kLong : Lane::kShort;
  needs.cancellation = task.cancellation;
  return std::make_unique<MaxSimWork>(backend, std::move(task), std::move(needs));
}

int64_t MaxSimScratchBytes(Backend& backend) {
  const int64_t rows = backend.info().token_tile;
  return 4 * rows * kColumnTile + backend.ColumnMaximaScratchBytes(rows, kColumnTile);
}

}  // namespace longdoc
