#include "engine/planner.h"

#include <algorithm>
#include <cmath>

namespace longdoc {

namespace k = kernels;

int64_t PlanPassBytes(const EncoderConfig& config, const Backend& backend,
                      const AttentionPolicy& policy, int64_t tokens) {
  const int64_t cu_seqlens[] = {0, tokens};
  k::AttentionProblem problem =
      MakeAttentionProblem(config.slopes, config.head_dim, backend.info(), policy);
  problem.num_sequences = 1;
  problem.cu_seqlens = cu_seqlens;
  return tokens * config.hidden_size * static_cast<int64_t>(sizeof(float)) +
         backend.AttentionBytes(problem) +
         backend.PlacedBytes(tokens * static_cast<int64_t>(sizeof(int32_t)));
}

int64_t DeviceMemoryPlan::DocumentBytes() const {
  const auto with_margin = [](int64_t bytes) { return bytes + bytes / 8; };
  const int64_t left = device_bytes - with_margin(weight_bytes + scratch_bytes + fixed_bytes);
  return std::max<int64_t>(0, left / 9 * 8);
}

int64_t TileRows(const BackendInfo& backend, int64_t rows) {
  const int64_t share = k::RoundUp(k::CeilDiv(rows, backend.num_workers), 32);
  return std::min(backend.token_tile, share);
}

k::AttentionProblem MakeAttentionProblem(absl::Span<const float> slopes, int64_t head_dim,
                                         const BackendInfo& backend,
                                         const AttentionPolicy& policy) {
  k::AttentionProblem p;
  p.num_heads = p.num_kv_heads = static_cast<int32_t>(slopes.size());
  p.head_dim = static_cast<int32_t>(head_dim);
  p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  p.slopes = slopes.data();
  p.storage = backend.storage_type;
  switch (policy.mode) {
    case AttentionMode::kTolerance:
      p.skip = k::SkipMode::kTolerance;
      p.epsilon = policy.epsilon;
      break;
    case AttentionMode::kExact:
      p.skip = k::SkipMode::kExact;
      break;
    case AttentionMode::kWindow:
      p.mask.window_radius = policy.window_radius;
      p.mask.num_global = policy.num_global;
      break;
    case AttentionMode::kDense:
      break;
  }
  return p;
}

int64_t PlanScratchBytes(const EncoderConfig& config, const BackendInfo& backend) {
  const int64_t wide = std::max(3 * config.hidden_size, 2 * config.intermediate_size);
  const int64_t narrow = std::max(config.hidden_size, config.intermediate_size);
  return backend.token_tile * (wide + narrow + 2 * config.hidden_size) *
         static_cast<int64_t>(sizeof(float));
}

double ExpectedTileFraction(absl::Span<const float> slopes, const AttentionPolicy& policy,
                            int64_t tokens, int64_t block_tokens) {
  constexpr double kTypicalLogitBound = 20;
  const double n = static_cast<double>(tokens);
  double visited = 0;
  for (float slope : slopes) {
    double reach = n;
    if (policy.mode == AttentionMode::kWindow) {
      reach = static_cast<double>(policy.window_radius);
    } else if (policy.mode != AttentionMode::kDense && slope > 0) {
      const double nats = policy.mode == AttentionMode::kExact
                              ? 2 * kTypicalLogitBound + 87.4
                              : kTypicalLogitBound + std::log(2 / policy.epsilon);
      reach = nats / slope;
    }
    // Both sides, cut at the ends of the sequence, plus the tiles that the diagonal block touches.
    const double d = std::min(reach + static_cast<double>(block_tokens), n);
    visited += (2 * d * n - d * d) / (n * n);
  }
  return std::min(1.0, visited / static_cast<double>(slopes.size()));
}

double AttentionTileFlops(int64_t head_dim) {
  return 4.0 * k::kQueryBlock * k::kKeyBlock * static_cast<double>(head_dim);
}

double DenseAttentionFlops(const EncoderConfig& config, int64_t tokens) {
  const double n = static_cast<double>(tokens);
  return 4.0 * static_cast<double>(config.hidden_size * config.num_layers) * n * n;
}

}  // namespace longdoc
