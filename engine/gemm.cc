#include "engine/gemm.h"

#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/cpu_kernels.h"
#include "kernels/reference/reference.h"

// libgomp's; declared here because omp.h belongs to one compiler only.
extern "C" void omp_set_num_threads(int);

namespace longdoc {
namespace {

using dnnl::memory;

float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  uint32_t exponent = (h >> 10) & 0x1f;
  uint32_t mantissa = h & 0x3ff;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000 | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;  // subnormal half, exact in fp32
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

absl::Status CheckShapes(const std::vector<TensorView>& weights,
                         const std::vector<TensorView>& biases) {
  if (weights.empty()) return absl::InvalidArgumentError("no weights to pack");
  if (!biases.empty() && biases.size() != weights.size()) {
    return absl::InvalidArgumentError("weights and biases differ in number");
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& shape = weights[i].shape;
    if (shape.size() != 2 || shape[1] != weights[0].shape[1]) {
      return absl::InvalidArgumentError("weight matrices to pack differ in their input dimension");
    }
    if (!biases.empty() && biases[i].num_elements() != shape[0]) {
      return absl::InvalidArgumentError("bias and weight matrix differ in their output dimension");
    }
  }
  return absl::OkStatus();
}

std::vector<float> Concatenate(const std::vector<TensorView>& tensors) {
  std::vector<float> all;
  for (const TensorView& t : tensors) {
    std::vector<float> part = ToFloats(t);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// Row counts are rounded up to these, so that few primitives are ever made.
int64_t RowBucket(int64_t rows) {
  if (rows <= 16) return 16;
  if (rows <= 256) return kernels::RoundUp(rows, 32);
  return kernels::RoundUp(rows, 256);
}

class OneDnnMatrix final : public PackedMatrix {
 public:
  OneDnnMatrix(int64_t n, int64_t k, DType input_type)
      : n_(n),
        k_(k),
        input_type_(input_type == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32),
        engine_(dnnl::engine::kind::cpu, 0) {}

  void Pack(const std::vector<float>& weights, std::vector<float> bias, int64_t typical_rows) {
    bias_ = std::move(bias);
    const memory::desc any({k_, n_}, input_type_, memory::format_tag::any);
    const auto pd = Describe(RowBucket(typical_rows), any);
    weights_ = memory(pd.weights_desc(), engine_);
    // W is [N, K] row-major, which is [K, N] in the transposed plain format.
    const memory::desc plain({k_, n_}, memory::data_type::f32, memory::format_tag::ba);
    memory source(plain, engine_, const_cast<float*>(weights.data()));
    dnnl::stream stream(engine_);
    dnnl::reorder(source, weights_).execute(stream, source, weights_);
    stream.wait();
  }

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override {
    return static_cast<int64_t>(weights_.get_desc().get_size() + bias_.size() * sizeof(float));
  }

  absl::Status Gemm(int64_t rows, const void* a, float* c) const override {
    if (rows == 0) return absl::OkStatus();
    try {
      Run(rows, a, c);
    } catch (const dnnl::error& e) {
      return absl::InternalError(absl::StrFormat(
          "oneDNN matrix product [%d, %d] x [%d, %d] failed: %s", rows, k_, k_, n_, e.what()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory in a matrix product");
    }
    return absl::OkStatus();
  }

 private:
  struct Plan {
    dnnl::matmul primitive;
    memory::desc src, dst, scratchpad;
  };

  dnnl::matmul::primitive_desc Describe(int64_t rows, const memory::desc& weights) const {
    const memory::desc src({rows, k_}, input_type_, memory::format_tag::ab);
    const memory::desc dst({rows, n_}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (bias_.empty()) {
      return {dnnl::matmul::desc(src, weights, dst), attr, engine_};
    }
    const memory::desc bias({1, n_}, memory::data_type::f32, memory::format_tag::ab);
    return {dnnl::matmul::desc(src, weights, bias, dst), attr, engine_};
  }

  const Plan& PlanFor(int64_t rows) const {
    std::lock_guard lock(mutex_);
    auto found = plans_.find(rows);
    if (found != plans_.end()) return found->second;
    const auto pd = Describe(rows, weights_.get_desc());
    Plan plan{dnnl::matmul(pd), pd.src_desc(), pd.dst_desc(), pd.scratchpad_desc()};
    return plans_.emplace(rows, std::move(plan)).first->second;
  }

  // The last rows of a bucket may lie behind the caller's arrays: they go through a small copy.
  void Run(int64_t rows, const void* a, float* c) const {
    const int64_t bucket = RowBucket(rows);
    if (bucket == rows) return Execute(bucket, a, c);
    thread_local std::vector<float> padded_in, padded_out;
    const size_t row_bytes = static_cast<size_t>(k_) * memory::data_type_size(input_type_);
    padded_in.resize((static_cast<size_t>(bucket) * row_bytes + 3) / 4);
    padded_out.resize(static_cast<size_t>(bucket) * n_);
    char* in = reinterpret_cast<char*>(padded_in.data());
    std::memcpy(in, a, rows * row_bytes);
    std::memset(in + rows * row_bytes, 0, (bucket - rows) * row_bytes);
    Execute(bucket, in, padded_out.data());
    std::memcpy(c, padded_out.data(), static_cast<size_t>(rows) * n_ * sizeof(float));
  }

  void Execute(int64_t rows, const void* a, float* c) const {
    const Plan& plan = PlanFor(rows);
    thread_local std::vector<char> scratch;
    if (scratch.size() < plan.scratchpad.get_size()) scratch.resize(plan.scratchpad.get_size());
    dnnl::stream stream(engine_);
    std::unordered_map<int, memory> args = {
        {DNNL_ARG_SRC, memory(plan.src, engine_, const_cast<void*>(a))},
        {DNNL_ARG_WEIGHTS, weights_},
        {DNNL_ARG_DST, memory(plan.dst, engine_, c)},
        {DNNL_ARG_SCRATCHPAD, memory(plan.scratchpad, engine_, scratch.data())}};
    if (!bias_.empty()) {
      const memory::desc bias({1, n_}, memory::data_type::f32, memory::format_tag::ab);
      args.emplace(DNNL_ARG_BIAS, memory(bias, engine_, const_cast<float*>(bias_.data())));
    }
    plan.primitive.execute(stream, args);
    stream.wait();
  }

  const int64_t n_, k_;
  const memory::data_type input_type_;
  dnnl::engine engine_;
  memory weights_;
  std::vector<float> bias_;
  mutable std::mutex mutex_;
  mutable std::map<int64_t, Plan> plans_;  // by row bucket; entries never move
};

class ReferenceMatrix final : public PackedMatrix {
 public:
  ReferenceMatrix(int64_t n, int64_t k, std::vector<float> weights, std::vector<float> bias)
      : n_(n), k_(k), weights_(std::move(weights)), bias_(std::move(bias)) {}
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  int64_t bytes() const override {
    return static_cast<int64_t>((weights_.size() + bias_.size()) * sizeof(float));
  }
  absl::Status Gemm(int64_t rows, const void* a, float* c) const override {
    kernels::reference::Gemm(rows, n_, k_, static_cast<const float*>(a), weights_.data(),
                             bias_.empty() ? nullptr : bias_.data(), c);
    return absl::OkStatus();
  }

 private:
  const int64_t n_, k_;
  const std::vector<float> weights_, bias_;
};

int64_t TotalRows(const std::vector<TensorView>& weights) {
  int64_t n = 0;
  for (const TensorView& w : weights) n += w.shape[0];
  return n;
}

}  // namespace

std::vector<float> ToFloats(const TensorView& tensor) {
  std::vector<float> out(tensor.num_elements());
  // Checkpoints need not align their tensors: go through memcpy.
  const char* p = static_cast<const char*>(tensor.data);
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out.data(), p, out.size() * sizeof(float));
    return out;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    if (tensor.dtype == DType::kF16) {
      out[i] = HalfToFloat(half);
    } else {
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(&out[i], &bits, 4);
    }
  }
  return out;
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWithOneDnn(const std::vector<TensorView>& weights,
                                                             const std::vector<TensorView>& biases,
                                                             DType input_type,
                                                             int64_t typical_rows) {
  absl::Status status = CheckShapes(weights, biases);
  if (!status.ok()) return status;
  try {
    auto matrix =
        std::make_unique<OneDnnMatrix>(TotalRows(weights), weights[0].shape[1], input_type);
    matrix->Pack(Concatenate(weights), Concatenate(biases), typical_rows);
    return matrix;
  } catch (const dnnl::error& e) {
    return absl::InternalError(absl::StrCat("oneDNN cannot pack a weight matrix: ", e.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while packing weights");
  }
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackForReference(
    const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) {
  absl::Status status = CheckShapes(weights, biases);
  if (!status.ok()) return status;
  return std::make_unique<ReferenceMatrix>(TotalRows(weights), weights[0].shape[1],
                                           Concatenate(weights), Concatenate(biases));
}

void UseSingleThreadedGemm() { omp_set_num_threads(1); }

}  // namespace longdoc
