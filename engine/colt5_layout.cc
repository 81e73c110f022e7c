#include "engine/colt5_layout.h"

#include <algorithm>
#include <utility>

#include "engine/planner.h"
#include "kernels/decode.h"

namespace longdoc {
namespace {

// Where each sequence's routed tokens begin.
std::vector<int64_t> RoutedOffsets(const std::vector<int64_t>& cu_seqlens, double rate) {
  std::vector<int64_t> offsets = {0};
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    offsets.push_back(offsets.back() + RoutedCount(cu_seqlens[s + 1] - cu_seqlens[s], rate));
  }
  return offsets;
}

}  // namespace

Colt5Layout::Colt5Layout(const Colt5Config& c, const Backend& backend,
                         const AttentionPolicy& policy, std::vector<int64_t> offsets)
    : config(c), cu_seqlens(std::move(offsets)), backend_(backend) {
  const bool attends = c.query_rate > 0 && c.kv_rate > 0;
  cu_query = RoutedOffsets(cu_seqlens, attends ? c.query_rate : 0);
  cu_kv = RoutedOffsets(cu_seqlens, attends ? c.kv_rate : 0);
  cu_ff = RoutedOffsets(cu_seqlens, c.ff_rate);

  AttentionPolicy light_policy;
  light_policy.mode = AttentionMode::kWindow;
  light_policy.window_radius = c.light_radius;
  AttentionPolicy heavy_policy = policy;
  if (policy.mode == AttentionMode::kWindow) heavy_policy.mode = AttentionMode::kTolerance;
  light = MakeAttentionProblem(c.light_slopes, c.head_dim, backend.info(), light_policy);
  heavy = MakeAttentionProblem(c.heavy_slopes, c.head_dim, backend.info(), heavy_policy);
  light.num_sequences = heavy.num_sequences = sequences();
  light.cu_seqlens = cu_seqlens.data();
  heavy.cu_seqlens = cu_query.data();
  heavy.cu_seqlens_k = cu_kv.data();
  ExpectAttention(light_policy, heavy_policy);
}

void Colt5Layout::ExpectAttention(const AttentionPolicy& light_policy,
                                  const AttentionPolicy& heavy_policy) {
  const double layers = static_cast<double>(config.num_layers);
  auto add = [&](double fraction, int64_t width, double queries, double keys) {
    const double all = 4.0 * static_cast<double>(width) * queries * keys * layers;
    all_attention_flops_ += all;
    attention_flops_ += fraction * all;
  };
  for (int64_t s = 0; s < sequences(); ++s) {
    const int64_t n = cu_seqlens[s + 1] - cu_seqlens[s];
    add(longdoc::ExpectedTileFraction(config.light_slopes, light_policy, n), light_width(),
        static_cast<double>(n), static_cast<double>(n));
    const int64_t queries = cu_query[s + 1] - cu_query[s], keys = cu_kv[s + 1] - cu_kv[s];
    if (queries == 0) continue;
    // Blocks of gathered tokens spread over as many times more of the sequence.
    const int64_t spread = kernels::kQueryBlock * n / queries + kernels::kKeyBlock * n / keys;
    add(longdoc::ExpectedTileFraction(config.heavy_slopes, heavy_policy, n, spread), heavy_width(),
        static_cast<double>(queries), static_cast<double>(keys));
  }
}

int64_t Colt5Layout::RoutingBytes() const {
  if (!has_heavy_attention() && !has_heavy_ff()) return 0;
  const int64_t routed = cu_query.back() + cu_kv.back() + cu_ff.back();
  // The last layer's queries are kept too, for the overlap.
  return sequences() * RoutingStats::kNumRouters * static_cast<int64_t>(sizeof(RoutingTally)) +
         4 * (2 * tokens() + 3 * routed + cu_query.back());
}

int64_t Colt5Layout::Bytes() const {
  int64_t bytes = tokens() * config.hidden_size * 4 + backend_.AttentionBytes(light) +
                  RoutingBytes() + cu_ff.back() * config.hidden_size * 4 +
                  backend_.PlacedBytes(4 * tokens());
  if (has_heavy_attention()) bytes += backend_.AttentionBytes(heavy);
  return bytes;
}

int64_t Colt5Layout::TokenVectorBytes() const { return tokens() * config.output_size * 4; }

int64_t Colt5Layout::CrossKvBytes(size_t sequence, DType storage) const {
  const int64_t n = cu_seqlens[sequence + 1] - cu_seqlens[sequence];
  return config.decoder_layers * kernels::CeilDiv(n, kernels::kKeyBlock) *
         kernels::MqaBlockBytes(static_cast<int32_t>(config.head_dim), storage);
}

int64_t Colt5Layout::ScratchBytes() const {
  const int64_t inner = std::max(config.light_ff_size, config.heavy_ff_size);
  const int64_t wide = std::max({3 * light_width(), 2 * heavy_width(), 2 * inner,
                                 2 * config.decoder_layers * config.head_dim});
  const int64_t input = std::max({config.hidden_size, light_width(), heavy_width()});
  const int64_t gemm = static_cast<int64_t>(kernels::SizeOf(backend_.info().gemm_type));
  return backend_.info().token_tile * (4 * (wide + config.hidden_size) + gemm * (input + inner));
}

double Colt5Layout::DenseFlops(size_t sequence, bool cross_kv) const {
  const int64_t n = cu_seqlens[sequence + 1] - cu_seqlens[sequence];
  return longdoc::DenseFlops(config, n) + (cross_kv ? CrossKvFlops(config, n) : 0);
}

}  // namespace longdoc
