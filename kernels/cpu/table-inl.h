// The table of one instruction set. `Bf16` is the storage policy for bf16 problems.
#pragma once

#include <cstdint>

#include "kernels/cpu/attend-inl.h"
#include "kernels/cpu/decode-inl.h"
#include "kernels/cpu/routing-inl.h"
#include "kernels/cpu/small_ops-inl.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu_kernels.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

template <class S, class Bf16>
struct AttentionEntry {
  using F32 = F32Storage<S>;

  static void StoreQueries(const AttentionProblem& p, int64_t token_begin, int64_t rows,
                           const float* q, int64_t stride) {
    p.storage == DType::kF32 ? StoreQueriesImpl<F32>(p, token_begin, rows, q, stride)
                             : StoreQueriesImpl<Bf16>(p, token_begin, rows, q, stride);
  }
  static void StoreKeysValues(const AttentionProblem& p, int64_t token_begin, int64_t rows,
                              const float* kv, int64_t stride) {
    p.storage == DType::kF32 ? StoreKeysValuesImpl<F32>(p, token_begin, rows, kv, stride)
                             : StoreKeysValuesImpl<Bf16>(p, token_begin, rows, kv, stride);
  }
  static void Bound(const AttentionProblem& p, int64_t sequence, int32_t kv_head) {
    p.storage == DType::kF32 ? BoundImpl<F32>(p, sequence, kv_head)
                             : BoundImpl<Bf16>(p, sequence, kv_head);
  }
  static int64_t ScratchBytes(const AttentionProblem& p) { return Scratch<F32>::Bytes(p.head_dim); }
  static void Attend(const AttentionProblem& p, const AttentionUnit& unit, void* scratch,
                     AttentionStats* stats) {
    p.storage == DType::kF32 ? AttendImpl<F32>(p, unit, scratch, stats)
                             : AttendImpl<Bf16>(p, unit, scratch, stats);
  }
};

template <class S, class Bf16>
struct MqaEntry {
  static void Store(const MqaStoreArgs& args) {
    args.storage == DType::kF32 ? MqaStoreImpl<F32Storage<S>>(args) : MqaStoreImpl<Bf16>(args);
  }
  static void Partial(const MqaPartialArgs& args) {
    args.keys.storage == DType::kF32 ? MqaPartialImpl<F32Storage<S>>(args)
                                     : MqaPartialImpl<Bf16>(args);
  }
};

template <class S, class Bf16>
constexpr CpuKernels MakeTable(CpuIsa isa, const char* name, bool native_bf16) {
  CpuKernels table{};
  table.isa = isa;
  table.name = name;
  table.native_bf16 = native_bf16;
  table.StoreQueries = AttentionEntry<S, Bf16>::StoreQueries;
  table.StoreKeysValues = AttentionEntry<S, Bf16>::StoreKeysValues;
  table.Bound = AttentionEntry<S, Bf16>::Bound;
  table.PlanUnits = PlanUnits;
  table.AttendScratchBytes = AttentionEntry<S, Bf16>::ScratchBytes;
  table.Attend = AttentionEntry<S, Bf16>::Attend;
  table.AddLayerNorm = AddLayerNormImpl<S>;
  table.GatedGelu = GatedGeluImpl<S>;
  table.Embed = EmbedImpl<S>;
  table.RmsNorm = RmsNormImpl<S>;
  table.Route = Route;
  table.ScatterAdd = ScatterAddImpl<S>;
  table.MqaStore = MqaEntry<S, Bf16>::Store;
  table.MqaScratchBytes = MqaScratch::Bytes;
  table.MqaPartial = MqaEntry<S, Bf16>::Partial;
  table.MqaMerge = MqaMergeImpl<S>;
  table.LogSoftmaxTile = LogSoftmaxTileImpl<S>;
  table.MeanPool = MeanPoolImpl<S>;
  table.F32ToBf16 = F32ToBf16Impl<S>;
  table.Bf16ToF32 = Bf16ToF32Impl<S>;
  return table;
}

}  // namespace
}  // namespace longdoc::kernels
