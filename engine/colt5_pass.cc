#include "engine/colt5_pass.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/arriving_ids.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/planner.h"

namespace longdoc {
namespace {

using Phase = Colt5Pass::Phase;

TokenTile CutTile(int64_t step, int64_t tile_rows, int64_t rows) {
  const int64_t begin = step * tile_rows;
  return {begin, std::min(tile_rows, rows - begin)};
}

Phase Next(Phase phase) { return static_cast<Phase>(static_cast<int>(phase) + 1); }

}  // namespace

Colt5Pass::Colt5Pass(Backend& backend, const Colt5Model& model, const AttentionPolicy& policy,
                     const std::vector<PassSequence>& sequences)
    : policy_(policy),
      packing_(sequences),
      layout_(model.config(), backend, policy, packing_.cu_seqlens),
      pooling_(backend, packing_, model.config().hidden_size, model.output()),
      to_keep_(backend, packing_, model.info().dimensions) {
  state_.backend = &backend;
  state_.model = &model;
  state_.layout = &layout_;
  state_.cross_kv.resize(sequences.size());
}

absl::StatusOr<std::unique_ptr<Colt5Pass>> Colt5Pass::Create(
    Backend& backend, const Colt5Model& model, const AttentionPolicy& policy,
    const std::vector<PassSequence>& sequences) {
  std::unique_ptr<Colt5Pass> pass(new Colt5Pass(backend, model, policy, sequences));
  if (pass->packing_.tokens() > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a pass of %d tokens; routed positions have 31 bits", pass->packing_.tokens()));
  }
  RETURN_IF_ERROR(pass->Allocate());
  RETURN_IF_ERROR(pass->AllocateResults());
  pass->PlanFinalTiles();
  pass->weight_total_ = pass->WeightOf(Phase::kFinal, 0);
  for (size_t layer = 0; layer < model.layers().size(); ++layer) {
    for (Phase p = Phase::kEnter; p < Phase::kFinal; p = Next(p)) {
      pass->weight_total_ += pass->WeightOf(p, layer);
    }
  }
  pass->EnterPhase(Phase::kEnter);
  return pass;
}

absl::Status Colt5Pass::Allocate() {
  Backend& backend = *state_.backend;
  MemoryPool& memory = backend.memory();
  const int64_t row_bytes = layout_.config.hidden_size * 4;
  tile_rows_ = TileRows(backend.info(), packing_.tokens());
  ASSIGN_OR_RETURN(ids_, PlaceIds(backend, packing_));
  state_.ids = ids_.as<int32_t>();
  ASSIGN_OR_RETURN(x_, memory.Allocate(packing_.tokens() * row_bytes, /*zeroed=*/false));
  state_.x = x_.as<float>();
  ASSIGN_OR_RETURN(ff_rows_, memory.Allocate(layout_.cu_ff.back() * row_bytes, /*zeroed=*/false));
  state_.ff_rows = ff_rows_.as<float>();
  RETURN_IF_ERROR(AllocateRouting());
  ASSIGN_OR_RETURN(state_.light, backend.MakeAttention(layout_.light));
  if (layout_.has_heavy_attention()) {
    kernels::AttentionProblem heavy = layout_.heavy;
    heavy.q_positions = state_.routed[RoutingStats::kQuery].positions;
    heavy.k_positions = state_.routed[RoutingStats::kKeyValue].positions;
    ASSIGN_OR_RETURN(state_.heavy, backend.MakeAttention(heavy));
  }
  bytes_ = layout_.Bytes();
  return absl::OkStatus();
}

absl::Status Colt5Pass::AllocateRouting() {
  const int64_t bytes = layout_.RoutingBytes();
  ASSIGN_OR_RETURN(routing_, state_.backend->memory().Allocate(bytes, /*zeroed=*/true));
  const int64_t tallies = layout_.sequences() * RoutingStats::kNumRouters;
  state_.tallies = routing_.as<RoutingTally>();
  char* next = routing_.as<char>() + tallies * static_cast<int64_t>(sizeof(RoutingTally));
  auto take = [&next](int64_t count) { return std::exchange(next, next + 4 * count); };
  const std::vector<int64_t>* offsets[] = {&layout_.cu_query, &layout_.cu_kv, &layout_.cu_ff};
  for (int r = 0; r < RoutingStats::kNumRouters; ++r) state_.routed[r].offsets = offsets[r];
  if (bytes == 0) return absl::OkStatus();
  for (float*& scores : state_.scores) {
    scores = reinterpret_cast<float*>(take(packing_.tokens()));
  }
  for (RoutedTokens& routed : state_.routed) {
    routed.positions = reinterpret_cast<int32_t*>(take(routed.size()));
    routed.rows = reinterpret_cast<int32_t*>(take(routed.size()));
    routed.weights = reinterpret_cast<float*>(take(routed.size()));
    // Any sound positions, until there are some.
    std::vector<int32_t> positions(static_cast<size_t>(routed.size()));
    for (size_t s = 0; s < packing_.sequences.size(); ++s) {
      std::iota(positions.begin() + (*routed.offsets)[s],
                positions.begin() + (*routed.offsets)[s + 1], 0);
    }
    state_.backend->CopyToDevice(routed.positions, positions.data(), 4 * routed.size());
  }
  state_.previous_queries = reinterpret_cast<int32_t*>(take(layout_.cu_query.back()));
  return absl::OkStatus();
}

absl::Status Colt5Pass::AllocateResults() {
  MemoryPool& memory = state_.backend->memory();
  RETURN_IF_ERROR(pooling_.Allocate());
  RETURN_IF_ERROR(to_keep_.Allocate());
  bytes_ += pooling_.bytes() + to_keep_.bytes();
  const Colt5Config& config = layout_.config;
  if (config.output_size > 0 &&
      (packing_.sequences[0].token_vectors || packing_.sequences[0].keep_token_vectors)) {
    ASSIGN_OR_RETURN(token_vectors_, memory.Allocate(layout_.TokenVectorBytes(), /*zeroed=*/false));
    state_.token_vectors = token_vectors_.as<float>();
    bytes_ += token_vectors_.bytes();
  }
  for (size_t s = 0; s < packing_.sequences.size(); ++s) {
    if (!packing_.sequences[s].cross_kv) continue;
    auto cross = std::make_shared<CrossKv>();
    cross->tokens = packing_.tokens(s);
    cross->head_dim = static_cast<int32_t>(config.head_dim);
    cross->storage = packing_.sequences[s].cross_kv_type;
    const int64_t layer_bytes = layout_.CrossKvBytes(s, cross->storage) / config.decoder_layers;
    for (int64_t layer = 0; layer < config.decoder_layers; ++layer) {
      ASSIGN_OR_RETURN(Buffer blocks, memory.Allocate(layer_bytes, /*zeroed=*/true));
      cross->layers.push_back(std::move(blocks));
    }
    bytes_ += cross->bytes();
    state_.cross_kv[s] = std::move(cross);
  }
  return absl::OkStatus();
}

// Packed tiles as of every phase; whole key blocks of one sequence once cross keys are wanted.
void Colt5Pass::PlanFinalTiles() {
  const bool by_sequence = std::any_of(state_.cross_kv.begin(), state_.cross_kv.end(),
                                       [](const auto& cross) { return cross != nullptr; });
  const size_t pieces = by_sequence ? packing_.sequences.size() : 1;
  const int64_t rows = kernels::RoundUp(tile_rows_, kernels::kKeyBlock);
  for (size_t s = 0; s < pieces; ++s) {
    const int64_t end = by_sequence ? packing_.cu_seqlens[s + 1] : packing_.tokens();
    for (int64_t begin = packing_.cu_seqlens[s]; begin < end; begin += rows) {
      final_tiles_.push_back({s, {begin, std::min(rows, end - begin)}});
    }
  }
}

int64_t Colt5Pass::RoutedSteps(RoutingStats::Router router) const {
  const int64_t rows = state_.routed[router].size();
  return rows == 0 ? 0 : kernels::CeilDiv(rows, TileRows(state_.backend->info(), rows));
}

TokenTile Colt5Pass::RoutedTile(RoutingStats::Router router, int64_t step) const {
  const int64_t rows = state_.routed[router].size();
  return CutTile(step, TileRows(state_.backend->info(), rows), rows);
}

int64_t Colt5Pass::StepsOf(Phase phase) const {
  const int64_t sequences = layout_.sequences();
  switch (phase) {
    case Phase::kEnter:
    case Phase::kLightOutput:
      return kernels::CeilDiv(packing_.tokens(), tile_rows_);
    case Phase::kRouteAttention:
      return layout_.has_heavy_attention() ? 2 * sequences : 0;
    case Phase::kHeavyProject:
      return RoutedSteps(RoutingStats::kQuery) + RoutedSteps(RoutingStats::kKeyValue);
    case Phase::kBound:
      return state_.heavy != nullptr ? state_.heavy->num_bound_steps() : 0;
    case Phase::kAttend:
      return state_.light->num_attend_steps() +
             (state_.heavy != nullptr ? state_.heavy->num_attend_steps() : 0);
    case Phase::kHeavyOutput:
      return RoutedSteps(RoutingStats::kQuery);
    case Phase::kRouteFeedForward:
      return layout_.has_heavy_ff() ? sequences : 0;
    case Phase::kHeavyFeedForward:
      return RoutedSteps(RoutingStats::kFeedForward);
    case Phase::kFinal:
      return static_cast<int64_t>(final_tiles_.size());
    case Phase::kPool:
      return pooling_.num_steps();
    case Phase::kKeep:
      return to_keep_.num_steps();
    case Phase::kFetch:
      return 1;
    case Phase::kDone:
      return 0;
  }
  return 0;
}

// FLOPs of the phase in a layer; a light feed-forward counts where it is run.
double Colt5Pass::WeightOf(Phase phase, size_t layer) const {
  const Colt5Config& c = layout_.config;
  auto product = [](int64_t rows, int64_t n, int64_t k) {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
  };
  const int64_t t = packing_.tokens(), dim = c.hidden_size;
  const int64_t queries = layout_.cu_query.back(), keys = layout_.cu_kv.back();
  switch (phase) {
    case Phase::kEnter:
      return product(t, 3 * layout_.light_width(), dim) +
             (layer > 0 ? product(t, 3 * c.light_ff_size, dim) : 0);
    case Phase::kHeavyProject:
      return product(queries + 2 * keys, layout_.heavy_width(), dim);
    case Phase::kAttend:
      return layout_.ExpectedAttentionFlops() / static_cast<double>(c.num_layers);
    case Phase::kHeavyOutput:
      return product(queries, dim, layout_.heavy_width());
    case Phase::kLightOutput:
      return product(t, dim, layout_.light_width());
    case Phase::kHeavyFeedForward:
      return product(layout_.cu_ff.back(), 3 * c.heavy_ff_size, dim);
    case Phase::kFinal: {
      double weight = product(t, 3 * c.light_ff_size, dim);
      for (const auto& cross : state_.cross_kv) {
        if (cross != nullptr) weight += CrossKvFlops(c, cross->tokens);
      }
      return weight;
    }
    default:
      return 0;
  }
}

void Colt5Pass::EnterPhase(Phase phase) {
  phase_ = phase;
  if (phase == Phase::kAttend && state_.heavy != nullptr) state_.heavy->PlanUnits();
  num_steps_ = StepsOf(phase);
}

void Colt5Pass::NextPhase() {
  do {
    weight_done_ += WeightOf(phase_, layer_);
    if (phase_ == Phase::kDone) return;
    if (phase_ == Phase::kHeavyFeedForward && layer_ + 1 < state_.model->layers().size()) {
      ++layer_;
      EnterPhase(Phase::kEnter);
    } else {
      EnterPhase(Next(phase_));
    }
  } while (num_steps_ == 0 && phase_ != Phase::kDone);
}

double Colt5Pass::Progress(int64_t steps_done) const {
  const double share =
      num_steps_ == 0 ? 0 : static_cast<double>(steps_done) / static_cast<double>(num_steps_);
  return std::min(1.0, (weight_done_ + share * WeightOf(phase_, layer_)) / weight_total_);
}

absl::Status Colt5Pass::RunStep(int64_t step, WorkerScratch& scratch) {
  const bool attention = phase_ == Phase::kBound || phase_ == Phase::kAttend;
  const StepTimer timer(*state_.backend, attention ? times_.attention : times_.dense);
  const TokenTile tile = CutTile(step, tile_rows_, packing_.tokens());
  switch (phase_) {
    case Phase::kEnter:
      return EnterLayerStep(state_, layer_, tile, scratch);
    case Phase::kRouteAttention:
    case Phase::kRouteFeedForward:
      return RunRoute(step, scratch);
    case Phase::kHeavyProject:
      return RunHeavyProject(step, scratch);
    case Phase::kBound:
      state_.heavy->Bound(step);
      return absl::OkStatus();
    case Phase::kAttend:
      return RunAttend(step, scratch);
    case Phase::kHeavyOutput:
      return HeavyOutputStep(state_, layer_, RoutedTile(RoutingStats::kQuery, step), scratch);
    case Phase::kLightOutput:
      return LightOutputStep(state_, layer_, tile, scratch);
    case Phase::kHeavyFeedForward:
      return HeavyFeedForwardStep(state_, layer_, RoutedTile(RoutingStats::kFeedForward, step),
                                  scratch);
    case Phase::kFinal:
      return FinalStep(state_, final_tiles_[step].sequence, final_tiles_[step].tile, scratch);
    case Phase::kPool:
      return pooling_.Run(step, state_.x, scratch);
    case Phase::kKeep:
      to_keep_.Run(step, state_.token_vectors != nullptr ? state_.token_vectors : state_.x);
      return absl::OkStatus();
    case Phase::kFetch:
      return Fetch();
    case Phase::kDone:
      LD_CHECK(false);
  }
  return absl::OkStatus();
}

absl::Status Colt5Pass::RunRoute(int64_t step, WorkerScratch& scratch) {
  RoutingStats::Router router = RoutingStats::kFeedForward;
  if (phase_ == Phase::kRouteAttention) {
    router = step < layout_.sequences() ? RoutingStats::kQuery : RoutingStats::kKeyValue;
    step %= layout_.sequences();
  }
  return RouteStep(state_, layer_, router, static_cast<size_t>(step), scratch);
}

absl::Status Colt5Pass::RunHeavyProject(int64_t step, WorkerScratch& scratch) {
  const int64_t query_steps = RoutedSteps(RoutingStats::kQuery);
  if (step < query_steps) {
    return HeavyQueryStep(state_, layer_, RoutedTile(RoutingStats::kQuery, step), scratch);
  }
  return HeavyKeysStep(state_, layer_, RoutedTile(RoutingStats::kKeyValue, step - query_steps),
                       scratch);
}

// Heavy attention first: its units are the longest.
absl::Status Colt5Pass::RunAttend(int64_t step, WorkerScratch& scratch) {
  if (state_.heavy == nullptr) return state_.light->Attend(step, scratch);
  const int64_t heavy_steps = state_.heavy->num_attend_steps();
  return step < heavy_steps ? state_.heavy->Attend(step, scratch)
                            : state_.light->Attend(step - heavy_steps, scratch);
}

// What callers read, to where they can read it.
absl::Status Colt5Pass::Fetch() {
  Backend& backend = *state_.backend;
  if (packing_.sequences[0].token_vectors) {
    Buffer& vectors = state_.token_vectors != nullptr ? token_vectors_ : x_;
    ASSIGN_OR_RETURN(vectors, backend.ToHost(std::move(vectors)));
  }
  RETURN_IF_ERROR(state_.light->FetchStats());
  if (state_.heavy != nullptr) RETURN_IF_ERROR(state_.heavy->FetchStats());
  if (routing_.bytes() > 0) {
    tallies_.resize(packing_.sequences.size() * RoutingStats::kNumRouters);
    RETURN_IF_ERROR(
        backend.CopyToHost(tallies_.data(), state_.tallies,
                           static_cast<int64_t>(tallies_.size() * sizeof(RoutingTally))));
  }
  return pooling_.Fetch();
}

// Of a pass that has fetched its tallies: all layers have routed as many tokens.
RoutingStats Colt5Pass::MakeRoutingStats(size_t sequence) const {
  RoutingStats stats;
  if (tallies_.empty()) return stats;
  const int64_t layers = layout_.config.num_layers;
  const RoutingTally* tallies = tallies_.data() + sequence * RoutingStats::kNumRouters;
  for (int r = 0; r < RoutingStats::kNumRouters; ++r) {
    const std::vector<int64_t>& offsets = *state_.routed[r].offsets;
    const int64_t tokens = offsets[sequence + 1] - offsets[sequence];
    stats.tokens[r] = layers * tokens;
    stats.weight[r] = tallies[r].weight;
    if (r == RoutingStats::kQuery) stats.follow_ups = (layers - 1) * tokens;
  }
  stats.repeated = tallies[RoutingStats::kQuery].repeated;
  return stats;
}

EncodeStats Colt5Pass::stats() const { return MakeStats(0, packing_.sequences.size()); }

EncodeStats Colt5Pass::MakeStats(size_t begin, size_t end) const {
  kernels::AttentionStats attention;
  EncodeStats stats;
  for (size_t s = begin; s < end; ++s) {
    AddStats(state_.light->stats(s), &attention);
    if (state_.heavy != nullptr) AddStats(state_.heavy->stats(s), &attention);
    stats.tokens += packing_.tokens(s);
    stats.dense_flops += layout_.DenseFlops(s, packing_.sequences[s].cross_kv);
    stats.routing += MakeRoutingStats(s);
  }
  const double share = static_cast<double>(stats.tokens) / static_cast<double>(packing_.tokens());
  stats.attention_seconds = 1e-9 * static_cast<double>(*times_.attention) * share;
  stats.dense_seconds = 1e-9 * static_cast<double>(*times_.dense) * share;
  stats.tiles_computed = attention.tiles_computed;
  stats.tiles_dense = attention.tiles_dense;
  stats.attention_flops =
      AttentionTileFlops(layout_.config.head_dim) * static_cast<double>(attention.tiles_computed);
  stats.max_logit_bound = attention.max_bound;
  stats.epsilon = layout_.heavy.skip == kernels::SkipMode::kTolerance ? policy_.epsilon : 0;
  stats.peak_bytes = static_cast<int64_t>(static_cast<double>(bytes_) * share);
  stats.batch_sequences = static_cast<int64_t>(packing_.sequences.size());
  return stats;
}

EncodeResult Colt5Pass::TakeResult(size_t sequence) {
  EncodeResult result = pooling_.TakeVectors(sequence);
  result.stats = MakeStats(sequence, sequence + 1);
  result.cross_kv = std::move(state_.cross_kv[sequence]);
  result.kept_token_vectors = to_keep_.Take(sequence);
  return result;
}

Buffer Colt5Pass::TakeTokenVectors() {
  return state_.token_vectors != nullptr ? std::move(token_vectors_) : std::move(x_);
}

}  // namespace longdoc
