// One host backend: the CPU kernels of an instruction set with oneDNN, or the reference with loops.
#include <algorithm>
#include <thread>
#include <utility>

#include "engine/backend.h"
#include "engine/reference_kernels.h"

namespace longdoc {
namespace {

constexpr int64_t kRetainedBytes = int64_t{128} << 20;

class HostBackend final : public Backend {
 public:
  HostBackend(BackendInfo info, const kernels::CpuKernels& kernels, bool reference)
      : info_(std::move(info)), k_(kernels), reference_(reference), memory_(kRetainedBytes) {}

  const BackendInfo& info() const override { return info_; }
  void InitWorkerThread() override { UseSingleThreadedGemm(); }
  MemoryPool& memory() override { return memory_; }

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
  void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) override {
    k_.MeanPool(x, dim, begin, end, out);
  }

  void StoreQueries(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                    const float* q, int64_t stride) override {
    k_.StoreQueries(p, token_begin, rows, q, stride);
  }
  void StoreKeysValues(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                       const float* kv, int64_t stride) override {
    k_.StoreKeysValues(p, token_begin, rows, kv, stride);
  }
  void Bound(const kernels::AttentionProblem& p, int64_t sequence, int32_t kv_head) override {
    k_.Bound(p, sequence, kv_head);
  }
  std::vector<kernels::AttentionUnit> PlanUnits(const kernels::AttentionProblem& p) override {
    return k_.PlanUnits(p, info_.query_tile);
  }
  int64_t AttendScratchBytes(const kernels::AttentionProblem& p) override {
    return k_.AttendScratchBytes(p);
  }
  void Attend(const kernels::AttentionProblem& p, const kernels::AttentionUnit& unit, void* scratch,
              kernels::AttentionStats* stats) override {
    k_.Attend(p, unit, scratch, stats);
  }

  void RmsNorm(const kernels::RmsNormArgs& args) override { k_.RmsNorm(args); }
  void Route(const kernels::RouteArgs& args) override { k_.Route(args); }
  void ScatterAdd(const kernels::ScatterAddArgs& args) override { k_.ScatterAdd(args); }
  void MqaStore(const kernels::MqaStoreArgs& args) override { k_.MqaStore(args); }
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
  MemoryPool memory_;
};

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
