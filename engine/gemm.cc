#include "engine/gemm.h"

#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
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

int64_t TotalRows(const std::vector<TensorView>& weights) {
  int64_t n = 0;
  for (const TensorView& w : weights) n += w.shape[0];
  return n;
}

// Row counts are rounded up to these, so that few primitives are ever made.
int64_t RowBucket(int64_t rows) {
  if (rows <= 16) return 16;
  if (rows <= 256) return kernels::RoundUp(rows, 32);
  return kernels::RoundUp(rows, 256);
}

// A primitive for one row count, with the layouts that it wants.
struct Plan {
  dnnl::primitive primitive;
  memory::desc src, weights, dst, scratchpad;
  bool is_plain_loops;  // oneDNN's reference implementation, a hundred times slower
};

template <class PrimitiveDesc>
bool IsPlainLoops(const PrimitiveDesc& pd) {
  return std::string_view(pd.impl_info_str()).substr(0, 3) == "ref";
}

// One product as oneDNN's matmul or as a 1x1 convolution over `rows` pixels: the same sums. Below
// AVX-512 its matmul does not use packed weights and falls to a quarter of the peak on some of our
// shapes; its convolution does not.
struct ProductShape {
  int64_t n, k;
  memory::data_type input_type;
  bool has_bias;
  bool as_convolution;

  memory::dims WeightDims() const {
    return as_convolution ? memory::dims{n, k, 1, 1} : memory::dims{k, n};
  }
  // Layout of W [N, K] row-major in those dimensions.
  memory::format_tag PlainWeights() const {
    return as_convolution ? memory::format_tag::oihw : memory::format_tag::ba;
  }
  memory::desc Bias() const {
    if (as_convolution) return {{n}, memory::data_type::f32, memory::format_tag::a};
    return {{1, n}, memory::data_type::f32, memory::format_tag::ab};
  }

  Plan MakePlan(int64_t rows, const memory::desc& weights, const dnnl::engine& engine) const {
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const memory::desc bias = has_bias ? Bias() : memory::desc();
    if (as_convolution) {
      const auto nhwc = memory::format_tag::nhwc;
      const memory::desc src({1, k, 1, rows}, input_type, nhwc);
      const memory::desc dst({1, n, 1, rows}, memory::data_type::f32, nhwc);
      const dnnl::convolution_forward::primitive_desc pd({dnnl::prop_kind::forward_inference,
                                                          dnnl::algorithm::convolution_direct,
                                                          src,
                                                          weights,
                                                          bias,
                                                          dst,
                                                          {1, 1},
                                                          {0, 0},
                                                          {0, 0}},
                                                         attr, engine);
      return {dnnl::convolution_forward(pd),
              src,
              pd.weights_desc(),
              dst,
              pd.scratchpad_desc(),
              IsPlainLoops(pd)};
    }
    const memory::desc src({rows, k}, input_type, memory::format_tag::ab);
    const memory::desc dst({rows, n}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc pd({src, weights, bias, dst}, attr, engine);
    return {dnnl::matmul(pd), src, pd.weights_desc(), dst, pd.scratchpad_desc(), IsPlainLoops(pd)};
  }
};

class OneDnnMatrix final : public PackedMatrix {
 public:
  OneDnnMatrix(const std::vector<TensorView>& weights, const std::vector<TensorView>& biases,
               DType input_type, int64_t typical_rows)
      : shape_{TotalRows(weights), weights[0].shape[1],
               input_type == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32,
               !biases.empty(), !kernels::CpuSupports(kernels::CpuIsa::kAvx512)},
        typical_rows_(RowBucket(typical_rows)),
        engine_(dnnl::engine::kind::cpu, 0),
        bias_(Concatenate(biases)) {
    const memory::dims dims = shape_.WeightDims();
    const memory::desc any(dims, shape_.input_type, memory::format_tag::any);
    const Plan plan = shape_.MakePlan(typical_rows_, any, engine_);
    weights_ = memory(plan.weights, engine_);
    std::vector<float> plain = Concatenate(weights);
    memory source({dims, memory::data_type::f32, shape_.PlainWeights()}, engine_, plain.data());
    dnnl::stream stream(engine_);
    dnnl::reorder(source, weights_).execute(stream, source, weights_);
    stream.wait();
  }

  int64_t n() const override { return shape_.n; }
  int64_t k() const override { return shape_.k; }
  int64_t bytes() const override {
    return static_cast<int64_t>(weights_.get_desc().get_size() + bias_.size() * sizeof(float));
  }

  absl::Status Gemm(int64_t rows, const void* a, float* c) const override {
    if (rows == 0) return absl::OkStatus();
    try {
      Run(rows, a, c);
    } catch (const dnnl::error& e) {
      return absl::InternalError(absl::StrFormat(
          "oneDNN matrix product [%d, %d] x [%d, %d] failed: %s", rows, k(), k(), n(), e.what()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("out of memory in a matrix product");
    }
    return absl::OkStatus();
  }

 private:
  const Plan& PlanFor(int64_t rows) const {
    std::lock_guard lock(mutex_);
    auto found = plans_.find(rows);
    if (found != plans_.end()) return found->second;
    return plans_.emplace(rows, shape_.MakePlan(rows, weights_.get_desc(), engine_)).first->second;
  }

  // The last rows of a bucket may lie behind the caller's arrays: they go through a small copy.
  void Run(int64_t rows, const void* a, float* c) const {
    int64_t bucket = RowBucket(rows);
    // The weights were packed for the typical row count; should another one have no fast
    // implementation for that layout, rows of zeros are cheaper.
    if (bucket < typical_rows_ && PlanFor(bucket).is_plain_loops) bucket = typical_rows_;
    if (bucket == rows) return Execute(bucket, a, c);
    thread_local std::vector<float> padded_in, padded_out;
    const size_t row_bytes = static_cast<size_t>(k()) * memory::data_type_size(shape_.input_type);
    padded_in.resize((static_cast<size_t>(bucket) * row_bytes + 3) / 4);
    padded_out.resize(static_cast<size_t>(bucket * n()));
    char* in = reinterpret_cast<char*>(padded_in.data());
    std::memcpy(in, a, rows * row_bytes);
    std::memset(in + rows * row_bytes, 0, (bucket - rows) * row_bytes);
    Execute(bucket, in, padded_out.data());
    std::memcpy(c, padded_out.data(), static_cast<size_t>(rows * n()) * sizeof(float));
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
    if (shape_.has_bias) {
      args.emplace(DNNL_ARG_BIAS, memory(shape_.Bias(), engine_, const_cast<float*>(bias_.data())));
    }
    plan.primitive.execute(stream, args);
    stream.wait();
  }

  const ProductShape shape_;
  const int64_t typical_rows_;
  dnnl::engine engine_;
  const std::vector<float> bias_;
  memory weights_;
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

absl::Status CheckPackShapes(const std::vector<TensorView>& weights,
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

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackWithOneDnn(const std::vector<TensorView>& weights,
                                                             const std::vector<TensorView>& biases,
                                                             DType input_type,
                                                             int64_t typical_rows) {
  absl::Status status = CheckPackShapes(weights, biases);
  if (!status.ok()) return status;
  try {
    return std::make_unique<OneDnnMatrix>(weights, biases, input_type, typical_rows);
  } catch (const dnnl::error& e) {
    return absl::InternalError(absl::StrCat("oneDNN cannot pack a weight matrix: ", e.what()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory while packing weights");
  }
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackForReference(
    const std::vector<TensorView>& weights, const std::vector<TensorView>& biases) {
  absl::Status status = CheckPackShapes(weights, biases);
  if (!status.ok()) return status;
  return std::make_unique<ReferenceMatrix>(TotalRows(weights), weights[0].shape[1],
                                           Concatenate(weights), Concatenate(biases));
}

void UseSingleThreadedGemm() { omp_set_num_threads(1); }

}  // namespace longdoc
