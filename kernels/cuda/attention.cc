// Attention on the device: checks, workspace, and the choice between the two forward kernels.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ranges.h"

namespace longdoc::kernels::cuda {
namespace {

constexpr int32_t kMaxHeadDim = 128;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kAlignment = 256;

bool IsGathered(const AttentionProblem& p) { return p.cu_seqlens_k != nullptr; }

bool AreRows(const Rows& rows, int64_t tokens, int64_t width) {
  if (tokens == 0) return true;
  return rows.data != nullptr && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
         rows.stride >= width && rows.stride % 8 == 0;
}

// Shapes, pointers and options as the contract has them; the content of device arrays is not seen.
bool IsSound(const AttentionArgs& args) {
  const AttentionProblem& p = args.problem;
  if (p.storage != DType::kBF16 && p.storage != DType::kF16) return false;
  if (p.head_dim <= 0 || p.head_dim > kMaxHeadDim || p.head_dim % 16 != 0) return false;
  if (p.num_heads <= 0 || p.num_kv_heads <= 0 || p.num_heads % p.num_kv_heads != 0) return false;
  if (p.num_sequences <= 0 || p.cu_seqlens == nullptr || p.slopes == nullptr) return false;
  if (!std::isfinite(p.scale) || !(args.max_slope >= 0)) return false;
  if (p.skip == SkipMode::kTolerance && !(p.epsilon > 0 && p.epsilon < 1)) return false;
  if (args.total_q < 0 || args.total_k < 0 || args.max_q > args.total_q ||
      args.max_k > args.total_k || args.max_q < 0 || args.max_k < 0) {
    return false;
  }
  // Rows and positions within a sequence are 32-bit, tiles of slack included.
  if (args.max_q > kMaxInt32 - 1024 || args.max_k > kMaxInt32 - 1024) return false;
  const AttentionMask& mask = p.mask;
  if (mask.num_global < 0) return false;
  const bool listed = mask.block_row_offsets != nullptr;
  if (listed &&
      (mask.window_radius >= 0 || mask.block_tokens <= 0 || mask.block_tokens % kKeyBlock != 0)) {
    return false;
  }
  if (IsGathered(p)) {
    if (mask.causal || mask.window_radius >= 0 || listed || p.q_positions == nullptr) return false;
    if (args.total_k > 0 && p.k_positions == nullptr) return false;
  } else if (args.total_k != args.total_q) {
    return false;
  }
  const int64_t q_width = int64_t{p.num_heads} * p.head_dim;
  const int64_t k_width = int64_t{p.num_kv_heads} * p.head_dim;
  return AreRows(args.q, args.total_q, q_width) && AreRows(args.o, args.total_q, q_width) &&
         AreRows(args.k, args.total_k, k_width) && AreRows(args.v, args.total_k, k_width) &&
         args.workspace != nullptr && reinterpret_cast<uintptr_t>(args.workspace) % 256 == 0;
}

// Hands out pieces of the workspace.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  void Take(int64_t count, T** piece) {
    *piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += RoundUp(count * static_cast<int64_t>(sizeof(T)), kAlignment);
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_;
  int64_t bytes_ = 0;
};

int64_t Carve(void* workspace, AttentionParams* p) {
  Carver carver(workspace);
  carver.Take(1, &p->next_item);
  carver.Take(p->heads, &p->head_order);
  carver.Take(p->mask.block_row_offsets == nullptr ? 0 : p->num_sequences, &p->list_rows);
  carver.Take(p->items, &p->work);
  carver.Take(p->gathered ? p->heads * p->total_q : 0, &p->row_limits);
  if (!p->norms) return carver.bytes();
  const int64_t records = p->num_sequences * p->kv_heads, tiles = p->key_slots * p->kv_heads;
  carver.Take(records, &p->key_bounds);
  carver.Take(records * p->head_dim, &p->centres);
  carver.Take(tiles, &p->left_norms);
  carver.Take(tiles, &p->right_norms);
  carver.Take(tiles, &p->raw_norms);
  carver.Take(p->heads * p->total_q, &p->row_norms);
  const int64_t sums = p->gathered && p->skip == SkipMode::kTolerance ? p->heads * p->total_k : 0;
  carver.Take(sums, &p->left_sums);
  carver.Take(sums, &p->right_sums);
  return carver.bytes();
}

}  // namespace

bool UsesSm90(const AttentionArgs& args, int major) {
  const int32_t dim = args.problem.head_dim;
  if (major != 9 || (dim != 64 && dim != 128)) return false;
  if (args.max_k >= int64_t{1} << 30) return false;  // see Narrowed()
  const AttentionMask& mask = args.problem.mask;
  if (mask.block_row_offsets == nullptr) return true;
  // Blocks must hold whole key tiles, and a tile of queries touch two of them at most.
  const TileShape tile = Sm90Tile(dim);
  return mask.block_tokens % tile.keys == 0 && mask.block_tokens >= tile.queries;
}

TileShape TileOf(const AttentionArgs& args, int major) {
  const int32_t dim = args.problem.head_dim;
  return UsesSm90(args, major) ? Sm90Tile(dim) : Sm80Tile(dim);
}

TileShape AttentionTile(int32_t head_dim, int major) {
  const bool sm90 = major == 9 && (head_dim == 64 || head_dim == 128);
  return sm90 ? Sm90Tile(head_dim) : Sm80Tile(head_dim);
}

int64_t MakeAttentionParams(const AttentionArgs& args, TileShape tile, AttentionParams* params) {
  const AttentionProblem& problem = args.problem;
  AttentionParams& p = *params;
  p = {};
  p.q = args.q.data;
  p.k = args.k.data;
  p.v = args.v.data;
  p.o = args.o.data;
  p.lse = args.lse;
  p.q_stride = args.q.stride;
  p.k_stride = args.k.stride;
  p.v_stride = args.v.stride;
  p.o_stride = args.o.stride;
  p.type = problem.storage;
  p.heads = problem.num_heads;
  p.kv_heads = problem.num_kv_heads;
  p.head_dim = problem.head_dim;
  p.num_sequences = problem.num_sequences;
  p.total_q = args.total_q;
  p.total_k = args.total_k;
  p.max_k = args.max_k;
  p.gathered = IsGathered(problem);
  p.cu_q = problem.cu_seqlens;
  p.cu_k = p.gathered ? problem.cu_seqlens_k : problem.cu_seqlens;
  p.q_positions = problem.q_positions;
  p.k_positions = problem.k_positions;
  p.slopes = problem.slopes;
  p.scale = problem.scale;
  p.mask = problem.mask;
  p.skip = problem.skip;
  p.epsilon = problem.epsilon;
  p.spread = SkipSpread(problem.skip, problem.epsilon);
  p.norms = p.skip != SkipMode::kDense && args.max_slope > 0 && args.max_k > kShortSequence;
  p.tile = tile;
  p.query_slots = args.total_q / tile.queries + p.num_sequences;
  p.key_slots = args.total_k / tile.keys + p.num_sequences;
  p.items = p.heads * p.query_slots;
  p.stats = args.stats;
  return Carve(args.workspace, params);
}

int64_t AttentionWorkspaceBytes(const AttentionArgs& args) {
  // For whichever device: the larger of both kernels' needs.
  const int32_t dim = args.problem.head_dim;
  AttentionParams params;
  return std::max(MakeAttentionParams(args, Sm80Tile(dim), &params),
                  MakeAttentionParams(args, Sm90Tile(dim), &params));
}

cudaError_t Attention(const AttentionArgs& args, cudaStream_t stream) {
  if (args.total_q == 0 || args.problem.num_sequences == 0) return cudaSuccess;
  if (!IsSound(args)) return cudaErrorInvalidValue;
  int device = 0, major = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  AttentionParams params;
  MakeAttentionParams(args, TileOf(args, major), &params);
  // Items, key tiles and position sums are numbered by grids, whose limit this is.
  if (params.items > kMaxInt32 || params.key_slots * params.kv_heads > kMaxInt32 ||
      2 * params.num_sequences * params.heads > kMaxInt32) {
    return cudaErrorInvalidValue;
  }
  error = PrepareAttention(params, stream);
  if (error != cudaSuccess) return error;
  return UsesSm90(args, major) ? LaunchAttentionSm90(params, multiprocessors, stream)
                               : LaunchAttentionSm80(params, multiprocessors, stream);
}

}  // namespace longdoc::kernels::cuda
