// The seam between what a model computes and the device that computes it.
//
// One backend per engine. The ops are those of kernels/, on this device's memory: every pointer in
// an op's arguments is memory of the device, which a host pointer is only on host backends. What
// comes from the host is placed or copied; what the host wants to read is copied back.
//
// Order. A device may run behind its caller: ops, copies and timers take effect in the order in
// which they were called, and CopyToHost, ToHost and Synchronize wait for all of them. Each op is a
// small step (a tile of tokens, a block of queries), so that the scheduler can put steps of many
// documents in turn; EndStep keeps the host from running far ahead. Up to `num_workers` threads may
// call at once, on disjoint outputs.
//
// Errors. Ops return none. A device that fails stays failed: EndStep, CopyToHost, ToHost and
// Synchronize tell, from then on always, and what ops left in memory is not to be used.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/gemm.h"
#include "engine/memory_pool.h"
#include "engine/op_recording.h"
#include "engine/tensor.h"
#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"
#include "kernels/similarity.h"

namespace longdoc {

class AttentionSteps;
class MemorySpill;
class WholeMqa;
struct SampleTokenArgs;

struct BackendInfo {
  std::string name;                  // "cpu", "reference", "cuda"
  std::string isa;                   // "avx512_bf16", "sm_90", …
  DType gemm_type = DType::kF32;     // of the inputs of matrix products
  DType storage_type = DType::kF32;  // of q, k, v and the attention output
  int num_workers = 1;               // threads that call ops
  int64_t token_tile = 256;          // rows of a dense step
  int64_t query_tile = 128;          // query rows of an attention step, where it is cut by rows
  int64_t span_tile = 16;            // spans of a pooling step
  int64_t max_head_dim = 256;        // of all attention, the decoder's too
  bool keeps_f32_keys = true;        // documents' keys and values for the decoder may be fp32
  bool whole_mqa = false;            // multi-query attention is whole_mqa()'s, not cut into parts
  bool device_rounds = false;        // SampleToken() and NewRecording() are there
  int64_t fixed_bytes = 0;           // of memory(), that the backend keeps for itself
};

// Host data where ops can read it: as it is, or as a copy on the device. The host's stays its
// owner's, for as long as this is used.
struct Placed {
  const void* data = nullptr;
  Buffer copy;  // empty where ops read the host's

  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// What routers did to one sequence, over all layers.
struct RoutingTally {
  double weight = 0;     // sum of the soft weights of what was chosen
  int64_t repeated = 0;  // chosen that the call before had chosen as well
};

// Chooses tokens of one sequence, and keeps count.
struct RouteTokensArgs {
  kernels::RouteArgs route;  // scratch: RouteScratchBytes(n)
  int32_t first_row = 0;     // of the sequence
  int32_t* rows = nullptr;   // [k] indices + first_row
  RoutingTally* tally = nullptr;
  // [k] the indices of the call before, which are compared if `compare`, and replaced. Or null.
  int32_t* previous = nullptr;
  bool compare = false;
};

class Backend {
 public:
  using NanosecondCount = std::shared_ptr<std::atomic<int64_t>>;

  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  // Called once by every worker thread before its first op.
  virtual void InitWorkerThread() = 0;

  // ---- memory ----------------------------------------------------------------------------------

  // Of weights, documents and results; and of the workers' scratch, which the host counts apart.
  // Memory that is freed may still be read and written by ops called before.
  virtual MemoryPool& memory() = 0;
  virtual MemoryPool& scratch_memory() = 0;
  // Where memory() makes room by moving documents to the host; null where it is the host's.
  virtual MemorySpill* spill() { return nullptr; }
  // For data that does not change. RESOURCE_EXHAUSTED when the device has no room for it.
  virtual absl::StatusOr<Placed> Place(const void* host, int64_t bytes) = 0;
  // Bytes of memory() that this takes: none where ops read the host's.
  virtual int64_t PlacedBytes(int64_t) const { return 0; }
  // `host` may change once this has returned.
  virtual void CopyToDevice(void* device, const void* host, int64_t bytes) = 0;
  // Waits for all that was called before.
  virtual absl::Status CopyToHost(void* host, const void* device, int64_t bytes) = 0;
  // What Place is, the other way round: device data where the host can read it, as it is or as a
  // copy; likewise.
  virtual absl::StatusOr<Placed> Fetch(const void* device, int64_t bytes) = 0;
  // A result, as memory that the host can read; likewise.
  virtual absl::StatusOr<Buffer> ToHost(Buffer device) = 0;

  // ---- steps -----------------------------------------------------------------------------------

  // What a worker calls after each of its steps. A device that runs behind waits here until no more
  // than a step or two are left to do.
  virtual absl::Status EndStep() = 0;
  // Waits for all that was called before.
  virtual absl::Status Synchronize() = 0;
  // Adds to `spent` how long the device took for what this thread calls between the two; at the
  // latest when the device is waited for.
  virtual int64_t StartTimer() = 0;
  virtual void StopTimer(int64_t started, const NanosecondCount& spent) = 0;

  // ---- ops -------------------------------------------------------------------------------------

  // Weights: the row-wise concatenation of `weights` (host memory), ready for PackedMatrix::Gemm.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) = 0;

  virtual void Embed(const kernels::EmbedArgs& args) = 0;
  virtual void AddLayerNorm(const kernels::AddLayerNormArgs& args) = 0;
  virtual void GatedGelu(const kernels::GatedGeluArgs& args) = 0;
  virtual void F32ToBf16(const float* in, int64_t n, uint16_t* out) = 0;
  virtual void Bf16ToF32(const uint16_t* in, int64_t n, float* out) = 0;
  // Many spans at once; args.workspace: MeanPoolScratchBytes().
  virtual int64_t MeanPoolScratchBytes(const kernels::PoolArgs& args) = 0;
  virtual void MeanPool(const kernels::PoolArgs& args) = 0;

  // Late interaction; see kernels/similarity.h. args.scratch: ColumnMaximaScratchBytes().
  virtual int64_t ColumnMaximaScratchBytes(int64_t rows, int64_t columns) const = 0;
  virtual void ColumnMaxima(const kernels::ColumnMaximaArgs& args) = 0;
  virtual void SumMaxima(const kernels::SumMaximaArgs& args) = 0;
  virtual void UnitRows(const kernels::UnitRowsArgs& args) = 0;

  // Attention (attention_steps.h). Of `problem` the positions are memory of the device, which ops
  // write; its other arrays are the host's and outlive the steps, q, kv and bounds are not read.
  // RESOURCE_EXHAUSTED when there is no memory, INTERNAL when the problem is not sound.
  virtual absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeAttention(
      const kernels::AttentionProblem& problem) = 0;
  // Bytes that MakeAttention allocates; only what kind of problem it is, shapes, cu_seqlens and
  // storage are read.
  virtual int64_t AttentionBytes(const kernels::AttentionProblem& problem) const = 0;

  // Conditional computation; see kernels/routing.h.
  virtual void RmsNorm(const kernels::RmsNormArgs& args) = 0;
  virtual int64_t RouteScratchBytes(int64_t n) const = 0;
  virtual void Route(const RouteTokensArgs& args) = 0;
  virtual void ScatterAdd(const kernels::ScatterAddArgs& args) = 0;
  // The same for those rows alone whose index is in [begin, end). Indices ascend.
  virtual void ScatterAddWithin(const kernels::ScatterAddArgs& args, int64_t begin,
                                int64_t end) = 0;

  // Decoder; see kernels/decode.h. Rows that are stored may run over into the blocks that follow
  // `block` contiguously.
  virtual void MqaStore(const kernels::MqaStoreArgs& args) = 0;
  virtual int64_t MqaScratchBytes(int64_t rows, int32_t head_dim) = 0;
  virtual void MqaPartial(const kernels::MqaPartialArgs& args) = 0;
  virtual void MqaMerge(const kernels::MqaMergeArgs& args) = 0;
  virtual void LogSoftmaxTile(const kernels::LogSoftmaxTileArgs& args) = 0;
  // Instead of MqaPartial and MqaMerge where info().whole_mqa says so, otherwise null.
  virtual WholeMqa* whole_mqa() { return nullptr; }

  // Generation where info().device_rounds says so: choosing a token (sampler.h), and all ops of a
  // round as one call (op_recording.h). What is recorded is called from a worker.
  virtual int64_t SampleScratchBytes(int64_t /*vocabulary*/) const { return 0; }
  virtual void SampleToken(const SampleTokenArgs&) {}
  virtual std::unique_ptr<OpRecording> NewRecording() { return nullptr; }
};

// `compute_type` kF32 or kBF16. Without native bf16 dot products, kBF16 keeps q, k, v in bf16 (half
// the memory) and computes in fp32. `num_workers` >= 1.
std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers);
// The same on a given instruction set; null when this CPU cannot run it. For tests.
std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers, kernels::CpuIsa isa);
// Naive loops in double: the definition of correct results. Always fp32.
std::unique_ptr<Backend> MakeReferenceBackend(int num_workers);

struct CudaOptions {
  int device = 0;
  int64_t memory_bytes = 0;  // most that the engine takes of the device; 0: what is free, less a
                             // margin for what libraries and the driver take
  int64_t spill_bytes = 0;   // most pinned host memory for documents that leave the device; 0: no
                             // limit
  std::function<bool()> make_room;  // when there is no more of either; see EngineOptions
  int64_t token_tile = 8192;
  // Called once, from the thread that finds out, when the device is lost: nothing works any more,
  // and only a new process can use it again.
  std::function<void(const absl::Status&)> on_lost;
};
// bf16 storage and products, one worker. FAILED_PRECONDITION when the device cannot be used, saying
// why; UNIMPLEMENTED in a build without CUDA.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options);

}  // namespace longdoc
