// One host backend: the CPU kernels of an instruction set with oneDNN, or the reference with loops.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <utility>

#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/host_attention.h"
#include "engine/reference_kernels.h"
#include "kernels/reference/reference.h"

namespace longdoc {
namespace {

constexpr int64_t kRetainedBytes = int64_t{128} << 20;

// Counts what is in both lists. Both ascend.
int64_t CountCommon(const int32_t* a, const int32_t* b, int64_t size) {
  int64_t common = 0;
  for (int64_t i = 0, j = 0; i < size && j < size;) {
    common += a[i] == b[j];
    const bool advance_a = a[i] <= b[j], advance_b = b[j] <= a[i];
    i += advance_a;
    j += advance_b;
  }
  return common;
}

class HostBackend final : public Backend {
 public:
  HostBackend(BackendInfo info, const kernels::CpuKernels& kernels, bool reference)
      : info_(std::move(info)),
        k_(kernels),
        reference_(reference),
        memory_(kRetainedBytes),
        scratch_memory_(0) {}

  const BackendInfo& info() const override { return info_; }
  void InitWorkerThread() override { UseSingleThreadedGemm(); }
  MemoryPool& memory() override { return memory_; }
  MemoryPool& scratch_memory() override { return scratch_memory_; }

  absl::StatusOr<Placed> Place(const void* host, int64_t) override { return Placed{host, {}}; }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  absl::Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<Placed> Fetch(const void* device, int64_t) override { return Placed{device, {}}; }
  absl::StatusOr<Buffer> ToHost(Buffer device) override { return device; }

  absl::Status EndStep() override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  int64_t StartTimer() override {
    return std::chrono::steady_clock::now().time_since_epoch().count();
  }
  void StopTimer(int64_t started, const NanosecondCount& spent) override {
    *spent += StartTimer() - started;
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) override {
    if (reference_) return PackForReference(weights, biases);
    return PackWithOneDnn(weights, biases, info_.gemm_type, info_.token_tile);
  }

  void Embed(const kernels::EmbedArgs& args) override { k_.Embed(args); }
  void AddLayerNorm(const kernels::AddLayerNormArgs& args) override { k_.AddLayerNorm(args); }
  void GatedGelu(const kernels::GatedGeluArgs& args) override { k_.GatedGelu(args); }
  void F32ToBf16(const float* in, int64_t n, uint16_t* out) override { k_.F32ToBf16(in, n, out); }
  void Bf16ToF32(const uint16_t* in, int64_t n, float* out) override { k_.Bf16ToF32(in, n, out); }
  int64_t MeanPoolScratchBytes(const kernels::PoolArgs&) override { return 0; }
  void MeanPool(const kernels::PoolArgs& args) override {
    for (int64_t s = 0; s < args.spans; ++s) {
      k_.MeanPool(args.x, args.dim, args.begin[s], args.end[s], args.out + s * args.dim);
    }
  }

  absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeAttention(
      const kernels::AttentionProblem& problem) override {
    return MakeHostAttention(k_, info_, memory_, problem);
  }
  int64_t AttentionBytes(const kernels::AttentionProblem& problem) const override {
    return HostAttentionBytes(problem);
  }

  // Compilers make of those loops what memory allows.
  int64_t ColumnMaximaScratchBytes(int64_t, int64_t) const override { return 0; }
  void ColumnMaxima(const kernels::ColumnMaximaArgs& args) override {
    kernels::reference::ColumnMaxima(args);
  }
  void SumMaxima(const kernels::SumMaximaArgs& args) override {
    kernels::reference::SumMaxima(args);
  }
  void UnitRows(const kernels::UnitRowsArgs& args) override { kernels::reference::UnitRows(args); }

  void RmsNorm(const kernels::RmsNormArgs& args) override { k_.RmsNorm(args); }
  int64_t RouteScratchBytes(int64_t n) const override { return kernels::RouteScratchBytes(n); }
  void Route(const RouteTokensArgs& args) override;
  void ScatterAdd(const kernels::ScatterAddArgs& args) override { k_.ScatterAdd(args); }
  void ScatterAddWithin(const kernels::ScatterAddArgs& args, int64_t begin, int64_t end) override;

  void MqaStore(const kernels::MqaStoreArgs& args) override;
  int64_t MqaScratchBytes(int64_t rows, int32_t head_dim) override {
    return k_.MqaScratchBytes(rows, head_dim);
  }
  void MqaPartial(const kernels::MqaPartialArgs& args) override { k_.MqaPartial(args); }
  void MqaMerge(const kernels::MqaMergeArgs& args) override { k_.MqaMerge(args); }
  void LogSoftmaxTile(const kernels::LogSoftmaxTileArgs& args) override { k_.LogSoftmaxTile(args); }

 private:
  const BackendInfo info_;
  const kernels::CpuKernels& k_;
  const bool reference_;
  MemoryPool memory_, scratch_memory_;
};

void HostBackend::Route(const RouteTokensArgs& args) {
  const kernels::RouteArgs& route = args.route;
  k_.Route(route);
  for (int64_t i = 0; i < route.k; ++i) args.rows[i] = route.indices[i] + args.first_row;
  args.tally->weight = std::accumulate(route.weights, route.weights + route.k, args.tally->weight);
  if (args.previous == nullptr) return;
  if (args.compare) args.tally->repeated += CountCommon(route.indices, args.previous, route.k);
  std::copy_n(route.indices, route.k, args.previous);
}

void HostBackend::ScatterAddWithin(const kernels::ScatterAddArgs& args, int64_t begin,
                                   int64_t end) {
  const int32_t *first = args.indices, *last = first + args.rows;
  const int64_t skipped = std::lower_bound(first, last, begin) - first;
  kernels::ScatterAddArgs part = args;
  part.rows = std::lower_bound(first, last, end) - first - skipped;
  part.indices += skipped;
  if (part.row_scale != nullptr) part.row_scale += skipped;
  part.in += skipped * args.dim;
  k_.ScatterAdd(part);
}

// Block by block, as the kernels want it.
void HostBackend::MqaStore(const kernels::MqaStoreArgs& args) {
  kernels::MqaStoreArgs part = args;
  for (int64_t row = 0; row < args.rows; row += part.rows) {
    part.first = (args.first + row) % kernels::kKeyBlock;
    part.rows = std::min(kernels::kKeyBlock - part.first, args.rows - row);
    part.keys = args.keys + row * args.stride;
    part.values = args.values + row * args.stride;
    part.block =
        static_cast<char*>(args.block) + (args.first + row) / kernels::kKeyBlock *
                                             kernels::MqaBlockBytes(args.head_dim, args.storage);
    k_.MqaStore(part);
  }
}

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers, kernels::CpuIsa isa) {
  if (!kernels::CpuSupports(isa)) return nullptr;
  const kernels::CpuKernels* table = kernels::GetCpuKernels(isa);
  if (table == nullptr) return nullptr;
  BackendInfo info;
  info.name = "cpu";
  info.isa = table->name;
  info.storage_type = compute_type;
  info.gemm_type = compute_type == DType::kBF16 && table->native_bf16 ? DType::kBF16 : DType::kF32;
  info.num_workers = num_workers;
  return std::make_unique<HostBackend>(std::move(info), *table, /*reference=*/false);
}

std::unique_ptr<Backend> MakeCpuBackend(DType compute_type, int num_workers) {
  return MakeCpuBackend(compute_type, num_workers, kernels::BestCpuIsa());
}

std::unique_ptr<Backend> MakeReferenceBackend(int num_workers) {
  BackendInfo info;
  info.name = "reference";
  info.isa = "reference";
  info.num_workers = num_workers;
  return std::make_unique<HostBackend>(std::move(info), ReferenceKernels(), /*reference=*/true);
}

}  // namespace longdoc
