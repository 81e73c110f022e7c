// A backend that announces bf16 matrix products as an avx512_bf16 machine does, on any CPU: its
// products widen their inputs. What is under test is everything around the products: which buffer
// holds which type at which step.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engine/backend.h"
#include "engine/base/status_macros.h"
#include "engine/host_attention.h"
#include "gtest/gtest.h"
#include "kernels/cpu_kernels.h"

namespace longdoc::testing {

class WideningMatrix final : public PackedMatrix {
 public:
  explicit WideningMatrix(std::unique_ptr<PackedMatrix> f32) : f32_(std::move(f32)) {}
  int64_t n() const override { return f32_->n(); }
  int64_t k() const override { return f32_->k(); }
  int64_t bytes() const override { return f32_->bytes(); }
  absl::Status Gemm(int64_t rows, const void* a, float* c) const override {
    std::vector<float> wide(rows * k());
    kernels::GetCpuKernels(kernels::BestCpuIsa())
        ->Bf16ToF32(static_cast<const uint16_t*>(a), rows * k(), wide.data());
    return f32_->Gemm(rows, wide.data(), c);
  }

 private:
  const std::unique_ptr<PackedMatrix> f32_;
};

class Bf16ProductsBackend final : public Backend {
 public:
  Bf16ProductsBackend() : host_(MakeCpuBackend(DType::kBF16, 1)), info_(host_->info()) {
    info_.gemm_type = DType::kBF16;
    info_.token_tile = 64;  // several tiles even for the shorter goldens
  }
  const BackendInfo& info() const override { return info_; }
  void InitWorkerThread() override { host_->InitWorkerThread(); }
  MemoryPool& memory() override { return host_->memory(); }
  MemoryPool& scratch_memory() override { return host_->scratch_memory(); }
  absl::StatusOr<Placed> Place(const void* host, int64_t bytes) override {
    return host_->Place(host, bytes);
  }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    host_->CopyToDevice(device, host, bytes);
  }
  absl::Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    return host_->CopyToHost(host, device, bytes);
  }
  absl::StatusOr<Placed> Fetch(const void* device, int64_t bytes) override {
    return host_->Fetch(device, bytes);
  }
  absl::StatusOr<Buffer> ToHost(Buffer device) override { return host_->ToHost(std::move(device)); }
  absl::Status EndStep() override { return host_->EndStep(); }
  absl::Status Synchronize() override { return host_->Synchronize(); }
  int64_t StartTimer() override { return host_->StartTimer(); }
  void StopTimer(int64_t started, const NanosecondCount& spent) override {
    host_->StopTimer(started, spent);
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(
      const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) override {
    ASSIGN_OR_RETURN(auto f32, PackWithOneDnn(weights, biases, DType::kF32, info_.token_tile));
    return std::make_unique<WideningMatrix>(std::move(f32));
  }
  void Embed(const kernels::EmbedArgs& args) override { host_->Embed(args); }
  void AddLayerNorm(const kernels::AddLayerNormArgs& args) override { host_->AddLayerNorm(args); }
  void GatedGelu(const kernels::GatedGeluArgs& args) override {
    EXPECT_EQ(args.out_type, DType::kBF16);
    host_->GatedGelu(args);
  }
  void F32ToBf16(const float* in, int64_t n, uint16_t* out) override {
    host_->F32ToBf16(in, n, out);
  }
  void Bf16ToF32(const uint16_t* in, int64_t n, float* out) override {
    host_->Bf16ToF32(in, n, out);
  }
  int64_t MeanPoolScratchBytes(const kernels::PoolArgs& args) override {
    return host_->MeanPoolScratchBytes(args);
  }
  void MeanPool(const kernels::PoolArgs& args) override { host_->MeanPool(args); }
  int64_t ColumnMaximaScratchBytes(int64_t rows, int64_t columns) const override {
    return host_->ColumnMaximaScratchBytes(rows, columns);
  }
  void ColumnMaxima(const kernels::ColumnMaximaArgs& args) override { host_->ColumnMaxima(args); }
  void SumMaxima(const kernels::SumMaximaArgs& args) override { host_->SumMaxima(args); }
  void UnitRows(const kernels::UnitRowsArgs& args) override { host_->UnitRows(args); }
  absl::StatusOr<std::unique_ptr<AttentionSteps>> MakeAttention(
      const kernels::AttentionProblem& problem) override {
    return MakeHostAttention(*kernels::GetCpuKernels(kernels::BestCpuIsa()), info_, memory(),
                             problem);
  }
  int64_t AttentionBytes(const kernels::AttentionProblem& problem) const override {
    return host_->AttentionBytes(problem);
  }
  void RmsNorm(const kernels::RmsNormArgs& args) override { host_->RmsNorm(args); }
  int64_t RouteScratchBytes(int64_t n) const override { return host_->RouteScratchBytes(n); }
  void Route(const RouteTokensArgs& args) override { host_->Route(args); }
  void ScatterAdd(const kernels::ScatterAddArgs& args) override { host_->ScatterAdd(args); }
  void ScatterAddWithin(const kernels::ScatterAddArgs& args, int64_t begin, int64_t end) override {
    host_->ScatterAddWithin(args, begin, end);
  }
  void MqaStore(const kernels::MqaStoreArgs& args) override { host_->MqaStore(args); }
  int64_t MqaScratchBytes(int64_t rows, int32_t head_dim) override {
    return host_->MqaScratchBytes(rows, head_dim);
  }
  void MqaPartial(const kernels::MqaPartialArgs& args) override { host_->MqaPartial(args); }
  void MqaMerge(const kernels::MqaMergeArgs& args) override { host_->MqaMerge(args); }
  void LogSoftmaxTile(const kernels::LogSoftmaxTileArgs& args) override {
    host_->LogSoftmaxTile(args);
  }

 private:
  const std::unique_ptr<Backend> host_;
  BackendInfo info_;
};

}  // namespace longdoc::testing
