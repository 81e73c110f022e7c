// Layer and RMS normalisation of rows: Embed, AddLayerNorm, RmsNorm.
//
// A row is read from memory once and kept in the registers of a team of threads (16 for C <= 64, a
// warp to 1024, a block of 128 to 4096), four elements a thread and access; mean and variance are
// then two exact passes over registers. Every kernel only waits for memory; bytes per row:
//   AddLayerNorm  12·C (input, residual, output), with the bf16 copy 14·C
//   Embed         (4 or 2)·C of the table, 4·C out, with the bf16 copy 2·C more
//   RmsNorm       4·C in, (4 or 2)·C out, 4 for every score
// Weights come from L1 after the first rows. Rows that are longer, not a multiple of four or not
// aligned take a block each and are read three times, twice from cache.
#include <cstdint>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device/platform.h"
#include "kernels/cuda/device/rows.cuh"

namespace longdoc::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxDim = 4096;  // of rows in registers

// ---- a row and its threads ---------------------------------------------------------------------

// kTeam threads (16, 32 or the block) share a row; thread i holds the packs i, i + kTeam, … of four
// elements, kPacks at most. Teams beyond the last row take part in the sums, with nothing.
template <int kTeam, int kPacks>
struct VectorTeam {
  static constexpr int kRows = kThreads / kTeam;
  static constexpr int kElements = 4 * kPacks;  // a thread's part
  int64_t row;
  int dim;  // 0 for a row that does not exist
  int first;

  __device__ VectorTeam(int64_t rows, int64_t row_dim)
      : row(int64_t{blockIdx.x} * kRows + threadIdx.x / kTeam),
        dim(row < rows ? static_cast<int>(row_dim) : 0),
        first(4 * static_cast<int>(threadIdx.x % kTeam)) {}

  // f(column, the thread's four elements of it)
  template <class F>
  __device__ __forceinline__ void ForEach(float (&v)[kElements], const F& f) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int column = first + p * 4 * kTeam;
      if (column < dim) f(column, reinterpret_cast<float(&)[4]>(v[4 * p]));
    }
  }
  __device__ __forceinline__ float Sum(float value) const {
    if constexpr (kTeam <= 32) {
      return TeamSum<kTeam>(value);
    } else {
      float sums[1] = {value};
      BlockSum<kThreads>(sums);
      return sums[0];
    }
  }
};

// ---- layer normalisation -----------------------------------------------------------------------

struct LayerNormParams {
  int64_t rows, dim;
  const float* gamma;  // null: the rows as they are
  const float* beta;
  float epsilon;
  float* out;
  int64_t out_stride;
  Bf16* out_bf16;
};

// Where the rows come from. Both hand out 1 or 4 elements; `out` may be one of the inputs.
struct SumSource {
  const float* a;
  int64_t a_stride;
  const float* residual;  // or null
  int64_t dim;

  struct Row {
    const float *a, *residual;
    template <int N>
    __device__ __forceinline__ void Load(int column, float (&v)[N]) const {
      LoadVector(a + column, v);
    }
    template <int N>
    __device__ __forceinline__ void LoadOther(int column, float (&v)[N]) const {
      LoadVector(residual + column, v);
    }
    __device__ bool HasOther() const { return residual != nullptr; }
  };
  __device__ Row At(int64_t row) const {
    return {a + row * a_stride, residual != nullptr ? residual + row * dim : nullptr};
  }
};

template <class T>
struct TableSource {
  const int32_t* ids;
  const T* word;
  const float* type;  // or null
  int64_t dim;

  struct Row {
    const T* word;
    const float* type;
    template <int N>
    __device__ __forceinline__ void Load(int column, float (&v)[N]) const {
      LoadVector(word + column, v);
    }
    template <int N>
    __device__ __forceinline__ void LoadOther(int column, float (&v)[N]) const {
      LoadVector(type + column, v);
    }
    __device__ bool HasOther() const { return type != nullptr; }
  };
  __device__ Row At(int64_t row) const { return {word + int64_t{ids[row]} * dim, type}; }
};

// N elements of a normalised row from column `column` on.
template <int N>
__device__ __forceinline__ void StoreNormalized(const LayerNormParams& p, int64_t row, int column,
                                                float mean, float inverse, float (&v)[N]) {
  if (p.gamma != nullptr) {
    float gamma[N], beta[N] = {};
    LoadVector(p.gamma + column, gamma);
    if (p.beta != nullptr) LoadVector(p.beta + column, beta);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = fmaf((v[i] - mean) * inverse, gamma[i], beta[i]);
  }
  StoreVector(p.out + row * p.out_stride + column, v);
  if (p.out_bf16 != nullptr) StoreVector(p.out_bf16 + row * p.dim + column, v);
}

template <int kTeam, int kPacks, class Source>
__global__ void __launch_bounds__(kThreads) LayerNormRows(LayerNormParams p, Source source) {
  using Team = VectorTeam<kTeam, kPacks>;
  const Team team(p.rows, p.dim);
  float v[Team::kElements] = {}, other[Team::kElements] = {};
  if (team.dim > 0) {
    // All loads are under way before the first is waited for.
    const auto row = source.At(team.row);
    team.ForEach(v, [&](int column, float(&x)[4]) { row.Load(column, x); });
    if (row.HasOther()) {
      team.ForEach(other, [&](int column, float(&x)[4]) { row.LoadOther(column, x); });
#pragma unroll
      for (int i = 0; i < Team::kElements; ++i) v[i] += other[i];
    }
  }
  float mean = 0, inverse = 1;
  if (p.gamma != nullptr) {  // for all threads alike
    const float dim = static_cast<float>(p.dim);
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < Team::kElements; ++i) sum += v[i];
    mean = team.Sum(sum) / dim;
    team.ForEach(v, [&](int, float(&x)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) squares = fmaf(x[i] - mean, x[i] - mean, squares);
    });
    inverse = 1 / sqrtf(team.Sum(squares) / dim + p.epsilon);
  }
  team.ForEach(
      v, [&](int column, float(&x)[4]) { StoreNormalized(p, team.row, column, mean, inverse, x); });
}

// Any dim and alignment: a block per row, an element at a time.
template <class Source>
__global__ void __launch_bounds__(kThreads) LayerNormAnyRows(LayerNormParams p, Source source) {
  const int64_t r = blockIdx.x;
  const int dim = static_cast<int>(p.dim), first = static_cast<int>(threadIdx.x);
  const auto row = source.At(r);
  const auto load = [&](int column) {
    float x[1], other[1] = {};
    row.Load(column, x);
    if (row.HasOther()) row.LoadOther(column, other);
    return x[0] + other[0];
  };
  float mean = 0, inverse = 1;
  if (p.gamma != nullptr) {
    float sums[1] = {};
    for (int c = first; c < dim; c += kThreads) sums[0] += load(c);
    BlockSum<kThreads>(sums);
    mean = sums[0] / static_cast<float>(dim);
    sums[0] = 0;
    for (int c = first; c < dim; c += kThreads)
      sums[0] = fmaf(load(c) - mean, load(c) - mean, sums[0]);
    BlockSum<kThreads>(sums);
    inverse = 1 / sqrtf(sums[0] / static_cast<float>(dim) + p.epsilon);
  }
  for (int c = first; c < dim; c += kThreads) {
    float x[1] = {load(c)};
    StoreNormalized(p, r, c, mean, inverse, x);
  }
}

// ---- RMS normalisation -------------------------------------------------------------------------

__device__ __forceinline__ int64_t SourceRow(const RmsNormArgs& p, int64_t row) {
  return p.indices != nullptr ? p.indices[row] : row;
}

// N elements of row `row`, normalised but not scaled: stored and added to the scores.
template <int N>
__device__ __forceinline__ void FinishRms(const RmsNormArgs& p, int64_t row, int column,
                                          float inverse, float scale, const float (&x)[N],
                                          float (&dots)[2]) {
  float y[N], weight[N];
  LoadVector(p.gamma + column, weight);
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] = x[i] * inverse * weight[i];
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (s >= p.num_routers) continue;
    LoadVector(p.routers[s] + column, weight);
#pragma unroll
    for (int i = 0; i < N; ++i) dots[s] = fmaf(y[i], weight[i], dots[s]);
  }
  if (p.out == nullptr) return;
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] *= scale;
  if (p.out_type == DType::kF32) {
    StoreVector(static_cast<float*>(p.out) + row * p.dim + column, y);
  } else {
    StoreVector(static_cast<Bf16*>(p.out) + row * p.dim + column, y);
  }
}

template <int kTeam, int kPacks>
__global__ void __launch_bounds__(kThreads) RmsNormRows(RmsNormArgs p) {
  using Team = VectorTeam<kTeam, kPacks>;
  const Team team(p.rows, p.dim);
  float v[Team::kElements] = {}, scale = 1, squares = 0, dots[2] = {};
  if (team.dim > 0) {
    const float* x = p.x + SourceRow(p, team.row) * p.x_stride;
    team.ForEach(v, [&](int column, float(&four)[4]) { LoadVector(x + column, four); });
    if (p.row_scale != nullptr) scale = p.row_scale[team.row];
  }
#pragma unroll
  for (int i = 0; i < Team::kElements; ++i) squares = fmaf(v[i], v[i], squares);
  const float inverse = 1 / sqrtf(team.Sum(squares) / static_cast<float>(p.dim) + p.epsilon);
  team.ForEach(v, [&](int column, float(&four)[4]) {
    FinishRms(p, team.row, column, inverse, scale, four, dots);
  });
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (s >= p.num_routers) continue;
    const float score = team.Sum(dots[s]);
    if (team.dim > 0 && team.first == 0) p.scores[s][team.row] = score;
  }
}

__global__ void __launch_bounds__(kThreads) RmsNormAnyRows(RmsNormArgs p) {
  const int64_t row = blockIdx.x;
  const int dim = static_cast<int>(p.dim), first = static_cast<int>(threadIdx.x);
  const float* x = p.x + SourceRow(p, row) * p.x_stride;
  float squares[1] = {}, dots[2] = {};
  for (int c = first; c < dim; c += kThreads) squares[0] = fmaf(x[c], x[c], squares[0]);
  BlockSum<kThreads>(squares);
  const float inverse = 1 / sqrtf(squares[0] / static_cast<float>(dim) + p.epsilon);
  const float scale = p.row_scale != nullptr ? p.row_scale[row] : 1.0f;
  for (int c = first; c < dim; c += kThreads) {
    const float one[1] = {x[c]};
    FinishRms(p, row, c, inverse, scale, one, dots);
  }
  if (p.num_routers == 0) return;
  BlockSum<kThreads>(dots);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    if (s < p.num_routers && first == 0) p.scores[s][row] = dots[s];
  }
}

// ---- launches ----------------------------------------------------------------------------------

constexpr int64_t kMaxRows = 0x7fffffff;  // a grid's limit

cudaError_t CheckRows(int64_t rows, int64_t dim) {
  return rows >= 0 && rows <= kMaxRows && dim > 0 && dim <= 0x7fffffff - kThreads
             ? cudaSuccess
             : cudaErrorInvalidValue;
}

template <class Source>
cudaError_t LaunchLayerNorm(const LayerNormParams& p, const Source& source, bool vector,
                            cudaStream_t stream) {
  const dim3 block(kThreads);
  const auto launch = [&](auto* kernel, int rows_per_block) {
    return Launch(kernel, GridOf(p.rows, rows_per_block), block, 0, stream, p, source);
  };
  if (!vector || p.dim > kMaxDim) return launch(LayerNormAnyRows<Source>, 1);
  if (p.dim <= 64) return launch(LayerNormRows<16, 1, Source>, 8);
  if (p.dim <= 128) return launch(LayerNormRows<32, 1, Source>, 4);
  if (p.dim <= 256) return launch(LayerNormRows<32, 2, Source>, 4);
  if (p.dim <= 512) return launch(LayerNormRows<32, 4, Source>, 4);
  if (p.dim <= 1024) return launch(LayerNormRows<32, 8, Source>, 4);
  return launch(LayerNormRows<kThreads, 8, Source>, 1);
}

// Whether what all layer norms read and write allows vector accesses, for rows of `dim` elements.
bool VectorParams(const LayerNormParams& p) {
  return p.dim % 4 == 0 && VectorRows(p.gamma, 0) && VectorRows(p.beta, 0) &&
         VectorRows(p.out, p.out_stride) && reinterpret_cast<uintptr_t>(p.out_bf16) % 8 == 0;
}

template <class T>
cudaError_t EmbedFrom(const EmbedArgs& args, const LayerNormParams& p, cudaStream_t stream) {
  const TableSource<T> source = {args.ids, static_cast<const T*>(args.word), args.type, args.dim};
  const bool vector = VectorParams(p) && reinterpret_cast<uintptr_t>(args.word) % 16 == 0 &&
                      VectorRows(args.type, 0);
  return LaunchLayerNorm(p, source, vector, stream);
}

}  // namespace

cudaError_t AddLayerNorm(const AddLayerNormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (CheckRows(args.rows, args.dim) != cudaSuccess) return cudaErrorInvalidValue;
  const LayerNormParams p = {
      args.rows,    args.dim, args.gamma,      args.beta,
      args.epsilon, args.out, args.out_stride, reinterpret_cast<Bf16*>(args.out_bf16)};
  const SumSource source = {args.a, args.a_stride, args.residual, args.dim};
  const bool vector =
      VectorParams(p) && VectorRows(args.a, args.a_stride) && VectorRows(args.residual, 0);
  return LaunchLayerNorm(p, source, vector, stream);
}

cudaError_t Embed(const EmbedArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (CheckRows(args.rows, args.dim) != cudaSuccess) return cudaErrorInvalidValue;
  const LayerNormParams p = {
      args.rows,    args.dim, args.gamma, args.beta,
      args.epsilon, args.out, args.dim,   reinterpret_cast<Bf16*>(args.out_bf16)};
  switch (args.table_type) {
    case DType::kF32:
      return EmbedFrom<float>(args, p, stream);
    case DType::kBF16:
      return EmbedFrom<Bf16>(args, p, stream);
    case DType::kF16:
      return EmbedFrom<Fp16>(args, p, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t RmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (CheckRows(args.rows, args.dim) != cudaSuccess || args.num_routers < 0 ||
      args.num_routers > 2 || args.out_type == DType::kF16) {
    return cudaErrorInvalidValue;
  }
  bool vector = args.dim % 4 == 0 && VectorRows(args.x, args.x_stride) &&
                VectorRows(args.gamma, 0) && reinterpret_cast<uintptr_t>(args.out) % 16 == 0;
  for (int s = 0; s < args.num_routers; ++s) vector = vector && VectorRows(args.routers[s], 0);
  const auto launch = [&](void (*kernel)(RmsNormArgs), int rows_per_block) {
    return Launch(kernel, GridOf(args.rows, rows_per_block), dim3(kThreads), 0, stream, args);
  };
  if (!vector || args.dim > kMaxDim) return launch(RmsNormAnyRows, 1);
  if (args.dim <= 64) return launch(RmsNormRows<16, 1>, 8);
  if (args.dim <= 128) return launch(RmsNormRows<32, 1>, 4);
  if (args.dim <= 256) return launch(RmsNormRows<32, 2>, 4);
  if (args.dim <= 512) return launch(RmsNormRows<32, 4>, 4);
  if (args.dim <= 1024) return launch(RmsNormRows<32, 8>, 4);
  return launch(RmsNormRows<kThreads, 8>, 1);
}

}  // namespace longdoc::kernels::cuda
