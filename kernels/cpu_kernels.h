// The CPU kernels as one table of functions per instruction set, chosen once at run time.
//
// Every function may be called from many threads at once on disjoint outputs. `rows` may be 0. Row
// strides are in elements. Pointers need no alignment beyond their type's unless said otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/decode.h"
#include "kernels/routing.h"
#include "kernels/types.h"

namespace longdoc::kernels {

// out[r,:] = (a[r,:] + residual[r,:] − mean) / sqrt(var + eps) · gamma + beta    (biased variance)
struct AddLayerNormArgs {
  int64_t rows = 0;
  int64_t dim = 0;           // C
  const float* a = nullptr;  // [rows, C], row stride a_stride
  int64_t a_stride = 0;
  const float* residual = nullptr;  // [rows, C] dense, or null; may equal out
  const float* gamma = nullptr;     // [C]
  const float* beta = nullptr;      // [C], or null
  float epsilon = 0;
  float* out = nullptr;  // [rows, C], row stride out_stride; may be a
  int64_t out_stride = 0;
  uint16_t* out_bf16 = nullptr;  // [rows, C] dense copy rounded to bf16, or null
};

// out[r,f] = gelu(first) · second, where `first` is in[r,f] and `second` in[r,F+f], or the other
// way round (models.md: JinaBERT A activates the first half, B the second). Exact erf GELU,
// relative error below 1e-6 against double over all finite floats whose result is a normal float
// (far left, gelu underflows to -0).
struct GatedGeluArgs {
  int64_t rows = 0;
  int64_t dim = 0;              // F
  DType in_type = DType::kF32;  // kF32 or kBF16
  const void* in = nullptr;     // [rows, 2F] dense
  bool activate_second_half = false;
  bool tanh_form = false;  // 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) instead of erf
  DType out_type = DType::kF32;  // kF32 or kBF16
  void* out = nullptr;           // [rows, F] dense
};

// x[t,:] = LayerNorm(word[ids[t],:] + type[:])
struct EmbedArgs {
  int64_t rows = 0;
  int64_t dim = 0;               // C
  const int32_t* ids = nullptr;  // [rows], each in [0, V): the caller has checked
  DType table_type = DType::kF32;
  const void* word = nullptr;    // [V, C] of table_type
  const float* type = nullptr;   // [C], or null
  const float* gamma = nullptr;  // null: no norm, the rows as they are
  const float* beta = nullptr;
  float epsilon = 0;
  float* out = nullptr;          // [rows, C] dense
  uint16_t* out_bf16 = nullptr;  // as in AddLayerNormArgs
};

// out[s,:] = mean of rows [begin[s], end[s]) of x [T, C], for many spans at once; fp32, good to
// 1e-6 relative at 10^6 rows. Empty spans give 0.
struct PoolArgs {
  int64_t spans = 0, dim = 0, tokens = 0;
  const float* x = nullptr;        // [T, C] dense
  const int64_t* begin = nullptr;  // [S]
  const int64_t* end = nullptr;    // [S]
  float* out = nullptr;            // [S, C]
  void* workspace = nullptr;       // PoolWorkspaceBytes() on the device
};

struct CpuKernels {
  CpuIsa isa;
  const char* name;  // "portable", "avx2", "avx512", "avx512_bf16"
  bool native_bf16;  // has a bf16 dot product; otherwise bf16 storage is widened before use

  // Attention, see attention.h. Rows of packed tokens [token_begin, token_begin + rows), fp32:
  // queries [H·D]; keys and values [Hk·D keys | Hk·D values]. Strides in elements.
  void (*StoreQueries)(const AttentionProblem& p, int64_t token_begin, int64_t rows, const float* q,
                       int64_t stride);
  void (*StoreKeysValues)(const AttentionProblem& p, int64_t token_begin, int64_t rows,
                          const float* kv, int64_t stride);
  void (*Bound)(const AttentionProblem& p, int64_t sequence, int32_t kv_head);
  // Units in descending cost. `rows_per_unit` caps the query rows of one unit (rounded to
  // kQueryBlock); small sequences share a unit over heads.
  std::vector<AttentionUnit> (*PlanUnits)(const AttentionProblem& p, int64_t rows_per_unit);
  int64_t (*AttendScratchBytes)(const AttentionProblem& p);
  // `scratch` is 64-byte aligned and private to the call. Adds to *stats.
  void (*Attend)(const AttentionProblem& p, const AttentionUnit& unit, void* scratch,
                 AttentionStats* stats);

  void (*AddLayerNorm)(const AddLayerNormArgs& args);
  void (*GatedGelu)(const GatedGeluArgs& args);
  void (*Embed)(const EmbedArgs& args);
  // Conditional computation, see routing.h.
  void (*RmsNorm)(const RmsNormArgs& args);
  void (*Route)(const RouteArgs& args);
  void (*ScatterAdd)(const ScatterAddArgs& args);
  // Decoder, see decode.h.
  void (*MqaStore)(const MqaStoreArgs& args);
  int64_t (*MqaScratchBytes)(int64_t rows, int32_t head_dim);
  void (*MqaPartial)(const MqaPartialArgs& args);
  void (*MqaMerge)(const MqaMergeArgs& args);
  void (*LogSoftmaxTile)(const LogSoftmaxTileArgs& args);
  // out[c] = mean of rows [begin, end) of x [T, C]; fp32 with compensation good to 1e-6 relative at
  // 10^6 rows.
  void (*MeanPool)(const float* x, int64_t dim, int64_t begin, int64_t end, float* out);
  void (*F32ToBf16)(const float* in, int64_t n, uint16_t* out);  // round to nearest even, NaN kept
  void (*Bf16ToF32)(const uint16_t* in, int64_t n, float* out);
};

// What this CPU (and the OS) can run.
bool CpuSupports(CpuIsa isa);
CpuIsa BestCpuIsa();
// The table of an instruction set that CpuSupports(); null when it was not compiled in.
const CpuKernels* GetCpuKernels(CpuIsa isa);

}  // namespace longdoc::kernels
