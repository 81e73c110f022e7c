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
  void Bf16ToF32(const uint16_t* in, int64_t n, float* out) override { k_.Bf16ToF32(in, n, out); }
  void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) override {
    k_.MeanPool(x, dim, begin, end, out);
  }

  void StoreQkv(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                const float* qkv, int64_t qkv_stride) override {
    k_.StoreQkv(p, token_begin, rows, qkv, qkv_stride);
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
