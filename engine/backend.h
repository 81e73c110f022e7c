// The seam between what a model computes and the device that computes it.
//
// One backend per engine. The ops are those of kernels/ on this device's memory; each call does a
// small step (a tile of tokens, a block of queries), so that the scheduler can put steps of many
// documents in turn. Ops may be called from `num_workers` threads at once on disjoint outputs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/gemm.h"
#include "engine/memory_pool.h"
#include "engine/tensor.h"
#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"

namespace longdoc {

struct BackendInfo {
  std::string name;                  // "cpu", "reference"
  std::string isa;                   // "avx512_bf16", …
  DType gemm_type = DType::kF32;     // of the inputs of matrix products
  DType storage_type = DType::kF32;  // of q, k, v and the attention output
  int num_workers = 1;
  int64_t token_tile = 256;  // rows of a dense step
  int64_t query_tile = 128;  // query rows of an attention step
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  // Called once by every worker thread before its first op.
  virtual void InitWorkerThread() = 0;

  // Memory of the device.
  virtual MemoryPool& memory() = 0;
  // Weights: the row-wise concatenation of `weights`, ready for PackedMatrix::Gemm.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) = 0;

  virtual void Embed(const kernels::EmbedArgs& args) = 0;
  virtual void AddLayerNorm(const kernels::AddLayerNormArgs& args) = 0;
  virtual void GatedGelu(const kernels::GatedGeluArgs& args) = 0;
  virtual void F32ToBf16(const float* in, int64_t n, uint16_t* out) = 0;
  virtual void Bf16ToF32(const uint16_t* in, int64_t n, float* out) = 0;
  virtual void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) = 0;

  // Attention; see kernels/attention.h for the order of the calls.
  virtual void StoreQueries(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                            const float* q, int64_t stride) = 0;
  virtual void StoreKeysValues(const kernels::AttentionProblem& p, int64_t token_begin,
                               int64_t rows, const float* kv, int64_t stride) = 0;
  virtual void Bound(const kernels::AttentionProblem& p, int64_t sequence, int32_t kv_head) = 0;
  virtual std::vector<kernels::AttentionUnit> PlanUnits(const kernels::AttentionProblem& p) = 0;
  virtual int64_t AttendScratchBytes(const kernels::AttentionProblem& p) = 0;
  virtual void Attend(const kernels::AttentionProblem& p, const kernels::AttentionUnit& unit,
                      void* scratch, kernels::AttentionStats* stats) = 0;

  // Conditional computation; see kernels/routing.h.
  virtual void RmsNorm(const kernels::RmsNormArgs& args) = 0;
  virtual void Route(const kernels::RouteArgs& args) = 0;
  virtual void ScatterAdd(const kernels::ScatterAddArgs& args) = 0;

  // Decoder; see kernels/decode.h.
  virtual void MqaStore(const kernels::MqaStoreArgs& args) = 0;
  virtual int64_t MqaScratchBytes(int64_t rows, int32_t head_dim) = 0;
  virtual void MqaPartial(const kernels::MqaPartialArgs& args) = 0;
  virtual void MqaMerge(const kernels::MqaMergeArgs& args) = 0;
  virtual void LogSoftmaxTile(const kernels::LogSoftmaxTileArgs& args) = 0;
};

// `compute_type` kF32 or kBF16. Without native bf16 dot products, kBF16 keeps q, k, v in bf16 (half
// the memory) and computes in fp32. `num_workers` >= 1.
std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers);
// The same on a given instruction set; null when this CPU cannot run it. For tests.
std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers, kernels::CpuIsa isa);
// Naive loops in double: the definition of correct results. Always fp32.
std::unique_ptr<Backend> MakeReferenceBackend(int num_workers);

}  // namespace longdoc
