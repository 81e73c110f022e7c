// Gated GELU, scatter-add and pooling on the device against the reference, and against double where
// the contract gives a bound.
#include <cstdio>
#include <cstring>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::kBf16;
using kernels::testing::kGelu;
using kernels::testing::kMeanPool;

// ---- gated GELU -------------------------------------------------------------------------------

double ExactGelu(double x, bool tanh_form) {
  if (!tanh_form) return x * 0.5 * std::erfc(-x * std::sqrt(0.5));
  return x / (1 + std::exp(-std::sqrt(8 / M_PI) * (x + 0.044715 * x * x * x)));
}

std::vector<float> AllMagnitudes() {
  std::vector<float> x;
  for (uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (uint32_t m = 0; m < 64; ++m) {
      const uint32_t bits = (exponent << 23) | ((m * 0x1f3d5bu) & 0x7fffffu);
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      x.push_back(value);
      x.push_back(-value);
    }
  }
  for (int i = -14000; i <= 14000; ++i) x.push_back(static_cast<float>(i) * 1e-3f);
  while (x.size() % 8 != 0) x.push_back(0);
  return x;
}

// Every exponent and several mantissas, both signs, against double.
PARITY_TEST(dense_gelu_is_accurate_over_all_floats) {
  const float least = std::numeric_limits<float>::min();
  for (bool narrow_in : {false, true}) {
    std::vector<float> x = AllMagnitudes();
    if (narrow_in) x = FromBf16(ToBf16(x));
    const int64_t count = static_cast<int64_t>(x.size());
    std::vector<float> values(x);
    values.resize(2 * count, 1.0f);
    DeviceArray<float> in(values), out(std::vector<float>(count, -7.0f));
    DeviceArray<uint16_t> bf16_in(ToBf16(values)), bf16(count);
    for (bool tanh_form : {false, true}) {
      GatedGeluArgs args;
      args.rows = 1;
      args.dim = count;
      args.in_type = narrow_in ? DType::kBF16 : DType::kF32;
      args.in = narrow_in ? static_cast<const void*>(bf16_in.data()) : in.data();
      args.tanh_form = tanh_form;
      args.out = out.data();
      EXPECT_OK(GatedGelu(args, nullptr));
      args.out_type = DType::kBF16;
      args.out = bf16.data();
      EXPECT_OK(GatedGelu(args, nullptr));
      const std::vector<float> exact_form = out.Download(), rounded = FromBf16(bf16.Download());
      double worst = 0, worst_rounded = 0;
      int64_t moved = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double exact = ExactGelu(x[i], tanh_form);
        if (std::abs(exact) < least) {
          if (!(std::abs(exact_form[i]) <= least && std::abs(rounded[i]) <= least)) {
            Failed(__FILE__, __LINE__, "x %g", x[i]);
          }
        } else if (std::abs(exact) < 3.3e38) {  // beyond, bf16 is infinite
          worst = std::max(worst, std::abs(exact_form[i] - exact) / std::abs(exact));
          // The short formula flushes what is below 2^-126 before the last product.
          if (std::abs(exact) > 16 * least) {
            moved += rounded[i] != reference::Bf16Value(reference::RoundToBf16(exact_form[i]));
            worst_rounded = std::max(worst_rounded, std::abs(rounded[i] - exact) / std::abs(exact));
          }
        }
      }
      std::printf("  %s gelu: %.2e relative, bf16 %.2e, %lld of %lld moved\n",
                  tanh_form ? "tanh" : "erf", worst, worst_rounded, static_cast<long long>(moved),
                  static_cast<long long>(count));
      EXPECT(worst <= kGelu);
      EXPECT(worst_rounded <= kBf16 + 1e-4);
      // Far less than a rounding apart from the exact form: few results fall on the other side.
      EXPECT(static_cast<double>(moved) <= 0.01 * static_cast<double>(count));
    }
  }
}

PARITY_TEST(dense_gated_gelu_shapes) {
  for (int64_t dim : {1, 4, 5, 8, 12, 16, 100, 1024}) {
    for (int64_t rows : {0, 1, 4}) {
      for (int form = 0; form < 8; ++form) {
        const int64_t shift = form == 7 ? 1 : 0;
        const std::vector<uint16_t> narrow = ToBf16(RandomFloats(rows * 2 * dim, 7, 3.0f));
        const std::vector<float> wide = FromBf16(narrow);
        std::vector<float> expected(rows * dim);
        GatedGeluArgs args;
        args.rows = rows;
        args.dim = dim;
        args.activate_second_half = (form & 1) != 0;
        args.tanh_form = (form & 2) != 0;
        args.in = wide.data();
        args.out = expected.data();
        reference::GatedGelu(args);
        ShiftedArray<float> device_wide(wide, shift);
        ShiftedArray<uint16_t> device_narrow(narrow, shift);
        ShiftedArray<float> out(std::vector<float>(rows * dim, -7.0f), shift);
        ShiftedArray<uint16_t> bf16(std::vector<uint16_t>(rows * dim), shift);
        const bool narrow_in = (form & 4) != 0;
        args.in_type = narrow_in ? DType::kBF16 : DType::kF32;
        args.in = narrow_in ? static_cast<const void*>(device_narrow.data()) : device_wide.data();
        args.out = out.data();
        EXPECT_OK(GatedGelu(args, nullptr));
        args.out_type = DType::kBF16;
        args.out = bf16.data();
        EXPECT_OK(GatedGelu(args, nullptr));
        const std::vector<float> result = out.Download(), rounded = FromBf16(bf16.Download());
        bool near = true;
        for (int64_t i = 0; i < rows * dim; ++i) {
          const double size = std::abs(expected[i]);
          near = near && std::abs(result[i] - expected[i]) <= 2 * kGelu * size + 1e-37 &&
                 std::abs(rounded[i] - expected[i]) <= (kBf16 + 1e-4) * size + 1e-37;
        }
        if (!near) {
          Failed(__FILE__, __LINE__, "rows %lld dim %lld form %d", static_cast<long long>(rows),
                 static_cast<long long>(dim), form);
        }
      }
    }
  }
}

PARITY_TEST(dense_gated_gelu_of_what_is_not_finite) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> in{inf, nan, 1, 0, 1, 1, 1, nan, 2, 2, nan, inf, 1, inf, 2, 2};
  const int64_t dim = 8;
  std::vector<float> expected(dim);
  GatedGeluArgs args;
  args.rows = 1;
  args.dim = dim;
  args.in = in.data();
  args.out = expected.data();
  reference::GatedGelu(args);
  DeviceArray<float> device_in(in), out(std::vector<float>(dim, -7.0f));
  DeviceArray<uint16_t> bf16(std::vector<uint16_t>(dim, 0));
  args.in = device_in.data();
  for (bool tanh_form : {false, true}) {
    args.tanh_form = tanh_form;
    args.out_type = DType::kF32;
    args.out = out.data();
    EXPECT_OK(GatedGelu(args, nullptr));
    args.out_type = DType::kBF16;
    args.out = bf16.data();
    EXPECT_OK(GatedGelu(args, nullptr));
    for (const std::vector<float>& result : {out.Download(), FromBf16(bf16.Download())}) {
      for (int64_t i = 0; i < dim; ++i) {
        EXPECT(std::isnan(result[i]) == std::isnan(expected[i]));
        EXPECT(std::isinf(result[i]) == std::isinf(expected[i]));
      }
    }
  }
  args.out_type = DType::kF16;  // not an output
  EXPECT(GatedGelu(args, nullptr) == cudaErrorInvalidValue);
}

// ---- scatter-add ------------------------------------------------------------------------------

PARITY_TEST(dense_scatter_add_shapes) {
  for (int64_t dim : {1, 16, 77, 100, 768}) {
    for (int variant = 0; variant < 8; ++variant) {
      const int64_t rows = 6, out_rows = 11, shift = variant / 4;
      const std::vector<float> in = RandomFloats(rows * dim, 8), scale = RandomFloats(rows, 9);
      const std::vector<int32_t> indices{10, 0, 3, 4, 7, 1};
      std::vector<float> expected = RandomFloats(out_rows * dim, 10);
      ShiftedArray<float> device_in(in, shift), out(expected, shift);
      DeviceArray<float> device_scale(scale);
      DeviceArray<int32_t> device_indices(indices);
      ScatterAddArgs args;
      args.rows = rows;
      args.dim = dim;
      args.indices = (variant & 1) != 0 ? indices.data() : nullptr;
      args.row_scale = (variant & 2) != 0 ? scale.data() : nullptr;
      args.in = in.data();
      args.out = expected.data();
      reference::ScatterAdd(args);
      args.indices = (variant & 1) != 0 ? device_indices.data() : nullptr;
      args.row_scale = (variant & 2) != 0 ? device_scale.data() : nullptr;
      args.in = device_in.data();
      args.out = out.data();
      EXPECT_OK(ScatterAdd(args, nullptr));
      args.rows = 0;
      EXPECT_OK(ScatterAdd(args, nullptr));
      EXPECT(MaxDistance(out.Download(), expected) <= 1e-6);
    }
  }
}

// ---- pooling ----------------------------------------------------------------------------------

std::vector<float> RunMeanPool(const std::vector<float>& x, int64_t tokens, int64_t dim,
                               const std::vector<int64_t>& begin, const std::vector<int64_t>& end,
                               int64_t shift) {
  PoolArgs args;
  args.spans = static_cast<int64_t>(begin.size());
  args.dim = dim;
  args.tokens = tokens;
  ShiftedArray<float> device_x(x, shift), out(std::vector<float>(args.spans * dim, -7.0f), shift);
  DeviceArray<int64_t> device_begin(begin), device_end(end);
  args.x = device_x.data();
  args.begin = device_begin.data();
  args.end = device_end.data();
  args.out = out.data();
  DeviceArray<uint8_t> workspace(PoolWorkspaceBytes(args));
  args.workspace = workspace.data();
  EXPECT_OK(MeanPool(args, nullptr));
  return out.Download();
}

PARITY_TEST(dense_mean_pool_of_many_spans) {
  for (int64_t dim : {1, 19, 64, 600}) {
    for (int64_t tokens : {1, 31, 127, 128, 200, 1000, 5003}) {
      if (SmallShapes() && tokens > 1000 && dim > 64) continue;
      const std::vector<float> x = RandomFloats(tokens * dim, 12, 1.0f, 3.0f);
      // The document, nothing, single rows, halves, and a ladder of nested and overlapping spans.
      std::vector<int64_t> begin{0, tokens / 2, 0, tokens - 1, 0, tokens / 2};
      std::vector<int64_t> end{tokens, tokens / 2, 1, tokens, tokens / 2, tokens};
      for (int64_t s = 0; s < 40; ++s) {
        begin.push_back(s * 13 % tokens);
        end.push_back(std::min(tokens, begin.back() + 1 + s * s * 7 % 1500));
      }
      for (int64_t shift : {0, 1}) {
        const std::vector<float> out = RunMeanPool(x, tokens, dim, begin, end, shift);
        double worst = 0;
        for (size_t s = 0; s < begin.size(); ++s) {
          std::vector<float> expected(dim, 0.0f);
          if (begin[s] < end[s]) {
            reference::MeanPool(x.data(), dim, begin[s], end[s], expected.data());
          }
          const auto first = out.begin() + static_cast<int64_t>(s) * dim;
          worst = std::max(worst, MaxDistance(std::vector<float>(first, first + dim), expected));
        }
        if (!(worst <= kMeanPool * 3)) {
          Failed(__FILE__, __LINE__, "tokens %lld dim %lld", static_cast<long long>(tokens),
                 static_cast<long long>(dim));
        }
      }
    }
  }
}

PARITY_TEST(dense_mean_pool_of_a_million_rows) {
  // A plain fp32 sum of these is off by several percent.
  const int64_t rows = 1000000;
  std::vector<float> x(rows * 2);
  for (int64_t t = 0; t < rows; ++t) {
    x[2 * t] = 0.1f;
    x[2 * t + 1] = t % 2 == 0 ? 1000.1f : 1e-3f;
  }
  const std::vector<float> out = RunMeanPool(x, rows, 2, {0, 1}, {rows, rows - 1}, 0);
  for (int s = 0; s < 2; ++s) {
    EXPECT(std::abs(out[2 * s] - 0.1f) <= 1e-7);
    EXPECT(std::abs(out[2 * s + 1] - (1000.1f + 1e-3f) / 2) <= 1e-3);
  }
}

// Constant columns, whose roundings all go the same way: only compensated sums keep to one rounding
// of 2^-24 per level and one of the quotient.
PARITY_TEST(dense_mean_pool_compensates) {
  const int64_t rows = 33000, dim = 64;
  const std::vector<float> column = RandomFloats(dim, 17);
  std::vector<float> x(rows * dim);
  for (int64_t i = 0; i < rows * dim; ++i) x[i] = column[i % dim];
  const std::vector<float> out = RunMeanPool(x, rows, dim, {0, 31}, {rows, rows - 7}, 0);
  double worst = 0;
  for (int64_t i = 0; i < 2 * dim; ++i) {
    worst = std::max<double>(worst, std::abs(out[i] - column[i % dim]) / std::abs(column[i % dim]));
  }
  std::printf("  %.2e relative\n", worst);
  EXPECT(worst <= 3e-7);
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
