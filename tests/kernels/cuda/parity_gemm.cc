// Products on the device (cuBLASLt; on the emulator its stand-in) against the reference.
#include <cmath>
#include <cstring>
#include <memory>

#include "kernels/cuda/gemm.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::kBf16;

Gemm* TheGemm() {
  static const std::unique_ptr<Gemm> gemm = [] {
    std::unique_ptr<Gemm> made;
    EXPECT_OK(Gemm::Create(0, &made));
    return made;
  }();
  return gemm.get();
}

// The emulated product needs none, and filling the usual one takes longer than the product.
int64_t WorkspaceBytes() { return SmallShapes() ? int64_t{1} << 16 : kGemmWorkspaceBytes; }

struct GemmCase {
  int64_t rows = 3, n = 8, k = 8, pad = 0;
  DType in = DType::kBF16, out = DType::kF32;
  bool bias = false, gelu = false, accumulate = false;
  int64_t workspace = WorkspaceBytes();
};

// fp16 bits of small multiples of 1/64, which both 16-bit types hold exactly.
std::vector<uint16_t> Narrow(DType type, const std::vector<float>& x) {
  if (type == DType::kBF16) return ToBf16(x);
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const uint16_t sign = std::signbit(x[i]) ? 0x8000 : 0;
    int exponent = 0;
    const float fraction = std::frexp(std::abs(x[i]), &exponent);  // in [1/2, 1)
    const auto bits = static_cast<uint16_t>(std::lrint(std::ldexp(fraction, 11)) - 1024 +
                                            ((exponent + 14) << 10));
    out[i] = x[i] == 0 ? sign : sign | bits;
  }
  return out;
}

std::vector<float> Wide(DType type, const std::vector<uint16_t>& x) {
  std::vector<float> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    out[i] = reference::LoadAs(type, x.data(), static_cast<int64_t>(i));
  }
  return out;
}

std::vector<float> SmallMultiples(int64_t count, uint32_t seed) {
  std::vector<float> x = RandomFloats(count, seed, 16.0f);
  for (float& value : x) value = std::nearbyint(std::clamp(value, -127.0f, 127.0f)) / 64;
  return x;
}

void ExpectProduct(const GemmCase& c) {
  const int64_t a_stride = c.k + c.pad, c_stride = c.n + c.pad;
  const std::vector<uint16_t> a = Narrow(c.in, SmallMultiples(c.rows * a_stride, 1));
  const std::vector<uint16_t> w = Narrow(c.in, SmallMultiples(c.n * c.k, 2));
  const std::vector<float> bias = SmallMultiples(c.n, 3);
  const std::vector<float> before = SmallMultiples(c.rows * c_stride, 4);
  std::vector<float> dense;
  const std::vector<float> wide_a = Wide(c.in, a);
  for (int64_t r = 0; r < c.rows; ++r) {
    dense.insert(dense.end(), wide_a.begin() + r * a_stride, wide_a.begin() + r * a_stride + c.k);
  }
  std::vector<float> expected(c.rows * c.n);
  reference::Gemm(c.rows, c.n, c.k, dense.data(), Wide(c.in, w).data(),
                  c.bias ? bias.data() : nullptr, expected.data());

  const bool wide_out = c.out == DType::kF32;
  DeviceArray<uint16_t> device_a(a), device_w(w), narrow_bias(Narrow(c.in, bias));
  DeviceArray<float> wide_bias(bias), wide_c(before);
  DeviceArray<uint16_t> narrow_c(Narrow(c.in, before));
  DeviceArray<uint8_t> workspace(c.workspace);
  GemmArgs args;
  args.rows = c.rows;
  args.n = c.n;
  args.k = c.k;
  args.in_type = c.in;
  args.a = device_a.data();
  args.a_stride = a_stride;
  args.w = device_w.data();
  args.out_type = c.out;
  if (c.bias) {
    args.bias = wide_out ? static_cast<const void*>(wide_bias.data()) : narrow_bias.data();
  }
  args.activation = c.gelu ? GemmActivation::kGelu : GemmActivation::kNone;
  args.accumulate = c.accumulate;
  args.c = wide_out ? static_cast<void*>(wide_c.data()) : narrow_c.data();
  args.c_stride = c_stride;
  args.workspace = c.workspace > 0 ? workspace.data() : nullptr;
  args.workspace_bytes = c.workspace;
  bool ok = EXPECT_OK(TheGemm()->Run(args, nullptr));
  const std::vector<float> result = wide_out ? wide_c.Download() : Wide(c.in, narrow_c.Download());
  double worst = 0;
  for (int64_t i = 0; i < c.rows * c_stride; ++i) {
    const int64_t row = i / c_stride, column = i % c_stride;
    if (column >= c.n) {  // between the rows nothing changes
      worst = std::max(worst, result[i] == before[i] ? 0.0 : 1e9);
      continue;
    }
    double exact = expected[row * c.n + column] + (c.accumulate ? before[i] : 0.0f);
    // Sums of k products of about 1/16, in fp32.
    double allowed = 1e-6 * (1 + 0.1 * static_cast<double>(c.k));
    if (c.gelu) {
      exact =
          exact / (1 + std::exp(-std::sqrt(8 / M_PI) * (exact + 0.044715 * std::pow(exact, 3))));
      allowed += 1e-3;  // the library's tanh is approximate
    }
    if (!wide_out) allowed += (c.out == DType::kBF16 ? kBf16 : 0x1p-11) * std::abs(exact);
    worst = std::max(worst, std::abs(result[i] - exact) / allowed);
  }
  ok = worst <= 1.0 && ok;
  if (!ok) {
    Failed(__FILE__, __LINE__, "M %lld N %lld K %lld pad %lld in %d out %d bias %d gelu %d add %d",
           static_cast<long long>(c.rows), static_cast<long long>(c.n), static_cast<long long>(c.k),
           static_cast<long long>(c.pad), static_cast<int>(c.in), static_cast<int>(c.out), c.bias,
           c.gelu, c.accumulate);
  }
}

PARITY_TEST(gemm_shapes) {
  for (int64_t rows : {0, 1, 3, 17, 130}) {
    for (int64_t n : {1, 8, 33, 96}) {
      for (int64_t k : {1, 7, 8, 64, 100}) {
        GemmCase c;
        c.rows = rows;
        c.n = n;
        c.k = k;
        ExpectProduct(c);
      }
    }
  }
}

PARITY_TEST(gemm_types_and_epilogues) {
  for (DType in : {DType::kBF16, DType::kF16}) {
    for (DType out : {DType::kF32, in}) {
      for (int variant = 0; variant < 8; ++variant) {
        GemmCase c;
        c.rows = 40;
        c.n = 64;
        c.k = 48;
        c.in = in;
        c.out = out;
        c.bias = (variant & 1) != 0;
        c.accumulate = (variant & 2) != 0;
        c.pad = (variant & 4) != 0 ? 8 : 0;
        ExpectProduct(c);
        c.pad += 3;  // rows that no vector access fits
        ExpectProduct(c);
        c.gelu = c.bias && !c.accumulate && out != DType::kF32;
        c.pad = 0;
        if (c.gelu) ExpectProduct(c);
      }
    }
  }
  GemmCase bare;
  bare.workspace = 0;
  bare.n = bare.k = 64;
  ExpectProduct(bare);
}

PARITY_TEST(gemm_large) {
  GemmCase c;
  c.rows = SmallShapes() ? 300 : 5000;
  c.n = SmallShapes() ? 96 : 768;
  c.k = SmallShapes() ? 200 : 3072;
  c.bias = true;
  ExpectProduct(c);
  c.out = DType::kBF16;
  ExpectProduct(c);
}

// The same product twice, and as part of a taller one in the same bucket: the same bits.
PARITY_TEST(gemm_is_deterministic) {
  const int64_t rows = 100, n = 96, k = 256;
  DeviceArray<uint16_t> a(ToBf16(RandomFloats(rows * k, 5))), w(ToBf16(RandomFloats(n * k, 6)));
  DeviceArray<uint8_t> workspace(WorkspaceBytes());
  std::vector<std::vector<float>> results;
  for (int64_t count : {rows, rows, rows - 3}) {
    DeviceArray<float> c(rows * n);
    GemmArgs args;
    args.rows = count;
    args.n = args.c_stride = n;
    args.k = args.a_stride = k;
    args.a = a.data();
    args.w = w.data();
    args.c = c.data();
    args.workspace = workspace.data();
    args.workspace_bytes = WorkspaceBytes();
    EXPECT_OK(TheGemm()->Run(args, nullptr));
    results.push_back(c.Download());
    results.back().resize((rows - 3) * n);
  }
  EXPECT(results[0] == results[1]);
  EXPECT(results[0] == results[2]);
}

PARITY_TEST(gemm_says_what_is_wrong) {
  uint16_t a[64] = {}, w[64] = {};
  float c[64] = {};
  GemmArgs good;
  good.rows = 2;
  good.n = good.c_stride = 4;
  good.k = good.a_stride = 8;
  good.a = a;
  good.w = w;
  good.c = c;
  EXPECT(CheckGemm(good) == nullptr);
  const auto expect_bad = [&](const GemmArgs& args, const char* word) {
    const char* error = CheckGemm(args);
    if (!(error != nullptr && std::strstr(error, word) != nullptr)) {
      Failed(__FILE__, __LINE__, "wanted '%s', saw '%s'", word,
             error != nullptr ? error : "nothing");
    }
    EXPECT(TheGemm()->Run(args, nullptr) == cudaErrorInvalidValue);
  };
  GemmArgs args = good;
  args.rows = -1;
  expect_bad(args, "rows");
  args = good;
  args.k = 0;
  expect_bad(args, "dimension");
  args = good;
  args.in_type = DType::kF32;
  expect_bad(args, "input");
  args = good;
  args.out_type = DType::kF16;
  expect_bad(args, "output");
  args = good;
  args.a_stride = 7;
  expect_bad(args, "stride");
  args = good;
  args.activation = GemmActivation::kGelu;
  expect_bad(args, "GELU");
  args = good;
  args.w = nullptr;
  expect_bad(args, "operand");
  args = good;
  args.workspace_bytes = 1;
  expect_bad(args, "workspace");
}

PARITY_TEST(gemm_row_buckets_are_close) {
  EXPECT(GemmRowBucket(1) == 16);
  EXPECT(GemmRowBucket(128) == 128);
  EXPECT(GemmRowBucket(129) == 160);
  EXPECT(GemmRowBucket(100000) == 114688);
  int64_t last = 0, buckets = 0;
  for (int64_t rows = 1; rows <= 300000; ++rows) {
    const int64_t bucket = GemmRowBucket(rows);
    buckets += bucket != last ? 1 : 0;
    if (bucket < rows || bucket < last || (rows > 64 && bucket * 4 > rows * 5) ||
        (rows <= 64 && bucket >= rows + 16)) {
      EXPECT(false);
      Failed(__FILE__, __LINE__, "rows %lld bucket %lld", static_cast<long long>(rows),
             static_cast<long long>(bucket));
      break;
    }
    last = bucket;
  }
  EXPECT(buckets <= 60);
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
