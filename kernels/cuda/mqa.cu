// Multi-query attention: what the host decides, and the merge of partial results.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"
#include "kernels/cuda/mqa_params.h"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kMergeThreads = 256;
constexpr int kMergeWarps = kMergeThreads / 32;
constexpr int kMaxDim = 128;
constexpr int64_t kMaxIndex = 0x7fffffff;

struct MergeParams {
  int32_t rows = 0, dim = 0, splits = 0;
  int32_t warps = 1;               // that share a row: 1, or all of a thread block
  const float* partial = nullptr;  // [splits, rows, D]
  const float2* stats = nullptr;   // [splits, rows]
  DType out_type = DType::kF32;
  void* out = nullptr;
};

__device__ void StoreOne(DType type, void* out, int64_t at, float x) {
  if (type == DType::kF32) {
    static_cast<float*>(out)[at] = x;
  } else {
    static_cast<uint16_t*>(out)[at] =
        type == DType::kBF16 ? FromFloat<Bf16>(x).bits : FromFloat<Fp16>(x).bits;
  }
}

__device__ float WarpMax(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
__device__ float WarpSum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// out[row] = sum over splits of 2^(max of split - max of all) · partial, normalised. D/4 lanes take
// one split of a row, 16 bytes each; a warp holds as many such slices as fit, a row `warps` times
// as many. Slices go through the splits in steps, and are summed in order: deterministic.
//
// Bytes: splits · rows · (4·D + 8), from L2, where the attention kernel has just left them: 0.3 MB
// at 8 rows, 132 splits and D = 64. Four loads of a slice are on their way at once.
__global__ void __launch_bounds__(kMergeThreads) MqaMergeRows(const MergeParams p) {
  __shared__ float shared[kMergeWarps * kMaxDim];  // [warp][slice][D]: at most 128 a warp
  __shared__ float totals[kMergeWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int block_rows = kMergeWarps / p.warps;
  const int row = blockIdx.x * block_rows + warp / p.warps;
  const int lanes = p.dim / 4, slices = 32 / lanes;
  if (row < p.rows) {
    float top = -INFINITY;
    for (int s = lane; s < p.splits; s += 32) {
      top = fmaxf(top, p.stats[static_cast<int64_t>(s) * p.rows + row].x);
    }
    top = WarpMax(top);
    const float reference = top == -INFINITY ? 0.0f : top;
    float total = 0.0f;
    for (int s = lane; s < p.splits; s += 32) {
      const float2 stats = p.stats[static_cast<int64_t>(s) * p.rows + row];
      total = fmaf(Exp2(stats.x - reference), stats.y, total);
    }
    total = WarpSum(total);
    if (lane == 0) totals[warp] = total;
    if (lane < slices * lanes) {
      const int step = slices * p.warps;
      float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
      for (int s = warp % p.warps * slices + lane / lanes; s < p.splits; s += step) {
        const int64_t at = static_cast<int64_t>(s) * p.rows + row;
        const float factor = Exp2(p.stats[at].x - reference);
        const float4 o =
            *reinterpret_cast<const float4*>(p.partial + at * p.dim + lane % lanes * 4);
        sum.x = fmaf(factor, o.x, sum.x);
        sum.y = fmaf(factor, o.y, sum.y);
        sum.z = fmaf(factor, o.z, sum.z);
        sum.w = fmaf(factor, o.w, sum.w);
      }
      *reinterpret_cast<float4*>(shared + warp * kMaxDim + lane * 4) = sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < block_rows * p.dim; i += kMergeThreads) {
    const int local = i / p.dim, column = i % p.dim;
    const int out_row = blockIdx.x * block_rows + local;
    if (out_row >= p.rows) break;
    float sum = 0.0f;
    for (int w = 0; w < p.warps; ++w) {
      const float* slice = shared + (local * p.warps + w) * kMaxDim + column;
      for (int s = 0; s < slices; ++s) sum += slice[s * p.dim];
    }
    const float total = totals[local * p.warps];
    StoreOne(p.out_type, p.out, static_cast<int64_t>(out_row) * p.dim + column,
             total == 0.0f ? 0.0f : sum / total);
  }
}

cudaError_t Merge(const MqaParams& p, cudaStream_t stream) {
  MergeParams merge;
  merge.rows = p.rows;
  merge.dim = p.dim;
  merge.splits = p.splits;
  merge.warps = p.splits >= 16 ? kMergeWarps : 1;
  merge.partial = p.partial;
  merge.stats = p.stats;
  merge.out_type = p.out_type;
  merge.out = p.out;
  const int64_t blocks = CeilDiv(p.rows, kMergeWarps / merge.warps);
  return Launch(MqaMergeRows, dim3(static_cast<unsigned>(blocks)), dim3(kMergeThreads), 0, stream,
                merge);
}

int64_t MaxRows(const MqaArgs& args) {
  return args.sequences == 1 ? args.partial.rows : args.max_rows;
}

cudaError_t Plan(const MqaArgs& args, MqaPlan* plan) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  *plan = PlanMqa(MaxRows(args), args.sequences, args.partial.keys.keys, multiprocessors);
  return cudaSuccess;
}

bool Valid(const MqaArgs& args) {
  const MqaPartialArgs& a = args.partial;
  const bool paged = a.keys.pages != nullptr;
  return a.keys.head_dim >= 16 && a.keys.head_dim <= kMaxDim && a.keys.head_dim % 16 == 0 &&
         a.keys.storage != DType::kF32 && a.keys.keys >= 0 && a.keys.keys <= kMaxIndex &&
         a.rows <= kMaxIndex && a.scale > 0 && std::isfinite(a.scale) &&
         (!paged || (a.keys.page_blocks > 0 && a.keys.page_blocks <= kMaxIndex)) &&
         (a.slopes != nullptr) == (a.positions != nullptr) && args.heads >= 0 &&
         args.q_stride % 2 == 0 && args.sequences >= 1 && MaxRows(args) <= a.rows &&
         (args.sequences == 1 || (args.cu_rows != nullptr && paged && MaxRows(args) > 0));
}

MqaParams ParamsOf(const MqaArgs& args, const MqaPlan& plan) {
  const MqaPartialArgs& a = args.partial;
  MqaParams p;
  p.blocks.blocks = static_cast<const char*>(a.keys.blocks);
  p.blocks.pages = reinterpret_cast<const char* const*>(a.keys.pages);
  p.blocks.table_stride = args.table_stride;
  p.blocks.page_offset = args.page_offset;
  if (a.keys.pages != nullptr) p.blocks.page_blocks = static_cast<uint32_t>(a.keys.page_blocks);
  p.dim = a.keys.head_dim;
  p.keys = static_cast<int32_t>(a.keys.keys);
  p.key_counts = args.key_counts;
  p.rows = static_cast<int32_t>(a.rows);
  p.row_tiles = static_cast<int32_t>(plan.row_tiles);
  p.cu_rows = args.cu_rows;
  p.q = a.q;
  p.q_stride = args.q_stride;
  p.heads = args.heads;
  p.scale_log2 = a.scale * 1.44269504f;
  p.slopes = a.slopes;
  p.positions = a.positions;
  p.splits = static_cast<int32_t>(plan.splits);
  p.partial = static_cast<float*>(args.workspace);
  p.stats = reinterpret_cast<float2*>(p.partial + plan.splits * a.rows * p.dim);
  p.out_type = args.out_type;
  p.out = args.out;
  return p;
}

}  // namespace

int64_t MqaWorkspaceBytes(const MqaArgs& args) {
  MqaPlan plan;
  if (Plan(args, &plan) != cudaSuccess || plan.splits == 1) return 0;
  return plan.splits * args.partial.rows *
         (args.partial.keys.head_dim * static_cast<int64_t>(sizeof(float)) +
          static_cast<int64_t>(sizeof(float2)));
}

int64_t MqaWorkspaceBytes(int64_t rows, int64_t keys, int32_t head_dim) {
  MqaArgs args;
  args.partial.rows = rows;
  args.partial.keys.keys = keys;
  args.partial.keys.head_dim = head_dim;
  return MqaWorkspaceBytes(args);
}

cudaError_t Mqa(const MqaArgs& args, cudaStream_t stream) {
  if (args.partial.rows == 0) return cudaSuccess;
  if (!Valid(args)) return cudaErrorInvalidValue;
  MqaPlan plan;
  cudaError_t error = Plan(args, &plan);
  if (error != cudaSuccess) return error;
  if (plan.row_tiles * args.sequences > kMaxIndex) return cudaErrorInvalidValue;
  const MqaParams params = ParamsOf(args, plan);
  error = args.partial.keys.storage == DType::kBF16
              ? LaunchMqaBf16(plan, args.sequences, params, stream)
              : LaunchMqaFp16(plan, args.sequences, params, stream);
  if (error != cudaSuccess || plan.splits == 1) return error;
  return Merge(params, stream);
}

}  // namespace longdoc::kernels::cuda
