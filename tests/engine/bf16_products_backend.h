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
  void MeanPool(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) override {
    host_->MeanPool(x, dim, begin, end, out);
  }
  void StoreQueries(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                    const float* q, int64_t stride) override {
    host_->StoreQueries(p, token_begin, rows, q, stride);
  }
  void StoreKeysValues(const kernels::AttentionProblem& p, int64_t token_begin, int64_t rows,
                       const float* kv, int64_t stride) override {
    host_->StoreKeysValues(p, token_begin, rows, kv, stride);
  }
  void Bound(const kernels::AttentionProblem& p, int64_t sequence, int32_t head) override {
    host_->Bound(p, sequence, head);
  }
  std::vector<kernels::AttentionUnit> PlanUnits(const kernels::AttentionProblem& p) override {
    return host_->PlanUnits(p);
  }
  int64_t AttendScratchBytes(const kernels::AttentionProblem& p) override {
    return host_->AttendScratchBytes(p);
  }
  void Attend(const kernels::AttentionProblem& p, const kernels::AttentionUnit& unit, void* scratch,
              kernels::AttentionStats* stats) override {
    host_->Attend(p, unit, scratch, stats);
  }
  void RmsNorm(const kernels::RmsNormArgs& args) override { host_->RmsNorm(args); }
  void Route(const kernels::RouteArgs& args) override { host_->Route(args); }
  void ScatterAdd(const kernels::ScatterAddArgs& args) override { host_->ScatterAdd(args); }
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
