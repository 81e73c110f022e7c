// oneDNN's products against plain loops, over row counts around every bucket border.
#include "engine/gemm.h"

#include <cmath>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_kernels.h"

namespace longdoc {
namespace {

std::vector<float> Wave(size_t n, float step) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = std::sin(step * static_cast<float>(i + 1));
  return v;
}

struct Product {
  int64_t n, k;
  std::vector<float> first, second, bias_first, bias_second;  // two stacked weight matrices
  Product(int64_t n, int64_t k)
      : n(n),
        k(k),
        first(Wave(n * k, 0.37f)),
        second(Wave(n * k, 0.53f)),
        bias_first(Wave(n, 1.1f)),
        bias_second(Wave(n, 2.3f)) {}
  std::vector<TensorView> Weights() const {
    return {{DType::kF32, {n, k}, first.data()}, {DType::kF32, {n, k}, second.data()}};
  }
  std::vector<TensorView> Biases() const {
    return {{DType::kF32, {n}, bias_first.data()}, {DType::kF32, {n}, bias_second.data()}};
  }
};

void Compare(const PackedMatrix& fast, const PackedMatrix& reference, int64_t rows) {
  const std::vector<float> a = Wave(rows * fast.k(), 0.71f);
  std::vector<float> got(rows * fast.n() + 1, -7.0f), want(rows * fast.n());
  ASSERT_TRUE(fast.Gemm(rows, a.data(), got.data()).ok());
  ASSERT_TRUE(reference.Gemm(rows, a.data(), want.data()).ok());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-4) << rows << " " << i;
  EXPECT_EQ(got.back(), -7.0f) << "wrote behind the last row";
}

TEST(Gemm, EqualsPlainLoopsForEveryRowCount) {
  UseSingleThreadedGemm();
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{48, 64}, {200, 384}}) {
    const Product p(n, k);
    for (bool biased : {false, true}) {
      const auto biases = biased ? p.Biases() : std::vector<TensorView>{};
      auto fast = PackWithOneDnn(p.Weights(), biases, DType::kF32, 256);
      auto reference = PackForReference(p.Weights(), biases);
      ASSERT_TRUE(fast.ok()) << fast.status();
      EXPECT_EQ((*fast)->n(), 2 * n);
      for (int64_t rows : {0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257, 300, 512}) {
        Compare(**fast, **reference, rows);
      }
    }
  }
}

TEST(Gemm, ThreadsShareOnePacking) {
  const Product p(64, 128);
  auto fast = PackWithOneDnn(p.Weights(), p.Biases(), DType::kF32, 256);
  auto reference = PackForReference(p.Weights(), p.Biases());
  ASSERT_TRUE(fast.ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      UseSingleThreadedGemm();
      for (int i = 0; i < 20; ++i) Compare(**fast, **reference, 1 + (t * 37 + i * 13) % 90);
    });
  }
  for (std::thread& t : threads) t.join();
}

TEST(Gemm, Bf16InputsWhereTheCpuHasThem) {
  if (!kernels::CpuSupports(kernels::CpuIsa::kAvx512Bf16)) GTEST_SKIP() << "no avx512_bf16";
  UseSingleThreadedGemm();
  const Product p(64, 256);
  auto fast = PackWithOneDnn(p.Weights(), p.Biases(), DType::kBF16, 256);
  auto reference = PackForReference(p.Weights(), p.Biases());
  ASSERT_TRUE(fast.ok()) << fast.status();
  const int64_t rows = 70;
  std::vector<float> a = Wave(rows * p.k, 0.71f), got(rows * 2 * p.n), want(rows * 2 * p.n);
  std::vector<uint16_t> bf16(a.size());
  kernels::GetCpuKernels(kernels::BestCpuIsa())->F32ToBf16(a.data(), a.size(), bf16.data());
  ASSERT_TRUE((*fast)->Gemm(rows, bf16.data(), got.data()).ok());
  ASSERT_TRUE((*reference)->Gemm(rows, a.data(), want.data()).ok());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 0.15);
}

TEST(Gemm, ReadsEveryFloatType) {
  const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7c00};  // 1, -2, 2^-24, infinity
  const std::vector<float> h = ToFloats({DType::kF16, {4}, half});
  EXPECT_EQ(h[0], 1.0f);
  EXPECT_EQ(h[1], -2.0f);
  EXPECT_EQ(h[2], 0x1p-24f);
  EXPECT_TRUE(std::isinf(h[3]));
  const uint16_t brain[] = {0x3f80, 0xc000};
  EXPECT_EQ(ToFloats({DType::kBF16, {2}, brain}), (std::vector<float>{1.0f, -2.0f}));
}

TEST(Gemm, RefusesShapesThatDoNotFit) {
  const std::vector<float> w(64);
  const TensorView a{DType::kF32, {4, 8}, w.data()}, b{DType::kF32, {4, 16}, w.data()};
  const TensorView bias{DType::kF32, {3}, w.data()};
  EXPECT_FALSE(PackWithOneDnn({}, {}, DType::kF32, 256).ok());
  EXPECT_FALSE(PackWithOneDnn({a, b}, {}, DType::kF32, 256).ok());
  EXPECT_FALSE(PackWithOneDnn({a}, {bias}, DType::kF32, 256).ok());
  EXPECT_FALSE(PackForReference({a, a}, {bias}).ok());
}

}  // namespace
}  // namespace longdoc
