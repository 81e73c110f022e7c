#include "kernels/cuda/attention_layer.h"

#include <algorithm>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/runtime.h"

namespace longdoc::kernels::cuda {
namespace {

// Of one call.
constexpr double kGroupFlops = 2e13;
// What skipping is taken to leave of a long sequence's tiles.
constexpr double kSkippedFraction = 0.125;

const int64_t* KeyOffsets(const AttentionProblem& p) {
  return p.cu_seqlens_k != nullptr ? p.cu_seqlens_k : p.cu_seqlens;
}

int64_t Longest(const int64_t* offsets, int64_t sequences) {
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    longest = std::max(longest, offsets[s + 1] - offsets[s]);
  }
  return longest;
}

float MaxSlope(const float* slopes, int32_t heads) {
  return slopes == nullptr ? 1.0f : *std::max_element(slopes, slopes + heads);
}

// Of the whole problem, from its arrays on the host.
AttentionArgs ArgsOf(const AttentionProblem& p) {
  AttentionArgs args;
  args.problem = p;
  args.total_q = p.cu_seqlens[p.num_sequences];
  args.total_k = KeyOffsets(p)[p.num_sequences];
  args.max_q = Longest(p.cu_seqlens, p.num_sequences);
  args.max_k = Longest(KeyOffsets(p), p.num_sequences);
  args.max_slope = MaxSlope(p.slopes, p.num_heads);
  return args;
}

Rows RowsAt(void* base, int64_t element, int64_t stride) {
  return {static_cast<uint16_t*>(base) + element, stride};
}

}  // namespace

AttentionLayer::AttentionLayer(Runtime& runtime, const AttentionProblem& problem)
    : rt_(runtime), host_(problem), arrays_(problem) {
  if (problem.cu_seqlens[problem.num_sequences] > 0) PlanGroups();
}

AttentionLayer::Sizes AttentionLayer::SizesOf(const AttentionProblem& problem) {
  const AttentionArgs args = ArgsOf(problem);
  const int64_t row = 2 * problem.head_dim;
  return {args.total_q * problem.num_heads * row, 2 * args.total_k * problem.num_kv_heads * row,
          AttentionWorkspaceBytes(args)};
}

void AttentionLayer::Bind(const AttentionProblem& arrays, void* q, void* kv, void* workspace,
                          AttentionStats* stats) {
  arrays_ = arrays;
  q_ = q;
  kv_ = kv;
  workspace_ = workspace;
  stats_ = stats;
}

// Cut by heads, each of which sees all of the problem.
void AttentionLayer::PlanGroups() {
  const int64_t *queries = host_.cu_seqlens, *keys = KeyOffsets(host_);
  double pairs = 0;
  for (int64_t s = 0; s < host_.num_sequences; ++s) {
    double visible = static_cast<double>(keys[s + 1] - keys[s]);
    if (host_.mask.window_radius >= 0) {
      const int64_t window = 2 * (host_.mask.window_radius + kQueryBlock) + host_.mask.num_global;
      visible = std::min(visible, static_cast<double>(window));
    }
    pairs += static_cast<double>(queries[s + 1] - queries[s]) * visible;
  }
  if (host_.skip != SkipMode::kDense) pairs *= kSkippedFraction;
  const double flops = 4.0 * host_.head_dim * host_.num_heads * pairs;
  const double groups = 1 + std::min(flops / kGroupFlops, host_.num_kv_heads - 1.0);
  heads_per_group_ =
      static_cast<int32_t>(CeilDiv(host_.num_kv_heads, static_cast<int64_t>(groups)));
  num_groups_ = static_cast<int32_t>(CeilDiv(host_.num_kv_heads, heads_per_group_));
}

void AttentionLayer::Store(int64_t begin, int64_t rows, const float* in, int64_t stride,
                           int64_t width, void* out) {
  ConvertArgs args;
  args.rows = rows;
  args.columns = args.out_stride = width;
  args.in_stride = stride;
  args.out_type = DType::kBF16;
  args.in = in;
  args.out = static_cast<uint16_t*>(out) + begin * width;
  rt_.Note(Convert(args, rt_.stream()), "storing attention rows");
}

void AttentionLayer::StoreQueries(int64_t begin, int64_t rows, const float* q, int64_t stride) {
  Store(begin, rows, q, stride, int64_t{host_.num_heads} * host_.head_dim, q_);
}

void AttentionLayer::StoreKeysValues(int64_t begin, int64_t rows, const float* kv, int64_t stride) {
  Store(begin, rows, kv, stride, 2 * int64_t{host_.num_kv_heads} * host_.head_dim, kv_);
}

void AttentionLayer::Attend(int32_t group) {
  const int32_t share = host_.num_heads / host_.num_kv_heads;  // query heads of one kv head
  const int32_t kv_head = group * heads_per_group_, head = kv_head * share;
  const int64_t q_width = int64_t{host_.num_heads} * host_.head_dim;
  const int64_t k_width = int64_t{host_.num_kv_heads} * host_.head_dim;
  AttentionArgs args = ArgsOf(host_);
  args.problem = arrays_;
  args.problem.storage = DType::kBF16;
  args.problem.num_kv_heads = std::min(heads_per_group_, host_.num_kv_heads - kv_head);
  args.problem.num_heads = args.problem.num_kv_heads * share;
  args.problem.slopes += head;
  args.max_slope = MaxSlope(host_.slopes + head, args.problem.num_heads);
  args.q = args.o = RowsAt(q_, int64_t{head} * host_.head_dim, q_width);
  args.k = RowsAt(kv_, int64_t{kv_head} * host_.head_dim, 2 * k_width);
  args.v = RowsAt(kv_, k_width + int64_t{kv_head} * host_.head_dim, 2 * k_width);
  args.workspace = workspace_;
  args.stats = stats_;
  rt_.Note(Attention(args, rt_.stream()), "attention");
}

const void* AttentionLayer::Outputs(int64_t begin) const {
  return static_cast<const uint16_t*>(q_) + begin * host_.num_heads * host_.head_dim;
}

AttentionStats AttentionLayer::InHostTiles(AttentionStats stats) const {
  const TileShape shape = AttentionTile(host_.head_dim, rt_.major());
  const int64_t tile = int64_t{shape.queries} * shape.keys;
  constexpr int64_t kHostTile = kQueryBlock * kKeyBlock;
  stats.tiles_computed = stats.tiles_computed * tile / kHostTile;
  stats.tiles_dense = stats.tiles_dense * tile / kHostTile;
  return stats;
}

}  // namespace longdoc::kernels::cuda
