#include "engine/score_pass.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/encode_pass.h"

namespace longdoc {
namespace {

using kernels::CeilDiv;

// Of a chunk, unless one candidate alone has more. Enough rows to keep the products at their best,
// few enough for the first scores to come soon; short candidates waste most of a page.
constexpr int64_t kChunkRows = 1024;
constexpr int64_t kChunkPages = DecoderLayers::kMaxInputs;

int64_t Rows(absl::Span<const int32_t> tokens) { return static_cast<int64_t>(tokens.size()) + 1; }

int64_t StateBytes(const DecoderWeights& weights, int64_t targets) {
  return 3 * 4 * targets * static_cast<int64_t>(weights.vocabulary.size());
}

int64_t MaxRows(int64_t total, int64_t longest) {
  return std::min(total, std::max(longest, kChunkRows));
}

}  // namespace

int64_t ScorePass::PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                             int64_t document_tokens, absl::Span<const int64_t> lengths) {
  int64_t rows = 0, longest = 0, pages = 0;
  for (const int64_t length : lengths) {
    rows += length + 1;
    pages += KvPages(length + 1);
    longest = std::max(longest, length + 1);
  }
  rows = MaxRows(rows, longest);
  pages = std::min(pages, std::max(KvPages(longest), kChunkPages));
  const int64_t targets = backend.whole_mqa ? rows * 8 : 0;  // placed
  return DecoderLayers::PlanBytes(weights, backend, document_tokens, rows) + targets +
         StateBytes(weights, rows) + pages * DecoderCacheShape(weights, backend).page_bytes();
}

absl::StatusOr<std::unique_ptr<ScorePass>> ScorePass::Create(Setup setup) {
  std::unique_ptr<ScorePass> pass(new ScorePass(std::move(setup)));
  const Setup& s = pass->setup_;
  pass->shape_ = DecoderCacheShape(*s.weights, s.backend->info());
  int64_t longest = 0;
  for (const ScorePassItem& item : s.items) {
    LD_CHECK(!item.tokens.empty());
    pass->total_tokens_ += Rows(item.tokens);
    longest = std::max(longest, Rows(item.tokens));
  }
  if (s.items.empty()) return pass;  // one step that finds nothing to do
  ASSIGN_OR_RETURN(pass->layers_, DecoderLayers::Create(*s.backend, *s.weights, *s.document,
                                                        MaxRows(pass->total_tokens_, longest)));
  return pass;
}

// The next candidates that are still wanted, as many as a chunk may have.
absl::Status ScorePass::BeginChunk() {
  int64_t rows = 0, pages = 0;
  for (; next_item_ < setup_.items.size(); ++next_item_) {
    const ScorePassItem& item = setup_.items[next_item_];
    if (!item.cancellation->Check().ok()) {
      chunk_tokens_ += Rows(item.tokens);
      continue;
    }
    rows += Rows(item.tokens);
    pages += KvPages(Rows(item.tokens));
    if (!chunk_.empty() && (rows > kChunkRows || pages > kChunkPages)) break;
    chunk_tokens_ += Rows(item.tokens);
    RETURN_IF_ERROR(AddCandidate(next_item_));
  }
  if (chunk_.empty()) return absl::OkStatus();
  for (Candidate& c : chunk_) CopyKeysFor(c);
  for (Candidate& c : chunk_) {
    DecoderInput input;
    input.ids = absl::MakeConstSpan(c.inputs).subspan(c.first);
    input.first = c.first;
    input.keys = &c.keys;
    input.copies = c.copies;
    inputs_.push_back(input);
  }
  RETURN_IF_ERROR(layers_->Begin(inputs_));
  for (size_t i = 0; i < chunk_.size(); ++i) AddTargets(i);
  Backend& backend = *setup_.backend;
  const int64_t num_targets = static_cast<int64_t>(targets_.size());
  ASSIGN_OR_RETURN(placed_targets_, backend.Place(targets_.data(), 4 * num_targets));
  ASSIGN_OR_RETURN(placed_rows_, backend.Place(target_rows_.data(), 4 * num_targets));
  std::vector<float> states(static_cast<size_t>(StateBytes(*setup_.weights, num_targets)) /
                            sizeof(float));
  std::fill_n(states.begin(), states.size() / 3, -FLT_MAX);  // the maxima
  const int64_t bytes = static_cast<int64_t>(states.size() * sizeof(float));
  ASSIGN_OR_RETURN(states_, backend.memory().Allocate(bytes, /*zeroed=*/false));
  backend.CopyToDevice(states_.data(), states.data(), bytes);
  return absl::OkStatus();
}

absl::Status ScorePass::AddCandidate(size_t item) {
  const absl::Span<const int32_t> tokens = setup_.items[item].tokens;
  Candidate candidate{item, {setup_.cls}, KvSequence(*setup_.pages, shape_), 0, 0, {}, {}};
  candidate.inputs.insert(candidate.inputs.end(), tokens.begin(), tokens.end());
  if (setup_.share_prefixes) ShareLongestPrefix(candidate);
  RETURN_IF_ERROR(candidate.keys.Extend(Rows(tokens) - candidate.keys.tokens()));
  chunk_.push_back(std::move(candidate));
  return absl::OkStatus();
}

// Takes over what begins an earlier candidate, too; a row of its own is always left.
void ScorePass::ShareLongestPrefix(Candidate& candidate) const {
  const int64_t grain = setup_.backend->info().whole_mqa ? kKvPageTokens : 1;
  for (size_t i = 0; i < chunk_.size(); ++i) {
    const std::vector<int32_t>& other = chunk_[i].inputs;
    const size_t limit = std::min(other.size(), candidate.inputs.size() - 1);
    if (static_cast<int64_t>(limit) <= candidate.first) continue;
    const auto differ =
        std::mismatch(other.begin(), other.begin() + limit, candidate.inputs.begin());
    const int64_t common = (differ.first - other.begin()) / grain * grain;
    if (common <= candidate.first) continue;
    candidate.first = common;
    candidate.prefix_of = i;
  }
  if (candidate.first >= kKvPageTokens) {
    candidate.keys.SharePrefix(chunk_[candidate.prefix_of].keys, candidate.first / kKvPageTokens);
  }
}

// The keys below `first` in its own page come from whoever computes them.
void ScorePass::CopyKeysFor(Candidate& candidate) {
  const int64_t begin = candidate.first / kKvPageTokens * kKvPageTokens;
  int64_t end = candidate.first;
  for (const Candidate* c = &candidate; begin < end;) {
    Candidate& source = chunk_[c->prefix_of];
    if (source.first < end) {
      source.copies.push_back({std::max(begin, source.first), end, &candidate.keys});
      end = source.first;
    }
    c = &source;
  }
}

void ScorePass::AddTargets(size_t candidate) {
  const Candidate& c = chunk_[candidate];
  const int64_t size = static_cast<int64_t>(c.inputs.size());
  for (int64_t t = c.first_target(); t < size; ++t) {
    size_t owner = candidate;  // of the row at position t
    while (t < chunk_[owner].first) owner = chunk_[owner].prefix_of;
    const int64_t row = layers_->state().cu_rows[owner] + t - chunk_[owner].first;
    target_rows_.push_back(static_cast<int32_t>(row));
    targets_.push_back(t + 1 < size ? c.inputs[t + 1] : setup_.sep);
  }
}

int64_t ScorePass::VocabularyPieces() const {
  return CeilDiv(static_cast<int64_t>(targets_.size()), setup_.backend->info().token_tile);
}

// Targets are cut evenly, in pieces of at most a token tile.
RowRange ScorePass::VocabularyRows(int64_t index) const {
  const int64_t targets = static_cast<int64_t>(targets_.size()), pieces = VocabularyPieces();
  const int64_t begin = targets * index / pieces;
  return {begin, targets * (index + 1) / pieces - begin};
}

void ScorePass::EnterPhase(Phase phase) {
  phase_ = phase;
  if (phase == Phase::kBegin || phase == Phase::kFetch) num_steps_ = 1;
  if (phase == Phase::kLayers) num_steps_ = layers_->num_steps();
  if (phase == Phase::kVocabulary) {
    num_steps_ = static_cast<int64_t>(setup_.weights->vocabulary.size()) * VocabularyPieces();
  }
  if (phase == Phase::kDone) num_steps_ = 0;
}

void ScorePass::NextPhase() {
  switch (phase_) {
    case Phase::kBegin:
      return EnterPhase(chunk_.empty() ? Phase::kDone : Phase::kLayers);
    case Phase::kLayers:
      layers_->NextPhase();
      return EnterPhase(layers_->finished() ? Phase::kVocabulary : Phase::kLayers);
    case Phase::kVocabulary:
      return EnterPhase(Phase::kFetch);
    case Phase::kFetch:
      FinishChunk();
      return EnterPhase(next_item_ < setup_.items.size() ? Phase::kBegin : Phase::kDone);
    case Phase::kDone:
      return;
  }
}

absl::Status ScorePass::RunStep(int64_t step, WorkerScratch& scratch) {
  const StepTimer timer(*setup_.backend, spent_);
  switch (phase_) {
    case Phase::kBegin:
      return BeginChunk();
    case Phase::kLayers:
      return layers_->RunStep(step, scratch);
    case Phase::kVocabulary:
      return RunVocabulary(step, scratch);
    case Phase::kFetch:
      return Fetch();
    case Phase::kDone:
      LD_CHECK(false);
  }
  return absl::OkStatus();
}

// Tile by tile of the columns, which stay in cache for all rows.
absl::Status ScorePass::RunVocabulary(int64_t step, WorkerScratch& scratch) {
  const DecoderWeights& w = *setup_.weights;
  const int64_t pieces = VocabularyPieces(), targets = static_cast<int64_t>(targets_.size());
  const int64_t tile = step / pieces;
  const RowRange rows = VocabularyRows(step % pieces);
  const PackedMatrix& columns = *w.vocabulary[tile];
  RETURN_IF_ERROR(DecoderFinalNorm(layers_->state(), rows, placed_rows_.as<int32_t>(), scratch));
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, rows.rows * columns.n() * 4));
  RETURN_IF_ERROR(columns.Gemm(rows.rows, scratch.input.data(), scratch.wide.as<float>()));
  const int64_t state = tile * targets + rows.begin;
  kernels::LogSoftmaxTileArgs args;
  args.rows = rows.rows;
  args.column_begin = tile * DecoderWeights::kVocabularyTile;
  args.columns = columns.n();
  args.logits = scratch.wide.as<float>();
  args.scale = w.LogitScale();
  args.targets = placed_targets_.as<int32_t>() + rows.begin;
  const int64_t states = static_cast<int64_t>(w.vocabulary.size()) * targets;
  args.max = states_.as<float>() + state;
  args.sum = args.max + states;
  args.chosen = args.sum + states;
  setup_.backend->LogSoftmaxTile(args);
  return absl::OkStatus();
}

absl::Status ScorePass::Fetch() {
  ASSIGN_OR_RETURN(fetched_, setup_.backend->Fetch(states_.data(), states_.bytes()));
  return absl::OkStatus();
}

// Joins the tiles, tells the scores, and lets go of the chunk's pages.
void ScorePass::FinishChunk() {
  const size_t all = targets_.size();
  const size_t tiles = setup_.weights->vocabulary.size();
  const float* const maxima = fetched_.as<float>();
  const float* const sums = maxima + tiles * all;
  const float* const chosen_logits = sums + tiles * all;
  size_t at = 0;
  for (Candidate& c : chunk_) {
    if (c.first_target() > 0) {
      const std::vector<float>& prefix = chunk_[c.prefix_of].log_probs;
      c.log_probs.assign(prefix.begin(), prefix.begin() + c.first_target());
    }
    for (; c.log_probs.size() < c.inputs.size(); ++at) {
      float max = -FLT_MAX;
      for (size_t t = 0; t < tiles; ++t) max = std::max(max, maxima[t * all + at]);
      double sum = 0;
      for (size_t t = 0; t < tiles; ++t) {
        sum += sums[t * all + at] * std::exp(static_cast<double>(maxima[t * all + at]) - max);
      }
      const int64_t tile = targets_[at] / DecoderWeights::kVocabularyTile;
      const double chosen = chosen_logits[tile * all + at];
      c.log_probs.push_back(static_cast<float>(chosen - max - std::log(sum)));
    }
    count_.targets += static_cast<int64_t>(c.log_probs.size());
  }
  count_.rows += layers_->rows();
  count_.candidates += static_cast<int64_t>(chunk_.size());
  fetched_ = {};
  states_.Reset();
  inputs_.clear();
  targets_.clear();
  target_rows_.clear();
  std::vector<Candidate> scored = std::move(chunk_);
  chunk_.clear();
  for (Candidate& c : scored) c.keys = KvSequence(*setup_.pages, shape_);
  for (Candidate& c : scored) setup_.on_scored(c.item, std::move(c.log_probs));
  finished_tokens_ += std::exchange(chunk_tokens_, 0);
}

double ScorePass::Progress(int64_t /*steps_done*/) const {
  if (total_tokens_ == 0) return 0;
  // The vocabulary counts little beside a long document.
  const bool in_chunk = phase_ != Phase::kBegin && phase_ != Phase::kDone;
  const double chunk = in_chunk ? layers_->Progress() * static_cast<double>(chunk_tokens_) : 0;
  return std::min(
      1.0, (static_cast<double>(finished_tokens_) + chunk) / static_cast<double>(total_tokens_));
}

DecodeCount ScorePass::count() const {
  DecodeCount count = count_;
  count.worker_seconds = 1e-9 * static_cast<double>(*spent_);
  return count;
}

}  // namespace longdoc
