// How large everything in a longdoc-CoLT5 pass is. The plan and the pass both ask here, so that
// they cannot disagree.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/model/colt5_config.h"
#include "engine/options.h"
#include "engine/tensor.h"

namespace longdoc {

// Packed sequences, how many of their tokens each router takes, and the two attentions.
class Colt5Layout {
 public:
  // `cu_seqlens`: [B+1]. The configuration and the backend outlive the layout.
  Colt5Layout(const Colt5Config& config, const Backend& backend, const AttentionPolicy& policy,
              std::vector<int64_t> cu_seqlens);
  Colt5Layout(const Colt5Layout&) = delete;
  Colt5Layout& operator=(const Colt5Layout&) = delete;

  int64_t sequences() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
  int64_t tokens() const { return cu_seqlens.back(); }
  // Without a routed query or a routed key heavy attention adds nothing, and neither is routed.
  bool has_heavy_attention() const { return cu_query.back() > 0; }
  bool has_heavy_ff() const { return cu_ff.back() > 0; }
  // Widths of attention rows, HL·D and HH·D.
  int64_t light_width() const { return config.light_heads * config.head_dim; }
  int64_t heavy_width() const { return config.heavy_heads * config.head_dim; }

  // What a pass allocates, results apart.
  int64_t Bytes() const;
  // Tallies [B, routers]; scores [2, T]; positions, rows and weights of each router.
  int64_t RoutingBytes() const;
  int64_t TokenVectorBytes() const;
  int64_t CrossKvBytes(size_t sequence, DType storage) const;
  int64_t ScratchBytes() const;  // of one worker

  // FLOPs of all layers. Attention: of the tiles that the policy is expected to leave, and of all.
  double DenseFlops(size_t sequence, bool cross_kv) const;
  double ExpectedAttentionFlops() const { return attention_flops_; }
  double ExpectedTileFraction() const { return attention_flops_ / all_attention_flops_; }

  const Colt5Config& config;
  const std::vector<int64_t> cu_seqlens;
  std::vector<int64_t> cu_query, cu_kv, cu_ff;  // [B+1] of the routed tokens
  // Sequences and heads; pointers to memory and positions are left null. `light` has its window;
  // `heavy` follows the policy, which for kWindow, that cannot apply to routed tokens, is
  // kTolerance.
  kernels::AttentionProblem light, heavy;

 private:
  void ExpectAttention(const AttentionPolicy& light_policy, const AttentionPolicy& heavy_policy);

  const Backend& backend_;
  double attention_flops_ = 0, all_attention_flops_ = 0;
};

}  // namespace longdoc
