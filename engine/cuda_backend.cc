// The CUDA kernels behind the seam: one device, one stream, one worker that enqueues on it.
//
// All memory is used on the one stream, in the order of the calls, so that what is freed may be
// handed out again at once. Activations and sums are fp32; products read bf16, as attention does.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/base/status_macros.h"
#include "engine/cuda_attention.h"
#include "engine/cuda_memory.h"
#include "engine/cuda_mqa.h"
#include "engine/cuda_recording.h"
#include "engine/sampler.h"
#include "engine/spill.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/runtime.h"

namespace longdoc {
namespace {

namespace cuda = kernels::cuda;

constexpr DType kType = DType::kBF16;  // of products' inputs, q, k, v and o
constexpr int64_t kPinnedRetainedBytes = int64_t{1} << 30;

// What products share: the library's handle, and workspace for one product at a time.
struct Products {
  std::unique_ptr<cuda::Gemm> gemm;
  Buffer workspace;
};

class CudaMatrix final : public PackedMatrix {
 public:
  CudaMatrix(cuda::Runtime& runtime, const Products& products, int64_t n, int64_t k)
      : rt_(runtime), products_(products), n_(n), k_(k) {}
  // Rounds on the device, from a copy in fp32 that is let go of again.
  absl::Status Load(MemoryPool& memory, const std::vector<float>& weights,
                    const std::vector<float>& biases);

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override { return weights_.bytes() + bias_.bytes(); }
  absl::Status Gemm(int64_t rows, const void* a, float* c) const override {
    cuda::GemmArgs args;
    args.rows = rows;
    args.n = n_;
    args.k = args.a_stride = k_;
    args.in_type = kType;
    args.a = a;
    args.w = weights_.data();
    args.bias = bias_.data();
    args.c = c;
    args.c_stride = n_;
    args.workspace = products_.workspace.data();
    args.workspace_bytes = products_.workspace.bytes();
    rt_.Note(products_.gemm->Run(args, rt_.stream()), "matrix product");
    return absl::OkStatus();
  }

 private:
  cuda::Runtime& rt_;
  const Products& products_;
  const int64_t n_, k_;
  Buffer weights_, bias_;
};

absl::Status CudaMatrix::Load(MemoryPool& memory, const std::vector<float>& weights,
                              const std::vector<float>& biases) {
  Buffer wide;
  ASSIGN_OR_RETURN(wide, memory.Allocate(4 * n_ * k_, /*zeroed=*/false));
  ASSIGN_OR_RETURN(weights_, memory.Allocate(2 * n_ * k_, /*zeroed=*/false));
  rt_.Upload(wide.data(), weights.data(), wide.bytes());
  cuda::ConvertArgs convert;
  convert.rows = n_;
  convert.columns = convert.in_stride = convert.out_stride = k_;
  convert.out_type = kType;
  convert.in = wide.data();
  convert.out = weights_.data();
  rt_.Note(cuda::Convert(convert, rt_.stream()), "packing weights");
  if (biases.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(bias_, memory.Allocate(4 * n_, /*zeroed=*/false));
  rt_.Upload(bias_.data(), biases.data(), bias_.bytes());
  return absl::OkStatus();
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(BackendInfo info, int64_t memory_bytes, const CudaOptions& options,
              std::unique_ptr<cuda::Runtime> runtime)
      : info_(std::move(info)),
        runtime_(std::move(runtime)),
        rt_(*runtime_),
        memory_(std::make_unique<DeviceMemory>(rt_),
                {.retained_bytes = memory_bytes, .limit_bytes = memory_bytes, .slack = 1}),
        pinned_(std::make_unique<PinnedMemory>(rt_),
                {.retained_bytes = kPinnedRetainedBytes, .slack = 1}),
        spilled_(std::make_unique<PinnedMemory>(rt_), {.retained_bytes = kPinnedRetainedBytes,
                                                       .limit_bytes = options.spill_bytes,
                                                       .slack = 1}),
        make_room_(options.make_room) {}
  absl::Status Init();

  const BackendInfo& info() const override { return info_; }
  void InitWorkerThread() override { rt_.MakeCurrent(); }

  MemoryPool& memory() override { return memory_; }
  MemoryPool& scratch_memory() override { return memory_; }
  MemorySpill* spill() override { return &spill_; }
  absl::StatusOr<Placed> Place(const void* host, int64_t bytes) override;
  int64_t PlacedBytes(int64_t bytes) const override { return bytes; }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    rt_.Upload(device, host, bytes);
  }
  absl::Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    rt_.Download(host, device, bytes);
    return ToStatus(rt_.TakeFault());
  }
  absl::StatusOr<Placed> Fetch(const void* device, int64_t bytes) override;
  absl::StatusOr<Buffer> ToHost(Buffer device) override;

  absl::Status EndStep() override {
    rt_.EndStep();
    return ToStatus(rt_.TakeFault());
  }
  absl::Status Synchronize() override {
    rt_.Synchronize();
    return ToStatus(rt_.TakeFault());
  }
  int64_t StartTimer() override { return rt_.StartTimer(); }
  void StopTimer(int64_t started, const NanosecondCount& spent) override {
    rt_.StopTimer(started, spent);
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) override;

  void Embed(const kernels::EmbedArgs& args) override { Note(cuda::Embed(args, s()), "embedding"); }
  void AddLayerNorm(const kernels::AddLayerNormArgs& args) override {
    Note(cuda::AddLayerNorm(args, s()), "layer norm");
  }
  void GatedGelu(const kernels::GatedGeluArgs& args) override {
    Note(cuda::GatedGelu(args, s()), "gated gelu");
  }
  void F32ToBf16(const float* in, int64_t n, uint16_t* out) override {
    Convert(n, DType::kF32, in, DType::kBF16, out);
  }
  void Bf16ToF32(const uint16_t* in, int64_t n, float* out) override {
    Convert(n, DType::kBF16, in, DType::kF32, out);
  }
  int64_t MeanPoolScratchBytes(const kernels::PoolArgs& args) override {
    return cuda::PoolWorkspaceBytes(args);
  }
  void MeanPool(const kernels::PoolArgs& args) override {
    Note(cuda::MeanPool(args, s()), "pooling");
  }

  int64_t ColumnMaximaScratchBytes(int64_t rows, int64_t columns) const override {
    return cuda::ColumnMaximaWorkspaceBytes(rows, columns);
  }
  void ColumnMaxima(const kernels::ColumnMaximaArgs& args) override {
    Note(cuda::ColumnMaxima(args, s()), "maxima of products");
  }
  void SumMaxima(const kernels::SumMaximaArgs& args) override {
    Note(cuda::SumMaxima(args, s()), "maxima of products");
  }
  void UnitRows(const kernels::UnitRowsArgs& args) override {
    Note(cuda::UnitRows(args, s()), "vectors of unit length");
  }

  absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeAttention(
      const kernels::AttentionProblem& problem) override {
    return MakeCudaAttention(*this, rt_, problem);
  }
  int64_t AttentionBytes(const kernels::AttentionProblem& problem) const override {
    return CudaAttentionBytes(problem);
  }

  void RmsNorm(const kernels::RmsNormArgs& args) override {
    Note(cuda::RmsNorm(args, s()), "rms norm");
  }
  int64_t RouteScratchBytes(int64_t n) const override { return cuda::RouteWorkspaceBytes(n); }
  void Route(const RouteTokensArgs& args) override;
  void ScatterAdd(const kernels::ScatterAddArgs& args) override {
    Note(cuda::ScatterAdd(args, s()), "scatter");
  }
  void ScatterAddWithin(const kernels::ScatterAddArgs& args, int64_t begin, int64_t end) override {
    Note(cuda::ScatterAddWithin(args, begin, end, s()), "scatter");
  }

  void MqaStore(const kernels::MqaStoreArgs& args) override {
    Note(cuda::MqaStore(args, s()), "storing keys");
  }
  int64_t MqaScratchBytes(int64_t, int32_t) override { return 0; }
  void MqaPartial(const kernels::MqaPartialArgs&) override {
    Note(cudaErrorNotSupported, "multi-query attention in parts");
  }
  void MqaMerge(const kernels::MqaMergeArgs&) override {
    Note(cudaErrorNotSupported, "multi-query attention in parts");
  }
  void LogSoftmaxTile(const kernels::LogSoftmaxTileArgs& args) override {
    Note(cuda::LogSoftmaxTile(args, s()), "log-softmax");
  }
  WholeMqa* whole_mqa() override { return &mqa_; }

  int64_t SampleScratchBytes(int64_t vocabulary) const override {
    return cuda::SampleWorkspaceBytes(1, vocabulary);
  }
  void SampleToken(const SampleTokenArgs& args) override;
  std::unique_ptr<OpRecording> NewRecording() override {
    return std::make_unique<CudaRecording>(rt_);
  }

 private:
  cudaStream_t s() const { return rt_.stream(); }
  void Note(cudaError_t error, const char* what) { rt_.Note(error, what); }
  void Convert(int64_t n, DType in_type, const void* in, DType out_type, void* out);

  const BackendInfo info_;
  const std::unique_ptr<cuda::Runtime> runtime_;
  cuda::Runtime& rt_;
  CudaMqa mqa_{rt_};
  MemoryPool memory_;
  MemoryPool pinned_;   // what the host reads of results
  MemoryPool spilled_;  // documents that the device has no room for
  MemorySpill spill_{*this, memory_, spilled_};
  const std::function<bool()> make_room_;
  Products products_;
};

absl::Status CudaBackend::Init() {
  memory_.SetReclaim([this] { return spill_.SpillOne() || (make_room_ && make_room_()); });
  const cudaError_t error = cuda::Gemm::Create(rt_.device(), &products_.gemm);
  if (error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda: matrix products: ", cudaGetErrorString(error)));
  }
  ASSIGN_OR_RETURN(products_.workspace,
                   memory_.Allocate(cuda::kGemmWorkspaceBytes, /*zeroed=*/false));
  return Synchronize();
}

absl::StatusOr<Placed> CudaBackend::Place(const void* host, int64_t bytes) {
  Placed placed;
  ASSIGN_OR_RETURN(placed.copy, memory_.Allocate(bytes, /*zeroed=*/false));
  placed.data = placed.copy.data();
  rt_.Upload(placed.copy.data(), host, bytes);
  return placed;
}

absl::StatusOr<Placed> CudaBackend::Fetch(const void* device, int64_t bytes) {
  Placed fetched;
  ASSIGN_OR_RETURN(fetched.copy, pinned_.Allocate(bytes, /*zeroed=*/false));
  fetched.data = fetched.copy.data();
  RETURN_IF_ERROR(CopyToHost(fetched.copy.data(), device, bytes));
  return fetched;
}

absl::StatusOr<Buffer> CudaBackend::ToHost(Buffer device) {
  ASSIGN_OR_RETURN(Placed fetched, Fetch(device.data(), device.bytes()));
  return std::move(fetched.copy);
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> CudaBackend::Pack(
    const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) {
  RETURN_IF_ERROR(CheckPackShapes(weights, biases));
  const std::vector<float> values = Concatenate(weights);
  const int64_t k = weights[0].shape[1];
  auto matrix =
      std::make_unique<CudaMatrix>(rt_, products_, static_cast<int64_t>(values.size()) / k, k);
  RETURN_IF_ERROR(matrix->Load(memory_, values, Concatenate(biases)));
  return std::unique_ptr<PackedMatrix>(std::move(matrix));
}

void CudaBackend::Convert(int64_t n, DType in_type, const void* in, DType out_type, void* out) {
  cuda::ConvertArgs args;
  args.rows = 1;
  args.columns = args.in_stride = args.out_stride = n;
  args.in_type = in_type;
  args.out_type = out_type;
  args.in = in;
  args.out = out;
  Note(cuda::Convert(args, s()), "conversion");
}

void CudaBackend::Route(const RouteTokensArgs& args) {
  Note(cuda::Route(args.route, s()), "routing");
  cuda::NoteRoutedArgs note;
  note.k = args.route.k;
  note.indices = args.route.indices;
  note.weights = args.route.weights;
  note.first_row = args.first_row;
  note.rows = args.rows;
  // Members of memory of the device: only their addresses are taken.
  note.weight = &args.tally->weight;
  note.repeated = &args.tally->repeated;
  note.previous = args.previous;
  note.compare = args.compare;
  Note(cuda::NoteRouted(note, s()), "routing");
}

void CudaBackend::SampleToken(const SampleTokenArgs& args) {
  cuda::SampleArgs sample;
  sample.rows = 1;
  sample.vocabulary = args.vocabulary;
  sample.logits = args.logits;
  sample.scale = args.scale;
  sample.temperature = args.options.temperature;
  sample.top_k = args.options.top_k;
  sample.top_p = args.options.top_p;
  sample.uniform = args.draw;
  sample.tokens = &args.token->id;  // of memory of the device, as in Route
  sample.log_probs = &args.token->log_prob;
  sample.workspace = args.scratch;
  Note(cuda::Sample(sample, s()), "sampling");
}

// For the library's own memory, the context's, and what the driver cannot use in between.
int64_t UsableBytes(const cuda::DeviceInfo& device) {
  return device.free_bytes - std::max(device.memory_bytes / 32, int64_t{512} << 20);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions& options) {
  cuda::DeviceInfo device;
  std::string fault;
  if (cuda::FindDevice(options.device, &device, &fault) != cudaSuccess) {
    return absl::FailedPreconditionError(fault);
  }
  std::unique_ptr<cuda::Runtime> runtime;
  const auto on_lost = [callback = options.on_lost](const std::string& text) {
    if (callback) callback(absl::UnavailableError(absl::StrCat("cuda: ", text)));
  };
  const cudaError_t error = cuda::Runtime::Create(device, on_lost, &runtime);
  if (error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrFormat("cuda:%d: %s", options.device, cudaGetErrorString(error)));
  }
  const int64_t usable = UsableBytes(device);
  const int64_t memory = options.memory_bytes > 0 ? options.memory_bytes : usable;
  if (memory > device.free_bytes || memory <= cuda::kGemmWorkspaceBytes) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "cuda:%d has %d bytes free, %d were asked for", options.device, device.free_bytes, memory));
  }
  BackendInfo info;
  info.name = absl::StrFormat("cuda:%d %s", options.device, device.name);
  info.isa = absl::StrFormat("sm_%d%d", device.major, device.minor);
  info.gemm_type = info.storage_type = kType;
  info.num_workers = 1;
  info.max_head_dim = 128;
  info.keeps_f32_keys = false;
  info.whole_mqa = info.device_rounds = true;
  info.token_tile = options.token_tile;
  info.span_tile = 4096;
  info.fixed_bytes = cuda::kGemmWorkspaceBytes;
  auto backend =
      std::make_unique<CudaBackend>(std::move(info), memory, options, std::move(runtime));
  RETURN_IF_ERROR(backend->Init());
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace longdoc
