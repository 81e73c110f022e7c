// Attention problems of the shared cases, run on the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/attention_internal.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/convert.h"
#include "tests/kernels/attention_data.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {

using kernels::testing::AttentionCase;
using kernels::testing::AttentionTensors;
using kernels::testing::LongestValue;

// What a case gives on the device.
struct DeviceResult {
  std::vector<float> out;  // [T, H, D]
  std::vector<float> lse;  // [H, T]
  AttentionStats stats;    // over all sequences
  std::vector<AttentionStats> by_sequence;
};

// Copies of a problem's arrays and tensors in device memory. Rows lie further apart than they need
// to, with NaN between them; k and v share their rows.
class DeviceProblem {
 public:
  DeviceProblem(const AttentionCase& c, const AttentionTensors& t, bool in_place = false)
      : case_(c),
        cu_(kernels::testing::Offsets(c.lengths)),
        cu_keys_(kernels::testing::Offsets(c.gathered ? c.key_lengths : c.lengths)),
        slopes_(c.slopes.empty() ? kernels::testing::DefaultSlopes(c.heads) : c.slopes),
        d_cu_(cu_),
        d_cu_keys_(cu_keys_),
        d_slopes_(slopes_),
        d_q_positions_(c.q_positions),
        d_k_positions_(c.k_positions),
        d_list_offsets_(ListOffsets()),
        d_list_columns_(ListColumns()),
        q_stride_(int64_t{c.heads} * c.dim + 8),
        kv_stride_(2 * int64_t{c.kv_heads} * c.dim + 16),
        q_(Spread(t.q, {}, int64_t{c.heads} * c.dim, q_stride_)),
        kv_(Spread(t.k, t.v, int64_t{c.kv_heads} * c.dim, kv_stride_)),
        o_(c.tokens() * q_stride_),
        lse_(c.heads * c.tokens()),
        stats_(std::vector<AttentionStats>(c.lengths.size())) {
    AttentionProblem p = kernels::testing::MakeProblem(c, cu_, cu_keys_, slopes_);
    p.cu_seqlens = d_cu_.data();
    p.cu_seqlens_k = c.gathered ? d_cu_keys_.data() : nullptr;
    p.q_positions = c.gathered ? d_q_positions_.data() : nullptr;
    p.k_positions = c.gathered ? d_k_positions_.data() : nullptr;
    p.slopes = d_slopes_.data();
    if (p.mask.block_row_offsets != nullptr) {
      p.mask.block_row_offsets = d_list_offsets_.data();
      p.mask.block_columns = d_list_columns_.data();
    }
    args_.problem = p;
    args_.total_q = c.tokens();
    args_.total_k = cu_keys_.back();
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      args_.max_q = std::max(args_.max_q, c.lengths[s]);
      args_.max_k = std::max(args_.max_k, cu_keys_[s + 1] - cu_keys_[s]);
    }
    for (float slope : slopes_) args_.max_slope = std::max(args_.max_slope, slope);
    args_.q = {q_.data(), q_stride_};
    args_.k = {kv_.data(), kv_stride_};
    args_.v = {kv_.data() + int64_t{c.kv_heads} * c.dim, kv_stride_};
    args_.o = in_place ? args_.q : Rows{o_.data(), q_stride_};
    args_.lse = lse_.data();
    args_.stats = stats_.data();
    workspace_ = std::make_unique<DeviceBytes>(
        static_cast<size_t>(std::max<int64_t>(AttentionWorkspaceBytes(args_), 1)));
    args_.workspace = workspace_->get();
  }

  AttentionArgs& args() { return args_; }
  const std::vector<float>& slopes() const { return slopes_; }
  const std::vector<int64_t>& cu() const { return cu_; }
  const std::vector<int64_t>& cu_keys() const { return cu_keys_; }

  DeviceResult Result(bool in_place = false) const {
    DeviceResult result;
    const std::vector<uint16_t> rows = (in_place ? q_ : o_).Download();
    const int64_t width = int64_t{case_.heads} * case_.dim;
    for (int64_t i = 0; i < case_.tokens(); ++i) {
      for (int64_t e = 0; e < width; ++e) {
        result.out.push_back(reference::LoadAs(case_.storage, rows.data(), i * q_stride_ + e));
      }
      for (int64_t e = width; e < q_stride_; ++e) {
        if (rows[i * q_stride_ + e] != 0xffff) Failed(__FILE__, __LINE__, "wrote between rows");
      }
    }
    result.lse = lse_.Download();
    result.by_sequence = stats_.Download();
    for (const AttentionStats& s : result.by_sequence) {
      result.stats.tiles_computed += s.tiles_computed;
      result.stats.tiles_dense += s.tiles_dense;
      result.stats.max_bound = std::max(result.stats.max_bound, s.max_bound);
    }
    return result;
  }

 private:
  std::vector<int64_t> ListOffsets() const {
    const AttentionMask& mask = case_.mask;
    if (mask.block_row_offsets == nullptr) return {};
    int64_t rows = 0;
    for (int64_t length : case_.lengths) rows += CeilDiv(length, mask.block_tokens);
    return {mask.block_row_offsets, mask.block_row_offsets + rows + 1};
  }
  std::vector<int32_t> ListColumns() const {
    const std::vector<int64_t> offsets = ListOffsets();
    if (offsets.empty() || case_.mask.block_columns == nullptr) return {};
    return {case_.mask.block_columns, case_.mask.block_columns + offsets.back()};
  }
  // Rows of a, and of b behind them, `width` elements each, every `stride` elements.
  std::vector<uint16_t> Spread(const std::vector<float>& a, const std::vector<float>& b,
                               int64_t width, int64_t stride) const {
    const int64_t rows = static_cast<int64_t>(a.size()) / width;
    std::vector<uint16_t> out(static_cast<size_t>(rows * stride), 0xffff);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t e = 0; e < width; ++e) {
        reference::StoreAs(case_.storage, out.data(), i * stride + e, a[i * width + e]);
        if (b.empty()) continue;
        reference::StoreAs(case_.storage, out.data(), i * stride + width + e, b[i * width + e]);
      }
    }
    return out;
  }

  const AttentionCase& case_;
  const std::vector<int64_t> cu_, cu_keys_;
  const std::vector<float> slopes_;
  const DeviceArray<int64_t> d_cu_, d_cu_keys_;
  const DeviceArray<float> d_slopes_;
  const DeviceArray<int32_t> d_q_positions_, d_k_positions_;
  const DeviceArray<int64_t> d_list_offsets_;
  const DeviceArray<int32_t> d_list_columns_;
  const int64_t q_stride_, kv_stride_;
  const DeviceArray<uint16_t> q_, kv_, o_;
  const DeviceArray<float> lse_;
  const DeviceArray<AttentionStats> stats_;
  std::unique_ptr<DeviceBytes> workspace_;
  AttentionArgs args_;
};

inline DeviceResult RunDevice(const AttentionCase& c, const AttentionTensors& t,
                              bool in_place = false) {
  DeviceProblem problem(c, t, in_place);
  EXPECT_OK(Attention(problem.args(), nullptr));
  return problem.Result(in_place);
}

// Relative to max |v|: the weights and the output are rounded to the storage type, by half a unit
// of 8 or 11 significant bits each; scores in base 2 differ by a few units of fp32.
inline double Tolerance(DType storage) {
  const double unit = storage == DType::kBF16 ? 0x1p-9 : 0x1p-12;
  return 2 * unit + 2 * kernels::testing::kAttentionF32;
}

// Runs the case on the current capability and compares with the reference.
inline DeviceResult ExpectParity(const AttentionCase& c, uint32_t seed, const std::string& what) {
  const AttentionTensors t = kernels::testing::RandomTensors(c, seed, 2.0f);
  const DeviceResult result = RunDevice(c, t);
  const std::vector<float> expected = kernels::testing::RunReference(c, t);
  if (!EXPECT_CLOSE(result.out, expected, Tolerance(c.storage), kernels::testing::MaxAbs(t.v))) {
    Failed(__FILE__, __LINE__, "in %s", what.c_str());
  }
  return result;
}

}  // namespace longdoc::kernels::cuda::parity
