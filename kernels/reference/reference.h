// The definition of correctness: naive loops in double, never optimised, one function per op.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"
#include "kernels/similarity.h"

namespace longdoc::kernels::reference {

// Attention over plain row-major tensors, mask, positions and ALiBi as in attention.h, no skipping,
// no tiles. q, o [T,H,D]; k, v [Tk,Hk,D]; fp32 in, double inside. Only the shape, position, slope,
// scale and mask fields of `p` are read.
void Attention(const AttentionProblem& p, const float* q, const float* k, const float* v, float* o);

// c[r,n] = sum_k a[r,k]·w[n,k] + bias[n]   (bias may be null; w row-major [N,K])
void Gemm(int64_t rows, int64_t n, int64_t k, const float* a, const float* w, const float* bias,
          float* c);
void AddLayerNorm(const AddLayerNormArgs& args);
void GatedGelu(const GatedGeluArgs& args);
void Embed(const EmbedArgs& args);
void RmsNorm(const RmsNormArgs& args);
void Route(const RouteArgs& args);  // O(n log n); needs no scratch
void ScatterAdd(const ScatterAddArgs& args);
// A block is [kKeyBlock, D] keys, then [kKeyBlock, D] values; no scratch.
void MqaStore(const MqaStoreArgs& args);
void MqaPartial(const MqaPartialArgs& args);
void MqaMerge(const MqaMergeArgs& args);
void LogSoftmaxTile(const LogSoftmaxTileArgs& args);
void ColumnMaxima(const ColumnMaximaArgs& args);
void SumMaxima(const SumMaximaArgs& args);
void UnitRows(const UnitRowsArgs& args);
void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out);

}  // namespace longdoc::kernels::reference
