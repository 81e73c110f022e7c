// Layer normalisation, gated GELU, embedding, pooling and conversions of every table.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

class SmallOps : public TableTest {};

TEST_P(SmallOps, AddLayerNorm) {
  for (int64_t dim : {1, 7, 16, 33, 512, 1023}) {
    for (bool with_residual : {false, true}) {
      const int64_t rows = 5, stride = dim + 3;
      const std::vector<float> a = RandomFloats(rows * stride, 1, 2.0f, 5.0f);
      const std::vector<float> residual = RandomFloats(rows * dim, 2);
      const std::vector<float> gamma = RandomFloats(dim, 3), beta = RandomFloats(dim, 4);
      std::vector<float> expected(rows * stride, -7.0f), out = expected;
      std::vector<uint16_t> bf16(rows * dim), expected_bf16(rows * dim);
      AddLayerNormArgs args;
      args.rows = rows;
      args.dim = dim;
      args.a = a.data();
      args.a_stride = args.out_stride = stride;
      args.residual = with_residual ? residual.data() : nullptr;
      args.gamma = gamma.data();
      args.beta = with_residual ? beta.data() : nullptr;
      args.epsilon = 1e-5f;
      args.out = expected.data();
      args.out_bf16 = expected_bf16.data();
      reference::AddLayerNorm(args);
      args.out = out.data();
      args.out_bf16 = bf16.data();
      kernels().AddLayerNorm(args);
      const double scale = std::max(1.0, MaxAbs(expected));
      EXPECT_LE(MaxDifference(out, expected), kLayerNorm * scale) << dim;
      for (int64_t i = 0; i < rows * dim; ++i) {
        const float exact = out[i / dim * stride + i % dim];
        EXPECT_EQ(FromBf16(bf16[i]), RoundTo(DType::kBF16, exact));
      }
    }
  }
}

TEST_P(SmallOps, AddLayerNormInPlace) {
  const int64_t rows = 3, dim = 50;
  const std::vector<float> a = RandomFloats(rows * dim, 5), residual = RandomFloats(rows * dim, 6);
  const std::vector<float> gamma(dim, 1.5f);
  AddLayerNormArgs args;
  args.rows = rows;
  args.dim = args.a_stride = args.out_stride = dim;
  args.gamma = gamma.data();
  std::vector<float> apart(rows * dim), over_a = a, over_residual = residual;
  args.a = a.data();
  args.residual = residual.data();
  args.out = apart.data();
  kernels().AddLayerNorm(args);
  args.a = args.out = over_a.data();
  kernels().AddLayerNorm(args);
  EXPECT_EQ(over_a, apart);
  args.a = a.data();
  args.residual = args.out = over_residual.data();
  kernels().AddLayerNorm(args);
  EXPECT_EQ(over_residual, apart);
}

double ExactGelu(double x, bool tanh_form) {
  if (!tanh_form) return x * 0.5 * std::erfc(-x * std::sqrt(0.5));
  return x / (1 + std::exp(-std::sqrt(8 / M_PI) * (x + 0.044715 * x * x * x)));
}

// Every exponent and several mantissas, both signs, against double.
TEST_P(SmallOps, GeluIsAccurateOverAllFloats) {
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
  const int64_t count = static_cast<int64_t>(x.size());
  std::vector<float> in(2 * count, 1.0f), out(count);
  std::copy(x.begin(), x.end(), in.begin());
  for (bool tanh_form : {false, true}) {
    GatedGeluArgs args;
    args.rows = 1;
    args.dim = count;
    args.in = in.data();
    args.tanh_form = tanh_form;
    args.out = out.data();
    kernels().GatedGelu(args);
    double worst = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double exact = ExactGelu(x[i], tanh_form);
      if (std::abs(exact) < std::numeric_limits<float>::min()) {
        EXPECT_LE(std::abs(out[i]), std::numeric_limits<float>::min()) << x[i];
      } else {
        worst = std::max(worst, std::abs(out[i] - exact) / std::abs(exact));
      }
    }
    std::printf("[   WORST  ] %s gelu %s: %.2e relative\n", tanh_form ? "tanh" : "erf",
                kernels().name, worst);
    EXPECT_LE(worst, kGelu);
  }
}

TEST_P(SmallOps, GatedGelu) {
  for (int64_t dim : {1, 5, 16, 100}) {
    for (int form = 0; form < 4; ++form) {
      const int64_t rows = 4;
      const std::vector<float> in = RandomFloats(rows * 2 * dim, 7, 3.0f);
      std::vector<float> expected(rows * dim), out(rows * dim);
      std::vector<uint16_t> bf16(rows * dim);
      GatedGeluArgs args;
      args.rows = rows;
      args.dim = dim;
      args.in = in.data();
      args.activate_second_half = (form & 1) != 0;
      args.tanh_form = (form & 2) != 0;
      args.out = expected.data();
      reference::GatedGelu(args);
      args.out = out.data();
      kernels().GatedGelu(args);
      for (int64_t i = 0; i < rows * dim; ++i) {
        EXPECT_NEAR(out[i], expected[i], 2 * kGelu * std::abs(expected[i]) + 1e-37);
      }
      args.out_type = DType::kBF16;
      args.out = bf16.data();
      kernels().GatedGelu(args);
      for (int64_t i = 0; i < rows * dim; ++i) {
        EXPECT_EQ(FromBf16(bf16[i]), RoundTo(DType::kBF16, out[i]));
      }
      // bf16 in is the same as its values in fp32.
      std::vector<uint16_t> narrow(in.size());
      std::vector<float> wide(in.size()), from_narrow(rows * dim);
      kernels().F32ToBf16(in.data(), static_cast<int64_t>(in.size()), narrow.data());
      kernels().Bf16ToF32(narrow.data(), static_cast<int64_t>(in.size()), wide.data());
      args.in = wide.data();
      args.out_type = DType::kF32;
      args.out = out.data();
      kernels().GatedGelu(args);
      args.in_type = DType::kBF16;
      args.in = narrow.data();
      args.out = from_narrow.data();
      kernels().GatedGelu(args);
      EXPECT_EQ(from_narrow, out);
      args.out = expected.data();
      reference::GatedGelu(args);
      for (int64_t i = 0; i < rows * dim; ++i) {
        EXPECT_NEAR(out[i], expected[i], 2 * kGelu * std::abs(expected[i]) + 1e-37);
      }
    }
  }
}

TEST_P(SmallOps, Embed) {
  const int64_t vocabulary = 50, rows = 9;
  for (int64_t dim : {3, 16, 77}) {
    const std::vector<float> table = RandomFloats(vocabulary * dim, 8);
    const std::vector<float> type = RandomFloats(dim, 9), gamma = RandomFloats(dim, 10);
    const std::vector<float> beta = RandomFloats(dim, 11);
    std::vector<uint16_t> half(vocabulary * dim);
    for (size_t i = 0; i < half.size(); ++i)
      half[i] = static_cast<uint16_t>(0x2c00 + i * 37 % 9000);
    const std::vector<int32_t> ids{0, 49, 7, 7, 3, 1, 20, 48, 30};
    for (DType table_type : {DType::kF32, DType::kBF16, DType::kF16}) {
      EmbedArgs args;
      args.rows = rows;
      args.dim = dim;
      args.ids = ids.data();
      args.table_type = table_type;
      args.word = table_type == DType::kF32 ? static_cast<const void*>(table.data()) : half.data();
      args.type = table_type == DType::kBF16 ? nullptr : type.data();
      args.gamma = gamma.data();
      args.beta = beta.data();
      args.epsilon = 1e-12f;
      std::vector<float> expected(rows * dim), out(rows * dim);
      std::vector<uint16_t> bf16(rows * dim);
      args.out = expected.data();
      reference::Embed(args);
      args.out = out.data();
      args.out_bf16 = bf16.data();
      kernels().Embed(args);
      EXPECT_LE(MaxDifference(out, expected), kLayerNorm * std::max(1.0, MaxAbs(expected)));
      EXPECT_EQ(FromBf16(bf16[5]), RoundTo(DType::kBF16, out[5]));
    }
  }
}

TEST_P(SmallOps, EmbedWithoutNormCopiesRows) {
  const int64_t vocabulary = 20, rows = 4;
  for (int64_t dim : {1, 16, 45}) {
    for (bool with_type : {false, true}) {
      const std::vector<float> table = RandomFloats(vocabulary * dim, 13);
      const std::vector<float> type = RandomFloats(dim, 14);
      const std::vector<int32_t> ids{19, 0, 7, 7};
      std::vector<float> out(rows * dim), expected(rows * dim);
      std::vector<uint16_t> bf16(rows * dim);
      EmbedArgs args;
      args.rows = rows;
      args.dim = dim;
      args.ids = ids.data();
      args.word = table.data();
      args.type = with_type ? type.data() : nullptr;
      args.out = expected.data();
      reference::Embed(args);
      args.out = out.data();
      args.out_bf16 = bf16.data();
      kernels().Embed(args);
      EXPECT_EQ(out, expected);
      for (int64_t i = 0; i < rows * dim; ++i) {
        const float sum = table[ids[i / dim] * dim + i % dim] + (with_type ? type[i % dim] : 0);
        EXPECT_EQ(out[i], sum);
        EXPECT_EQ(FromBf16(bf16[i]), RoundTo(DType::kBF16, sum));
      }
    }
  }
}

TEST_P(SmallOps, MeanPool) {
  for (int64_t dim : {1, 19, 64, 600}) {
    const int64_t rows = 200;
    const std::vector<float> x = RandomFloats(rows * dim, 12, 1.0f, 3.0f);
    std::vector<float> expected(dim), out(dim);
    reference::MeanPool(x.data(), dim, 10, 150, expected.data());
    kernels().MeanPool(x.data(), dim, 10, 150, out.data());
    EXPECT_LE(MaxDifference(out, expected), kMeanPool * 3);
  }
}

TEST_P(SmallOps, MeanPoolOfAMillionRows) {
  // A plain fp32 sum of these is off by several percent.
  const int64_t rows = 1000000;
  std::vector<float> x(rows * 2), out(2);
  for (int64_t t = 0; t < rows; ++t) {
    x[2 * t] = 0.1f;
    x[2 * t + 1] = t % 2 == 0 ? 1000.1f : 1e-3f;
  }
  kernels().MeanPool(x.data(), 2, 0, rows, out.data());
  EXPECT_NEAR(out[0], 0.1f, 1e-7);
  EXPECT_NEAR(out[1], (1000.1f + 1e-3f) / 2, 5e-4);
}

TEST_P(SmallOps, Bf16RoundsToNearestEvenAndKeepsNan) {
  std::vector<uint16_t> all(65536), back(65536);
  for (int i = 0; i < 65536; ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(65536);
  kernels().Bf16ToF32(all.data(), 65536, wide.data());
  for (int i = 0; i < 65536; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &wide[i], sizeof(bits));
    ASSERT_EQ(bits, static_cast<uint32_t>(i) << 16);
  }
  kernels().F32ToBf16(wide.data(), 65536, back.data());
  for (int i = 0; i < 65536; ++i) {
    if (std::isnan(wide[i])) {
      EXPECT_TRUE(std::isnan(FromBf16(back[i])));
    } else {
      EXPECT_EQ(back[i], all[i]);
    }
  }
  struct Pair {
    uint32_t in;
    uint16_t out;
  };
  // Ties to even both ways, just above and below a tie, the largest float, a NaN with low bits
  // only.
  const Pair pairs[] = {{0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
                        {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80}, {0x7f800001, 0x7fc0},
                        {0x00000001, 0x0000}, {0x80018000, 0x8002}};
  for (const Pair& pair : pairs) {
    for (int64_t count : {1, 19}) {
      float value;
      std::memcpy(&value, &pair.in, sizeof(value));
      const std::vector<float> in(count, value);
      std::vector<uint16_t> out(count);
      kernels().F32ToBf16(in.data(), count, out.data());
      EXPECT_EQ(out, std::vector<uint16_t>(count, pair.out)) << std::hex << pair.in;
    }
  }
}

TEST_P(SmallOps, ZeroRowsTouchNothing) {
  AddLayerNormArgs norm;
  norm.dim = 8;
  kernels().AddLayerNorm(norm);
  GatedGeluArgs gelu;
  gelu.dim = 8;
  kernels().GatedGelu(gelu);
  EmbedArgs embed;
  embed.dim = 8;
  kernels().Embed(embed);
  kernels().F32ToBf16(nullptr, 0, nullptr);
  kernels().Bf16ToF32(nullptr, 0, nullptr);
}

INSTANTIATE_TEST_SUITE_P(Tables, SmallOps, ::testing::ValuesIn(AllTables()), TableName);

TEST(CpuDispatch, TablesSayWhatTheyAre) {
  EXPECT_TRUE(CpuSupports(CpuIsa::kPortable));
  for (const CpuKernels* table : NativeTables()) {
    EXPECT_EQ(GetCpuKernels(table->isa), table);
    EXPECT_EQ(table->native_bf16, table->isa == CpuIsa::kAvx512Bf16);
  }
  EXPECT_TRUE(CpuSupports(BestCpuIsa()));
  EXPECT_NE(GetCpuKernels(BestCpuIsa()), nullptr);
}

}  // namespace
}  // namespace longdoc::kernels::testing
