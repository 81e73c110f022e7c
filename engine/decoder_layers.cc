#include "engine/decoder_layers.h"

#include <algorithm>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

using kernels::CeilDiv;
using kernels::kKeyBlock;

// Scores (query rows × keys) of one attention step: 10 to 20 ms at a head size of 64; every row
// more shares the widening of keys kept in bf16.
constexpr int64_t kStepScores = int64_t{1} << 20;
constexpr int64_t kMinStepScores = kStepScores / 8;
// Keys of a document are cut into ranges of this many blocks, or longer ones when those would be
// more than kMaxParts.
constexpr int64_t kPartBlocks = 32;
constexpr int64_t kMaxParts = 64;
// Partial results of cross-attention that are in memory together.
constexpr int64_t kPartialBytes = int64_t{32} << 20;

int64_t PartBlocks(int64_t document_tokens) {
  return std::max(kPartBlocks, CeilDiv(CeilDiv(document_tokens, kKeyBlock), kMaxParts));
}

int64_t PartialRowBytes(const DecoderWeights& weights, int64_t document_tokens) {
  const int64_t parts = CeilDiv(CeilDiv(document_tokens, kKeyBlock), PartBlocks(document_tokens));
  return parts * weights.config.decoder_heads * (weights.config.head_dim + 2) * 4;
}

// Rows of a group. A tile, which is never cut, has kKeyBlock rows at least when there are as many.
int64_t GroupRows(const DecoderWeights& weights, int64_t document_tokens, int64_t max_rows) {
  const int64_t fitting = kPartialBytes / PartialRowBytes(weights, document_tokens);
  return std::min(max_rows, std::max(kKeyBlock, fitting));
}

}  // namespace

int64_t DecoderLayers::PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                                 int64_t document_tokens, int64_t max_rows) {
  const int64_t inner = weights.config.decoder_heads * weights.config.head_dim;
  const int64_t gemm = static_cast<int64_t>(kernels::SizeOf(backend.gemm_type));
  const int64_t bytes = max_rows * (weights.config.hidden_size * 4 + inner * (4 + gemm));
  if (backend.whole_mqa) {
    return bytes + max_rows * (inner + 2 * weights.config.head_dim) * 4 +
           RowArrays::PlanBytes(weights, max_rows);
  }
  return bytes +
         GroupRows(weights, document_tokens, max_rows) * PartialRowBytes(weights, document_tokens);
}

absl::StatusOr<std::unique_ptr<DecoderLayers>> DecoderLayers::Create(Backend& backend,
                                                                     const DecoderWeights& weights,
                                                                     const CrossKv& document,
                                                                     int64_t max_rows) {
  LD_CHECK(document.tokens > 0 && document.layers.size() == weights.layers.size());
  std::unique_ptr<DecoderLayers> layers(new DecoderLayers());
  DecoderState& s = layers->state_;
  s.backend = &backend;
  s.weights = &weights;
  s.document = &document;
  s.whole = backend.whole_mqa();
  s.cross_blocks = PartBlocks(document.tokens);
  s.cross_parts = CeilDiv(CeilDiv(document.tokens, kKeyBlock), s.cross_blocks);
  s.group_rows = GroupRows(weights, document.tokens, max_rows);
  if (s.whole != nullptr) {
    s.cross_parts = 1;
    s.group_rows = max_rows;
  }
  layers->max_rows_ = max_rows;
  if (backend.spill() != nullptr) {
    ASSIGN_OR_RETURN(layers->document_use_, backend.spill()->Use(document));
  }

  MemoryPool& memory = backend.memory();
  const int64_t inner = max_rows * s.inner();
  const int64_t gemm = static_cast<int64_t>(kernels::SizeOf(backend.info().gemm_type));
  ASSIGN_OR_RETURN(layers->y_, memory.Allocate(max_rows * weights.config.hidden_size * 4, false));
  ASSIGN_OR_RETURN(layers->q_, memory.Allocate(inner * 4, /*zeroed=*/false));
  ASSIGN_OR_RETURN(layers->attended_, memory.Allocate(inner * gemm, /*zeroed=*/false));
  if (s.whole != nullptr) {
    ASSIGN_OR_RETURN(layers->qkv_, memory.Allocate(max_rows * s.qkv_width() * 4, false));
  } else {
    ASSIGN_OR_RETURN(layers->partial_,
                     memory.Allocate(s.group_rows * PartialRowBytes(weights, document.tokens),
                                     /*zeroed=*/false));
  }
  s.y = layers->y_.as<float>();
  s.q = layers->q_.as<float>();
  s.attended = layers->attended_.data();
  s.partial = layers->partial_.as<float>();
  s.qkv = layers->qkv_.as<float>();
  return layers;
}

absl::Status DecoderLayers::Begin(absl::Span<const DecoderInput> inputs,
                                  const DecoderRunOptions& options) {
  PlanRows(inputs);
  if (state_.whole != nullptr) {
    RETURN_IF_ERROR(row_arrays_.Place(options, state_));
  } else {
    ASSIGN_OR_RETURN(placed_ids_, state_.backend->Place(state_.ids.data(), 4 * rows()));
    state_.placed_ids = placed_ids_.as<int32_t>();
  }
  PlanTiles();
  PlanSelfAttention();
  PlanGroups();
  const Colt5Config& c = state_.weights->config;
  const double inner = static_cast<double>(state_.inner());
  const double dense = 4 * inner * static_cast<double>(c.hidden_size) +
                       3 * static_cast<double>(c.hidden_size * c.decoder_ff_size);
  const double cross = 2 * inner * static_cast<double>(state_.document->tokens);
  weight_total_ =
      2 * (dense + cross) * static_cast<double>(rows()) * static_cast<double>(c.decoder_layers);
  Restart();
  return absl::OkStatus();
}

void DecoderLayers::Restart() {
  layer_ = group_ = 0;
  weight_done_ = 0;
  EnterPhase(Phase::kEmbed);
}

absl::Status DecoderLayers::RunAll(WorkerScratch& scratch) {
  for (Restart(); !finished(); NextPhase()) {
    for (int64_t step = 0; step < num_steps_; ++step) RETURN_IF_ERROR(RunStep(step, scratch));
  }
  return absl::OkStatus();
}

void DecoderLayers::PlanRows(absl::Span<const DecoderInput> inputs) {
  DecoderState& s = state_;
  s.inputs = inputs;
  s.cu_rows.assign(1, 0);
  s.ids.clear();
  s.positions.clear();
  s.slopes.clear();
  const std::vector<float>& slopes = s.weights->config.decoder_slopes;
  for (const DecoderInput& input : inputs) {
    const int64_t n = static_cast<int64_t>(input.ids.size());
    LD_CHECK(n > 0 && input.first + n <= input.keys->tokens());
    s.ids.insert(s.ids.end(), input.ids.begin(), input.ids.end());
    s.cu_rows.push_back(static_cast<int64_t>(s.ids.size()));
    if (s.whole != nullptr) continue;
    for (int64_t p = input.first; p < input.first + n; ++p) {
      s.positions.insert(s.positions.end(), slopes.size(), static_cast<int32_t>(p));
      s.slopes.insert(s.slopes.end(), slopes.begin(), slopes.end());
    }
  }
  LD_CHECK(rows() > 0 && rows() <= max_rows_);
}

// Tiles consist of whole runs of rows that share a key block: a block of the cache is written by
// one step alone, but for the copies of what an earlier input has in common with this one.
void DecoderLayers::PlanTiles() {
  const BackendInfo& info = state_.backend->info();
  // Every worker gets a tile of the run, and of a group.
  const int64_t share = kernels::RoundUp(CeilDiv(rows(), info.num_workers), 32);
  const int64_t group_share = state_.group_rows / info.num_workers;
  const int64_t limit = std::max(kKeyBlock, std::min({info.token_tile, share, group_share}));
  tiles_.clear();
  for (size_t i = 0; i < state_.inputs.size(); ++i) {
    int64_t position = state_.inputs[i].first;
    for (int64_t row = state_.cu_rows[i]; row < state_.cu_rows[i + 1];) {
      const int64_t run = std::min(kKeyBlock - position % kKeyBlock, state_.cu_rows[i + 1] - row);
      if (tiles_.empty() || tiles_.back().rows + run > limit) tiles_.push_back({row, 0});
      tiles_.back().rows += run;
      row += run;
      position += run;
    }
  }
}

void DecoderLayers::PlanSelfAttention() {
  self_units_.clear();
  self_steps_.assign(1, 0);
  if (state_.whole != nullptr) {
    self_units_.push_back({0, rows()});
    self_steps_.push_back(1);
    return;
  }
  int64_t scores = 0;
  for (size_t i = 0; i < state_.inputs.size(); ++i) {
    const int64_t keys = state_.inputs[i].first + static_cast<int64_t>(state_.inputs[i].ids.size());
    const int64_t scores_of_row = state_.heads() * kernels::RoundUp(keys, kKeyBlock);
    const int64_t per_unit = std::clamp<int64_t>(kStepScores / scores_of_row, 1, kKeyBlock);
    for (int64_t row = state_.cu_rows[i]; row < state_.cu_rows[i + 1]; row += per_unit) {
      const int64_t rows = std::min(per_unit, state_.cu_rows[i + 1] - row);
      self_units_.push_back({row, rows});
      scores += rows * scores_of_row;
      if (scores < kMinStepScores) continue;
      self_steps_.push_back(self_units_.size());
      scores = 0;
    }
  }
  if (self_steps_.back() != self_units_.size()) self_steps_.push_back(self_units_.size());
}

void DecoderLayers::PlanGroups() {
  const int64_t keys = state_.cross_blocks * kKeyBlock;
  const int64_t rows_per_block = std::max<int64_t>(1, kStepScores / (keys * state_.heads()));
  groups_.clear();
  int64_t rows = 0;
  for (size_t t = 0; t < tiles_.size(); ++t) {
    const RowRange& tile = tiles_[t];
    if (groups_.empty() || rows + tile.rows > state_.group_rows) {
      groups_.push_back({t, t, {}});
      rows = 0;
    }
    Group& group = groups_.back();
    group.tile_end = t + 1;
    rows += tile.rows;
    const int64_t blocks = state_.whole != nullptr ? 1 : CeilDiv(tile.rows, rows_per_block);
    for (int64_t b = 0; b < blocks; ++b) {  // of even size
      const int64_t begin = tile.begin + tile.rows * b / blocks;
      const int64_t end = tile.begin + tile.rows * (b + 1) / blocks;
      group.blocks.push_back({t, {begin, end - begin}});
    }
  }
}

int64_t DecoderLayers::StepsOf(Phase phase) const {
  const Group& group = groups_[group_];
  switch (phase) {
    case Phase::kEmbed:
    case Phase::kSelfMix:
      return static_cast<int64_t>(tiles_.size());
    case Phase::kSelfAttend:
      return static_cast<int64_t>(self_steps_.size()) - 1;
    case Phase::kCross:
      return state_.cross_parts * static_cast<int64_t>(group.blocks.size());
    case Phase::kCrossMix:
      return static_cast<int64_t>(group.tile_end - group.tile_begin);
    case Phase::kDone:
      return 0;
  }
  return 0;
}

// Self-attention and the embedding are left out: small beside the rest.
double DecoderLayers::WeightOf(Phase phase) const {
  const Colt5Config& c = state_.weights->config;
  const double inner = static_cast<double>(state_.inner());
  const double projections = inner * static_cast<double>(c.hidden_size);
  const Group& group = groups_[group_];
  const RowRange& last = tiles_[group.tile_end - 1];
  const double group_rows =
      static_cast<double>(last.begin + last.rows - tiles_[group.tile_begin].begin);
  switch (phase) {
    case Phase::kSelfMix:
      return 4 * projections * static_cast<double>(rows());
    case Phase::kCross:
      return 4 * inner * static_cast<double>(state_.document->tokens) * group_rows;
    case Phase::kCrossMix:
      return (4 * projections + 6 * static_cast<double>(c.hidden_size * c.decoder_ff_size)) *
             group_rows;
    default:
      return 0;
  }
}

void DecoderLayers::EnterPhase(Phase phase) {
  phase_ = phase;
  num_steps_ = StepsOf(phase);
}

void DecoderLayers::NextPhase() {
  weight_done_ += WeightOf(phase_);
  switch (phase_) {
    case Phase::kEmbed:
      return EnterPhase(Phase::kSelfAttend);
    case Phase::kSelfAttend:
      return EnterPhase(Phase::kSelfMix);
    case Phase::kSelfMix:
      group_ = 0;
      return EnterPhase(Phase::kCross);
    case Phase::kCross:
      return EnterPhase(Phase::kCrossMix);
    case Phase::kCrossMix:
      if (++group_ < groups_.size()) return EnterPhase(Phase::kCross);
      group_ = 0;
      return EnterPhase(++layer_ < state_.weights->layers.size() ? Phase::kSelfAttend
                                                                 : Phase::kDone);
    case Phase::kDone:
      return;
  }
}

absl::Status DecoderLayers::RunStep(int64_t step, WorkerScratch& scratch) const {
  const Group& group = groups_[group_];
  const int64_t group_begin = tiles_[group.tile_begin].begin;
  switch (phase_) {
    case Phase::kEmbed:
      return DecoderEmbedStep(state_, tiles_[step], scratch);
    case Phase::kSelfAttend:
      for (size_t u = self_steps_[step]; u < self_steps_[step + 1]; ++u) {
        RETURN_IF_ERROR(DecoderSelfAttendStep(state_, layer_, self_units_[u], scratch));
      }
      return absl::OkStatus();
    case Phase::kSelfMix:
      return DecoderSelfMixStep(state_, layer_, tiles_[step], scratch);
    case Phase::kCross: {
      // Range by range of the keys, which stay in cache for all rows.
      const int64_t blocks = static_cast<int64_t>(group.blocks.size());
      const Group::Block& block = group.blocks[step % blocks];
      return DecoderCrossStep(state_, layer_, group_begin, tiles_[block.tile], block.rows,
                              step / blocks, scratch);
    }
    case Phase::kCrossMix:
      return DecoderCrossMixStep(state_, layer_, group_begin, tiles_[group.tile_begin + step],
                                 scratch);
    case Phase::kDone:
      break;
  }
  return absl::InternalError("the decoder's run is over");
}

}  // namespace longdoc
