#include "engine/colt5_steps.h"

#include <algorithm>

#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

using Router = RoutingStats::Router;

int64_t Dim(const Colt5State& s) { return s.layout->config.hidden_size; }

absl::Status EnsureScratch(const Colt5State& s, int64_t rows, int64_t wide,
                           WorkerScratch& scratch) {
  const Colt5Layout& l = *s.layout;
  const int64_t gemm = static_cast<int64_t>(kernels::SizeOf(s.backend->info().gemm_type));
  // `input` also widens attention outputs that are stored as bf16 for products in fp32.
  const int64_t input = std::max({Dim(s), l.light_width(), l.heavy_width()});
  RETURN_IF_ERROR(scratch.Ensure(scratch.input, rows * input * gemm));
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, rows * wide * 4));
  return scratch.Ensure(scratch.tile, rows * Dim(s) * 4);
}

// A norm of rows of x into scratch.input; the caller sets what else it wants.
kernels::RmsNormArgs NormArgs(const Colt5State& s, const PlacedFloats& gamma, int64_t rows,
                              WorkerScratch& scratch) {
  kernels::RmsNormArgs args;
  args.rows = rows;
  args.dim = args.x_stride = Dim(s);
  args.x = s.x;
  args.gamma = gamma.data();
  args.epsilon = s.layout->config.rms_norm_eps;
  args.out_type = s.backend->info().gemm_type;
  args.out = scratch.input.data();
  return args;
}

kernels::RmsNormArgs TileNormArgs(const Colt5State& s, const PlacedFloats& gamma, TokenTile tile,
                                  WorkerScratch& scratch) {
  kernels::RmsNormArgs args = NormArgs(s, gamma, tile.rows, scratch);
  args.x = s.x + tile.begin * Dim(s);
  return args;
}

kernels::RmsNormArgs RoutedNormArgs(const Colt5State& s, const PlacedFloats& gamma, Router router,
                                    TokenTile tile, WorkerScratch& scratch) {
  kernels::RmsNormArgs args = NormArgs(s, gamma, tile.rows, scratch);
  args.indices = s.routed[router].rows + tile.begin;
  return args;
}

// x of a tile += in
void AddToTile(const Colt5State& s, TokenTile tile, const float* in) {
  kernels::ScatterAddArgs args;
  args.rows = tile.rows;
  args.dim = Dim(s);
  args.in = in;
  args.out = s.x + tile.begin * Dim(s);
  s.backend->ScatterAdd(args);
}

// Adding weight · in to x of routed tokens; row 0 of `in` is that of token `begin` of them.
kernels::ScatterAddArgs RoutedAddArgs(const Colt5State& s, const RoutedTokens& routed,
                                      int64_t begin, int64_t rows, const float* in) {
  kernels::ScatterAddArgs args;
  args.rows = rows;
  args.dim = Dim(s);
  args.indices = routed.rows + begin;
  args.row_scale = routed.weights + begin;
  args.in = in;
  args.out = s.x;
  return args;
}

// Both feed-forwards of a layer, into x of a tile.
absl::Status AddFeedForwards(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const PackedColt5Layer& w = s.model->layers()[layer];
  s.backend->RmsNorm(TileNormArgs(s, w.ff_norm, tile, scratch));
  float* light = scratch.tile.as<float>();
  RETURN_IF_ERROR(RunFeedForward(*s.backend, w.light_ff.view(), tile.rows, scratch.input.data(),
                                 light, scratch));
  AddToTile(s, tile, light);
  const RoutedTokens& routed = s.routed[RoutingStats::kFeedForward];
  if (routed.size() == 0) return absl::OkStatus();
  s.backend->ScatterAddWithin(RoutedAddArgs(s, routed, 0, routed.size(), s.ff_rows), tile.begin,
                              tile.begin + tile.rows);
  return absl::OkStatus();
}

void EmbedTile(const Colt5State& s, TokenTile tile) {
  kernels::EmbedArgs args;
  args.rows = tile.rows;
  args.dim = Dim(s);
  args.ids = s.ids + tile.begin;
  args.table_type = s.model->embeddings().view().dtype;
  args.word = s.model->embeddings().placed();
  args.out = s.x + tile.begin * Dim(s);
  s.backend->Embed(args);
}

// The decoder's keys and values of a tile of one sequence.
absl::Status StoreCrossKv(const Colt5State& s, size_t sequence, TokenTile tile, const void* in,
                          WorkerScratch& scratch) {
  const CrossKv& cross = *s.cross_kv[sequence];
  const PackedMatrix& weights = *s.model->decoder()->cross_kv;
  const int64_t first = tile.begin - s.layout->cu_seqlens[sequence];
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, tile.rows * weights.n() * 4));
  float* rows = scratch.wide.as<float>();
  RETURN_IF_ERROR(weights.Gemm(tile.rows, in, rows));
  kernels::MqaStoreArgs args;
  args.head_dim = cross.head_dim;
  args.storage = cross.storage;
  args.stride = weights.n();
  args.rows = tile.rows;
  for (size_t layer = 0; layer < cross.layers.size(); ++layer) {
    args.keys = rows + static_cast<int64_t>(layer) * 2 * cross.head_dim;
    args.values = args.keys + cross.head_dim;
    args.block = cross.layers[layer].as<char>() +
                 first / kernels::kKeyBlock * kernels::MqaBlockBytes(cross.head_dim, cross.storage);
    s.backend->MqaStore(args);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EnterLayerStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const int64_t width = s.layout->light_width();
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 3 * width, scratch));
  if (layer == 0) {
    EmbedTile(s, tile);
  } else {
    RETURN_IF_ERROR(AddFeedForwards(s, layer - 1, tile, scratch));
  }
  const PackedColt5Layer& w = s.model->layers()[layer];
  kernels::RmsNormArgs norm = TileNormArgs(s, w.attention_norm, tile, scratch);
  if (s.heavy != nullptr) {
    norm.num_routers = 2;
    norm.routers[0] = w.query_router.data();
    norm.routers[1] = w.kv_router.data();
    norm.scores[0] = s.scores[0] + tile.begin;
    norm.scores[1] = s.scores[1] + tile.begin;
  }
  s.backend->RmsNorm(norm);
  float* qkv = scratch.wide.as<float>();
  RETURN_IF_ERROR(w.light_qkv->Gemm(tile.rows, scratch.input.data(), qkv));
  s.light->StoreQueries(tile.begin, tile.rows, qkv, 3 * width);
  s.light->StoreKeysValues(tile.begin, tile.rows, qkv + width, 3 * width);
  return absl::OkStatus();
}

absl::Status RouteStep(Colt5State& s, size_t layer, Router router, size_t sequence,
                       WorkerScratch& scratch) {
  const RoutedTokens& routed = s.routed[router];
  const int64_t token = s.layout->cu_seqlens[sequence], begin = (*routed.offsets)[sequence];
  RouteTokensArgs args;
  args.first_row = static_cast<int32_t>(token);
  args.route.n = s.layout->cu_seqlens[sequence + 1] - token;
  args.route.k = (*routed.offsets)[sequence + 1] - begin;
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, s.backend->RouteScratchBytes(args.route.n)));
  args.route.scores = s.scores[router == RoutingStats::kKeyValue ? 1 : 0] + token;
  args.route.indices = routed.positions + begin;
  args.route.weights = routed.weights + begin;
  args.route.scratch = scratch.attention.data();
  args.rows = routed.rows + begin;
  args.tally = s.tallies + static_cast<int64_t>(sequence) * RoutingStats::kNumRouters + router;
  if (router == RoutingStats::kQuery) {
    args.previous = s.previous_queries + begin;
    args.compare = layer > 0;
  }
  s.backend->Route(args);
  return absl::OkStatus();
}

absl::Status HeavyQueryStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const PackedColt5Layer& w = s.model->layers()[layer];
  const int64_t width = s.layout->heavy_width();
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, width, scratch));
  s.backend->RmsNorm(RoutedNormArgs(s, w.attention_norm, RoutingStats::kQuery, tile, scratch));
  RETURN_IF_ERROR(w.heavy_query->Gemm(tile.rows, scratch.input.data(), scratch.wide.as<float>()));
  s.heavy->StoreQueries(tile.begin, tile.rows, scratch.wide.as<float>(), width);
  return absl::OkStatus();
}

absl::Status HeavyKeysStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const PackedColt5Layer& w = s.model->layers()[layer];
  const int64_t width = s.layout->heavy_width();
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 2 * width, scratch));
  kernels::RmsNormArgs norm =
      RoutedNormArgs(s, w.attention_norm, RoutingStats::kKeyValue, tile, scratch);
  norm.row_scale = s.routed[RoutingStats::kKeyValue].weights + tile.begin;
  s.backend->RmsNorm(norm);
  RETURN_IF_ERROR(w.heavy_kv->Gemm(tile.rows, scratch.input.data(), scratch.wide.as<float>()));
  s.heavy->StoreKeysValues(tile.begin, tile.rows, scratch.wide.as<float>(), 2 * width);
  return absl::OkStatus();
}

absl::Status HeavyOutputStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 0, scratch));
  const void* in = s.heavy->Outputs(tile.begin, tile.rows, scratch);
  float* out = scratch.tile.as<float>();
  RETURN_IF_ERROR(s.model->layers()[layer].heavy_output->Gemm(tile.rows, in, out));
  s.backend->ScatterAdd(
      RoutedAddArgs(s, s.routed[RoutingStats::kQuery], tile.begin, tile.rows, out));
  return absl::OkStatus();
}

absl::Status LightOutputStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const PackedColt5Layer& w = s.model->layers()[layer];
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 0, scratch));
  const void* in = s.light->Outputs(tile.begin, tile.rows, scratch);
  float* out = scratch.tile.as<float>();
  RETURN_IF_ERROR(w.light_output->Gemm(tile.rows, in, out));
  AddToTile(s, tile, out);
  if (!s.layout->has_heavy_ff()) return absl::OkStatus();
  kernels::RmsNormArgs norm = TileNormArgs(s, w.ff_norm, tile, scratch);
  norm.out = nullptr;  // the rows themselves are wanted later, and then they are cheap
  norm.num_routers = 1;
  norm.routers[0] = w.ff_router.data();
  norm.scores[0] = s.scores[0] + tile.begin;
  s.backend->RmsNorm(norm);
  return absl::OkStatus();
}

absl::Status HeavyFeedForwardStep(Colt5State& s, size_t layer, TokenTile tile,
                                  WorkerScratch& scratch) {
  const PackedColt5Layer& w = s.model->layers()[layer];
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 0, scratch));
  s.backend->RmsNorm(RoutedNormArgs(s, w.ff_norm, RoutingStats::kFeedForward, tile, scratch));
  return RunFeedForward(*s.backend, w.heavy_ff.view(), tile.rows, scratch.input.data(),
                        s.ff_rows + tile.begin * Dim(s), scratch);
}

absl::Status FinalStep(Colt5State& s, size_t sequence, TokenTile tile, WorkerScratch& scratch) {
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, 0, scratch));
  RETURN_IF_ERROR(AddFeedForwards(s, s.model->layers().size() - 1, tile, scratch));
  float* x = s.x + tile.begin * Dim(s);
  kernels::RmsNormArgs norm = TileNormArgs(s, s.model->final_norm(), tile, scratch);
  norm.out_type = DType::kF32;
  norm.out = x;
  s.backend->RmsNorm(norm);
  const bool wants_cross_kv = s.cross_kv[sequence] != nullptr;
  if (!wants_cross_kv && s.token_vectors == nullptr) return absl::OkStatus();
  const void* in = x;
  if (s.backend->info().gemm_type == DType::kBF16) {
    s.backend->F32ToBf16(x, tile.rows * Dim(s), scratch.input.as<uint16_t>());
    in = scratch.input.data();
  }
  if (s.token_vectors != nullptr) {
    const PackedMatrix& output = *s.model->output();
    RETURN_IF_ERROR(output.Gemm(tile.rows, in, s.token_vectors + tile.begin * output.n()));
  }
  return wants_cross_kv ? StoreCrossKv(s, sequence, tile, in, scratch) : absl::OkStatus();
}

}  // namespace longdoc
