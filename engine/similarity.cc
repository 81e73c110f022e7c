#include "engine/similarity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

// Steps of the last phase are of about this many reads, like those of the first.
constexpr int64_t kReadsPerStep = 1 << 20;
// More than a blink with all workers: has a pass of its own, and lets short texts go first.
constexpr double kLongFlops = 2e10;
// A cautious guess, only told to callers that must wait.
constexpr double kFlopsPerSecond = 1e10;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

float Bf16ToFloat(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

double CosineOf(double dot, double norm_a, double norm_b) {
  const double norms = std::sqrt(norm_a) * std::sqrt(norm_b);
  return norms == 0 ? 0 : dot / norms;  // not finite: NaN
}

// best[c] = max(best[c], row[c]); NaN is passed over.
void TakeLarger(const float* row, int64_t columns, float* best) {
  for (int64_t c = 0; c < columns; ++c) best[c] = row[c] > best[c] ? row[c] : best[c];
}

class MaxSimWork;

// Phase 1, a step per block of document tokens: products with all candidates' vectors, largest of
// the block, and largest of those rows that a passage takes of a block at its ends. Phase 2, a step
// per group of passages: ends and whole blocks between them make the passage's score.
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
  enum class Phase { kProducts, kPassages, kDone };
  // Rows of one block that belong to one end of a passage.
  struct Piece {
    int64_t slot;        // row of piece_max_
    int64_t begin, end;  // rows of the block
  };

  explicit MaxSimPass(Backend& backend) : backend_(backend) {}
  void PlanPieces();
  absl::Status RunProducts(int64_t block, WorkerScratch& scratch);
  void RunPassages(int64_t step);

  Backend& backend_;
  absl::Span<const uint16_t> document_;
  absl::Span<const Passage> passages_;  // empty when nobody asked for any
  int64_t dim_ = 0, tokens_ = 0;
  int64_t tile_ = 0, num_blocks_ = 0;
  std::vector<int64_t> columns_;  // of each candidate: [columns_[i], columns_[i+1])
  std::unique_ptr<PackedMatrix> packed_;
  std::vector<Piece> pieces_;           // by block
  std::vector<int64_t> block_pieces_;   // [blocks + 1], into pieces_
  std::vector<float> block_max_;        // [blocks, columns]
  std::vector<float> piece_max_;        // [2 · passages, columns]: first block, last block
  std::vector<double> passage_scores_;  // [candidates, passages]
  int64_t passages_per_step_ = 1;
  Phase phase_ = Phase::kProducts;
};

class MaxSimWork final : public Work {
 public:
  MaxSimWork(Backend& backend, MaxSimTask&& task, WorkNeeds needs)
      : Work(std::move(needs)), backend_(backend), task_(std::move(task)) {}

  bool CanJoin(const Work& first) const override {
    const auto* other = dynamic_cast<const MaxSimWork*>(&first);
    return other != nullptr && other->task_.document.data() == task_.document.data() &&
           other->task_.document.size() == task_.document.size() &&
           other->task_.passages.data() == task_.passages.data() &&
           other->task_.dimensions == task_.dimensions &&
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

absl::StatusOr<std::unique_ptr<MaxSimPass>> MaxSimPass::Create(Backend& backend,
                                                               Work::Batch batch) {
  std::unique_ptr<MaxSimPass> pass(new MaxSimPass(backend));
  const MaxSimTask& first = static_cast<const MaxSimWork&>(*batch[0]).task();
  pass->document_ = first.document;
  pass->dim_ = first.dimensions;
  pass->tokens_ = static_cast<int64_t>(first.document.size()) / first.dimensions;
  pass->tile_ = backend.info().token_tile;
  pass->num_blocks_ = kernels::CeilDiv(pass->tokens_, pass->tile_);
  std::vector<TensorView> rows;
  pass->columns_ = {0};
  bool want_passages = false;
  for (const auto& work : batch) {
    const MaxSimTask& task = static_cast<const MaxSimWork&>(*work).task();
    const int64_t tokens = static_cast<int64_t>(task.candidate.size()) / task.dimensions;
    rows.push_back({DType::kF32, {tokens, task.dimensions}, task.candidate.data()});
    pass->columns_.push_back(pass->columns_.back() + tokens);
    want_passages = want_passages || task.best_passages > 0;
  }
  if (want_passages) pass->passages_ = first.passages;
  ASSIGN_OR_RETURN(pass->packed_, backend.Pack(rows, {}));
  const size_t columns = static_cast<size_t>(pass->columns_.back());
  const size_t passages = pass->passages_.size();
  pass->PlanPieces();
  pass->block_max_.assign(static_cast<size_t>(pass->num_blocks_) * columns, kNothing);
  pass->piece_max_.assign(2 * passages * columns, kNothing);
  pass->passage_scores_.assign(batch.size() * passages, 0);
  return pass;
}

// Every passage takes rows of its first block and, unless that is the same, of its last one.
void MaxSimPass::PlanPieces() {
  block_pieces_.assign(static_cast<size_t>(num_blocks_) + 1, 0);
  const auto for_each_piece = [this](auto&& visit) {
    for (size_t p = 0; p < passages_.size(); ++p) {
      const TokenSpan& span = passages_[p].tokens;
      const int64_t first = span.begin / tile_, last = (span.end - 1) / tile_;
      const int64_t slot = 2 * static_cast<int64_t>(p);
      visit(first,
            Piece{slot, span.begin - first * tile_, std::min(span.end - first * tile_, tile_)});
      if (last > first) visit(last, Piece{slot + 1, 0, span.end - last * tile_});
    }
  };
  for_each_piece([this](int64_t block, const Piece&) { ++block_pieces_[block + 1]; });
  for (int64_t b = 0; b < num_blocks_; ++b) block_pieces_[b + 1] += block_pieces_[b];
  pieces_.resize(static_cast<size_t>(block_pieces_.back()));
  std::vector<int64_t> next(block_pieces_.begin(), block_pieces_.end() - 1);
  for_each_piece([&](int64_t block, const Piece& piece) { pieces_[next[block]++] = piece; });

  int64_t reads = 1;
  for (const Passage& p : passages_) reads += 2 + (p.tokens.end - p.tokens.begin) / tile_;
  const int64_t count = static_cast<int64_t>(passages_.size());
  const int64_t steps = std::max<int64_t>(1, reads * columns_.back() / kReadsPerStep);
  passages_per_step_ = std::max<int64_t>(1, count / steps);
}

int64_t MaxSimPass::num_steps() const {
  switch (phase_) {
    case Phase::kProducts:
      return num_blocks_;
    case Phase::kPassages:
      return kernels::CeilDiv(static_cast<int64_t>(passages_.size()), passages_per_step_);
    case Phase::kDone:
      return 0;
  }
  return 0;
}

void MaxSimPass::NextPhase() {
  phase_ = phase_ == Phase::kProducts && !passages_.empty() ? Phase::kPassages : Phase::kDone;
}

double MaxSimPass::Progress(int64_t steps_done) const {
  constexpr double kProductsShare = 0.95;
  if (phase_ == Phase::kDone) return 1;
  const double share = static_cast<double>(steps_done) / static_cast<double>(num_steps());
  return phase_ == Phase::kProducts ? kProductsShare * share
                                    : kProductsShare + (1 - kProductsShare) * share;
}

absl::Status MaxSimPass::RunStep(int64_t step, WorkerScratch& scratch) {
  if (phase_ == Phase::kProducts) return RunProducts(step, scratch);
  RunPassages(step);
  return absl::OkStatus();
}

absl::Status MaxSimPass::RunProducts(int64_t block, WorkerScratch& scratch) {
  const int64_t begin = block * tile_;
  const int64_t rows = std::min(tile_, tokens_ - begin);
  const int64_t columns = columns_.back();
  ASSIGN_OR_RETURN(const Placed vectors,
                   backend_.Place(document_.data() + begin * dim_, rows * dim_ * 2));
  const void* input = vectors.data;
  if (backend_.info().gemm_type == DType::kF32) {
    RETURN_IF_ERROR(scratch.Ensure(scratch.input, tile_ * dim_ * 4));
    backend_.Bf16ToF32(vectors.as<uint16_t>(), rows * dim_, scratch.input.as<float>());
    input = scratch.input.data();
  }
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, tile_ * columns * 4));
  RETURN_IF_ERROR(packed_->Gemm(rows, input, scratch.wide.as<float>()));
  ASSIGN_OR_RETURN(const Placed fetched, backend_.Fetch(scratch.wide.data(), rows * columns * 4));
  const float* products = fetched.as<float>();
  for (int64_t r = 0; r < rows; ++r) {
    TakeLarger(products + r * columns, columns, &block_max_[block * columns]);
  }
  for (int64_t i = block_pieces_[block]; i < block_pieces_[block + 1]; ++i) {
    const Piece& piece = pieces_[i];
    for (int64_t r = piece.begin; r < piece.end; ++r) {
      TakeLarger(products + r * columns, columns, &piece_max_[piece.slot * columns]);
    }
  }
  return absl::OkStatus();
}

void MaxSimPass::RunPassages(int64_t step) {
  const int64_t columns = columns_.back();
  const int64_t count = static_cast<int64_t>(passages_.size());
  const int64_t end = std::min(count, (step + 1) * passages_per_step_);
  std::vector<float> best(static_cast<size_t>(columns));
  for (int64_t p = step * passages_per_step_; p < end; ++p) {
    std::fill(best.begin(), best.end(), kNothing);
    TakeLarger(&piece_max_[2 * p * columns], columns, best.data());
    TakeLarger(&piece_max_[(2 * p + 1) * columns], columns, best.data());
    const TokenSpan& span = passages_[p].tokens;
    for (int64_t b = span.begin / tile_ + 1; b < (span.end - 1) / tile_; ++b) {
      TakeLarger(&block_max_[b * columns], columns, best.data());
    }
    for (size_t i = 0; i + 1 < columns_.size(); ++i) {
      double sum = 0;
      for (int64_t c = columns_[i]; c < columns_[i + 1]; ++c) sum += best[c];
      passage_scores_[static_cast<int64_t>(i) * count + p] =
          sum / static_cast<double>(columns_[i + 1] - columns_[i]);
    }
  }
}

absl::StatusOr<MaxSimResult> MaxSimPass::Result(size_t index, int64_t best_passages) const {
  const int64_t columns = columns_.back();
  double sum = 0;
  for (int64_t c = columns_[index]; c < columns_[index + 1]; ++c) {
    float best = kNothing;
    for (int64_t b = 0; b < num_blocks_; ++b) best = std::max(best, block_max_[b * columns + c]);
    sum += best;
  }
  MaxSimResult result;
  result.score = sum / static_cast<double>(columns_[index + 1] - columns_[index]);
  if (!std::isfinite(result.score)) {
    return absl::InternalError("similarity of token vectors is not finite");
  }
  if (best_passages > 0 && !passages_.empty()) {
    result.passages =
        SelectBest({&passage_scores_[index * passages_.size()], passages_.size()}, best_passages);
  }
  return result;
}

}  // namespace

double CosineSimilarity(absl::Span<const float> a, absl::Span<const float> b) {
  double dot = 0, norm_a = 0, norm_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    norm_a += static_cast<double>(a[i]) * a[i];
    norm_b += static_cast<double>(b[i]) * b[i];
  }
  return CosineOf(dot, norm_a, norm_b);
}

std::vector<PassageSimilarity> SelectBest(absl::Span<const double> scores, int64_t count) {
  std::vector<PassageSimilarity> best(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) best[i] = {static_cast<int32_t>(i), scores[i]};
  const auto end = best.begin() + std::clamp<int64_t>(count, 0, static_cast<int64_t>(best.size()));
  std::partial_sort(best.begin(), end, best.end(),
                    [](const PassageSimilarity& a, const PassageSimilarity& b) {
                      if (std::isnan(a.score) != std::isnan(b.score)) return std::isnan(b.score);
                      return a.score != b.score && !std::isnan(a.score) ? a.score > b.score
                                                                        : a.passage < b.passage;
                    });
  best.erase(end, best.end());
  return best;
}

std::vector<PassageSimilarity> BestPassages(absl::Span<const float> candidate,
                                            absl::Span<const uint16_t> passages, int64_t count) {
  double norm = 0;
  for (float v : candidate) norm += static_cast<double>(v) * v;
  std::vector<double> scores(passages.size() / candidate.size());
  for (size_t p = 0; p < scores.size(); ++p) {
    const uint16_t* row = &passages[p * candidate.size()];
    double dot = 0, row_norm = 0;  // rounding to bf16 moved the norm a little away from 1
    for (size_t c = 0; c < candidate.size(); ++c) {
      const double value = Bf16ToFloat(row[c]);
      dot += value * candidate[c];
      row_norm += value * value;
    }
    scores[p] = CosineOf(dot, norm, row_norm);
  }
  return SelectBest(scores, count);
}

absl::StatusOr<std::unique_ptr<Work>> MakeMaxSimWork(Backend& backend, MaxSimTask&& task) {
  const int64_t dim = task.dimensions;
  const auto is_matrix = [dim](size_t size) {
    return dim > 0 && size > 0 && static_cast<int64_t>(size) % dim == 0;
  };
  if (!is_matrix(task.document.size()) || !is_matrix(task.candidate.size()) ||
      task.best_passages < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "late interaction of %d candidate values with %d document values of %d dimensions, %d best "
        "passages",
        task.candidate.size(), task.document.size(), dim, task.best_passages));
  }
  const int64_t tokens = static_cast<int64_t>(task.document.size()) / dim;
  for (const Passage& passage : task.passages) {
    const TokenSpan& s = passage.tokens;
    if (s.begin >= 0 && s.begin < s.end && s.end <= tokens) continue;
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "passage of tokens [%d, %d) is empty or outside [0, %d)", s.begin, s.end, tokens)),
        "INVALID_PASSAGE");
  }
  const int64_t columns = static_cast<int64_t>(task.candidate.size()) / dim;
  const int64_t passages = task.best_passages > 0 ? static_cast<int64_t>(task.passages.size()) : 0;
  const int64_t blocks = kernels::CeilDiv(tokens, backend.info().token_tile);
  WorkNeeds needs;
  needs.tokens = columns;
  needs.peak_bytes = 4 * columns * (blocks + 2 * passages + dim) + 8 * passages;
  const double flops = 2.0 * static_cast<double>(tokens * columns) * static_cast<double>(dim);
  needs.expected_seconds = flops / (kFlopsPerSecond * backend.info().num_workers);
  needs.lane = flops > kLongFlops ? Lane::kLong : Lane::kShort;
  needs.cancellation = task.cancellation;
  return std::make_unique<MaxSimWork>(backend, std::move(task), std::move(needs));
}

}  // namespace longdoc
