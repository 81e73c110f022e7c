// Keys and values of multi-query attention into their blocks, rounded to the storage type.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/primitives.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Row r goes to position positions[r] of a sequence, whose blocks lie behind a row of the page
// table; or, without pages, to position first + r of contiguous blocks.
struct StoreParams {
  int64_t rows = 0;
  int32_t dim = 0;
  DType storage = DType::kBF16;
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t stride = 0;
  bool aligned = false;  // every row of keys and of values begins at a multiple of 16 bytes
  char* blocks = nullptr;
  int64_t first = 0;
  const int32_t* positions = nullptr;
  const int32_t* sequences = nullptr;
  const char* const* pages = nullptr;
  int64_t table_stride = 0, page_offset = 0;
  uint32_t page_blocks = 1;
};

// Where a row's block is, and the row's number in it; null when it is not stored.
__device__ char* BlockOf(const StoreParams& p, int64_t row, int* within) {
  const int64_t bytes = static_cast<int64_t>(4 * kKeyBlock) * p.dim;
  if (p.pages == nullptr) {
    const int64_t position = p.first + row;
    *within = static_cast<int>(position % kKeyBlock);
    return p.blocks + position / kKeyBlock * bytes;
  }
  const int position = p.positions[row];
  if (position < 0) return nullptr;
  const int64_t sequence = p.sequences == nullptr ? row : p.sequences[row];
  const uint32_t block = static_cast<uint32_t>(position) / static_cast<uint32_t>(kKeyBlock);
  const uint32_t page = block / p.page_blocks;
  *within = static_cast<int>(static_cast<uint32_t>(position) % static_cast<uint32_t>(kKeyBlock));
  const char* at = p.pages[sequence * p.table_stride + page] + p.page_offset +
                   (block - page * p.page_blocks) * bytes;
  return const_cast<char*>(at);
}

__device__ uint32_t PackAs(DType type, float lo, float hi) {
  return type == DType::kBF16 ? Pack2<Bf16>(lo, hi) : Pack2<Fp16>(lo, hi);
}

// A thread writes 8 elements, 16 bytes: D/8 threads have a row's key, as many its value. Reads
// 8·D and writes 4·D bytes a row.
__global__ void __launch_bounds__(kThreads) MqaStoreRows(const StoreParams p) {
  const int pieces = p.dim / 8;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = at / (2 * pieces);
  if (row >= p.rows) return;
  const int piece = static_cast<int>(at - row * 2 * pieces);
  const bool value = piece >= pieces;
  const int column = (value ? piece - pieces : piece) * 8;
  const float* in = (value ? p.values : p.keys) + row * p.stride + column;
  float x[8];
  if (p.aligned) {
    const float4 lo = reinterpret_cast<const float4*>(in)[0];
    const float4 hi = reinterpret_cast<const float4*>(in)[1];
    x[0] = lo.x, x[1] = lo.y, x[2] = lo.z, x[3] = lo.w;
    x[4] = hi.x, x[5] = hi.y, x[6] = hi.z, x[7] = hi.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = in[i];
  }
  int within = 0;
  char* block = BlockOf(p, row, &within);
  if (block == nullptr) return;
  uint4 out;
  out.x = PackAs(p.storage, x[0], x[1]);
  out.y = PackAs(p.storage, x[2], x[3]);
  out.z = PackAs(p.storage, x[4], x[5]);
  out.w = PackAs(p.storage, x[6], x[7]);
  const int64_t element = (static_cast<int64_t>(value ? kKeyBlock : 0) + within) * p.dim + column;
  *reinterpret_cast<uint4*>(block + element * 2) = out;
}

cudaError_t Store(StoreParams p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.dim < 16 || p.dim % 16 != 0 || p.storage == DType::kF32) return cudaErrorInvalidValue;
  p.aligned = p.stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.keys) % 16 == 0 &&
              reinterpret_cast<uintptr_t>(p.values) % 16 == 0;
  const int64_t blocks = CeilDiv(p.rows * (p.dim / 4), kThreads);
  if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
  return Launch(MqaStoreRows, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, p);
}

}  // namespace

cudaError_t MqaStore(const MqaStoreArgs& args, cudaStream_t stream) {
  StoreParams p;
  p.rows = args.rows;
  p.dim = args.head_dim;
  p.storage = args.storage;
  p.keys = args.keys;
  p.values = args.values;
  p.stride = args.stride;
  p.blocks = static_cast<char*>(args.block);
  p.first = args.first;
  return Store(p, stream);
}

cudaError_t MqaAppend(const MqaAppendArgs& args, cudaStream_t stream) {
  if (args.rows > 0 &&
      (args.pages == nullptr || args.positions == nullptr || args.page_blocks <= 0)) {
    return cudaErrorInvalidValue;
  }
  StoreParams p;
  p.rows = args.rows;
  p.dim = args.head_dim;
  p.storage = args.storage;
  p.keys = args.keys;
  p.values = args.values;
  p.stride = args.stride;
  p.positions = args.positions;
  p.sequences = args.sequences;
  p.pages = reinterpret_cast<const char* const*>(args.pages);
  p.table_stride = args.table_stride;
  p.page_offset = args.page_offset;
  p.page_blocks = static_cast<uint32_t>(args.page_blocks);
  return Store(p, stream);
}

}  // namespace longdoc::kernels::cuda
