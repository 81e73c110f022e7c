// Normalised rows on the device against the reference: AddLayerNorm, Embed and RmsNorm, over dims
// that fit the vector paths and dims that do not.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::kLayerNorm;
using kernels::testing::kRmsNorm;

// Every team of threads, just below and above each; the last ones take a block's loop.
const int64_t kDims[] = {1,   3,   4,   20,  64,   66,   68,   100,  128,  132,  256,
                         260, 384, 512, 768, 1000, 1024, 1028, 2048, 4096, 4100, 5003};

// ---- layer normalisation ----------------------------------------------------------------------

struct NormCase {
  int64_t rows = 5, dim = 64, pad = 0, shift = 0;
  bool residual = false, beta = false;
};

void ExpectAddLayerNorm(const NormCase& c) {
  const int64_t stride = c.dim + c.pad;
  const std::vector<float> a = RandomFloats(c.rows * stride, 1, 2.0f, 5.0f);
  const std::vector<float> residual = RandomFloats(c.rows * c.dim, 2);
  const std::vector<float> gamma = RandomFloats(c.dim, 3), beta = RandomFloats(c.dim, 4);
  std::vector<float> expected(c.rows * stride, -7.0f);
  std::vector<uint16_t> expected_bf16(c.rows * c.dim);
  AddLayerNormArgs args;
  args.rows = c.rows;
  args.dim = c.dim;
  args.a_stride = args.out_stride = stride;
  args.epsilon = 1e-5f;
  args.a = a.data();
  args.residual = c.residual ? residual.data() : nullptr;
  args.gamma = gamma.data();
  args.beta = c.beta ? beta.data() : nullptr;
  args.out = expected.data();
  args.out_bf16 = expected_bf16.data();
  reference::AddLayerNorm(args);

  ShiftedArray<float> device_a(a, c.shift), device_residual(residual, c.shift);
  ShiftedArray<float> device_gamma(gamma, 0), device_beta(beta, c.shift);
  ShiftedArray<float> out(std::vector<float>(c.rows * stride, -7.0f), c.shift);
  ShiftedArray<uint16_t> bf16(std::vector<uint16_t>(c.rows * c.dim), c.shift);
  args.a = device_a.data();
  args.residual = c.residual ? device_residual.data() : nullptr;
  args.gamma = device_gamma.data();
  args.beta = c.beta ? device_beta.data() : nullptr;
  args.out = out.data();
  args.out_bf16 = bf16.data();
  EXPECT_OK(AddLayerNorm(args, nullptr));
  const std::vector<float> result = out.Download();
  bool ok = MaxDistance(result, expected) <= kLayerNorm * std::max(1.0, MaxAbs(expected));
  std::vector<float> dense;
  for (int64_t r = 0; r < c.rows; ++r) {
    dense.insert(dense.end(), result.begin() + r * stride, result.begin() + r * stride + c.dim);
  }
  ok = IsRounded(bf16.Download(), dense) && ok;
  if (!ok) {
    Failed(__FILE__, __LINE__, "rows %lld dim %lld pad %lld shift %lld residual %d",
           static_cast<long long>(c.rows), static_cast<long long>(c.dim),
           static_cast<long long>(c.pad), static_cast<long long>(c.shift), c.residual);
  }
}

PARITY_TEST(dense_add_layer_norm_shapes) {
  for (int64_t dim : kDims) {
    for (int64_t rows : {0, 1, 9}) {
      for (int64_t pad : {0, 3, 4}) {
        NormCase c;
        c.rows = rows;
        c.dim = dim;
        c.pad = pad;
        c.residual = c.beta = pad != 4;
        ExpectAddLayerNorm(c);
      }
    }
    NormCase unaligned;
    unaligned.dim = dim;
    unaligned.shift = 1;
    unaligned.residual = true;
    ExpectAddLayerNorm(unaligned);
  }
}

PARITY_TEST(dense_add_layer_norm_many_rows) {
  NormCase c;
  c.rows = SmallShapes() ? 200 : 100003;
  c.residual = c.beta = true;
  ExpectAddLayerNorm(c);
  c.rows = SmallShapes() ? 50 : 20001;
  c.dim = 768;
  ExpectAddLayerNorm(c);
}

PARITY_TEST(dense_add_layer_norm_in_place) {
  for (int64_t dim : {50, 64, 4100}) {
    const int64_t rows = 3;
    const std::vector<float> a = RandomFloats(rows * dim, 5);
    const std::vector<float> residual = RandomFloats(rows * dim, 6);
    DeviceArray<float> gamma(std::vector<float>(dim, 1.5f));
    DeviceArray<float> over_a(a), over_residual(residual), same_a(a), same_residual(residual);
    DeviceArray<float> apart(rows * dim);
    AddLayerNormArgs args;
    args.rows = rows;
    args.dim = args.a_stride = args.out_stride = dim;
    args.gamma = gamma.data();
    args.a = same_a.data();
    args.residual = same_residual.data();
    args.out = apart.data();
    EXPECT_OK(AddLayerNorm(args, nullptr));
    args.a = args.out = over_a.data();
    EXPECT_OK(AddLayerNorm(args, nullptr));
    args.a = same_a.data();
    args.residual = args.out = over_residual.data();
    EXPECT_OK(AddLayerNorm(args, nullptr));
    EXPECT(over_a.Download() == apart.Download());
    EXPECT(over_residual.Download() == apart.Download());
    EXPECT(same_a.Download() == a);
  }
}

// Rows share warps and blocks, not numbers: a NaN or infinite row stays alone.
PARITY_TEST(dense_add_layer_norm_keeps_bad_rows_apart) {
  for (int64_t dim : {64, 128, 1024, 4096, 5003}) {
    const int64_t rows = 9;
    std::vector<float> x = RandomFloats(rows * dim, 7);
    DeviceArray<float> gamma(RandomFloats(dim, 8)), clean(x);
    x[2 * dim + dim / 2] = std::numeric_limits<float>::quiet_NaN();
    x[5 * dim] = std::numeric_limits<float>::infinity();
    DeviceArray<float> dirty(x), out_clean(x), out_dirty(x);
    AddLayerNormArgs args;
    args.rows = rows;
    args.dim = args.a_stride = args.out_stride = dim;
    args.gamma = gamma.data();
    args.epsilon = 1e-5f;
    args.a = clean.data();
    args.out = out_clean.data();
    EXPECT_OK(AddLayerNorm(args, nullptr));
    args.a = dirty.data();
    args.out = out_dirty.data();
    EXPECT_OK(AddLayerNorm(args, nullptr));
    const std::vector<float> a = out_clean.Download(), b = out_dirty.Download();
    bool apart = true;
    for (int64_t i = 0; i < rows * dim; ++i) {
      const int64_t row = i / dim;
      apart = apart && (row == 2 || row == 5 ? std::isnan(b[i]) : a[i] == b[i]);
    }
    EXPECT(apart);
  }
}

// ---- embedding --------------------------------------------------------------------------------

void ExpectEmbed(int64_t dim, DType table_type, bool norm, bool with_type, int64_t shift) {
  const int64_t vocabulary = 50;
  const std::vector<float> table = RandomFloats(vocabulary * dim, 8);
  const std::vector<float> type = RandomFloats(dim, 9), gamma = RandomFloats(dim, 10);
  const std::vector<float> beta = RandomFloats(dim, 11);
  std::vector<uint16_t> half(vocabulary * dim);  // values of either 16-bit type
  for (size_t i = 0; i < half.size(); ++i) half[i] = static_cast<uint16_t>(0x2c00 + i * 37 % 9000);
  const std::vector<int32_t> ids{0, 49, 7, 7, 3, 1, 20, 48, 30};
  EmbedArgs args;
  args.rows = static_cast<int64_t>(ids.size());
  args.dim = dim;
  args.table_type = table_type;
  args.epsilon = 1e-12f;
  args.ids = ids.data();
  args.word = table_type == DType::kF32 ? static_cast<const void*>(table.data()) : half.data();
  args.type = with_type ? type.data() : nullptr;
  args.gamma = norm ? gamma.data() : nullptr;
  args.beta = norm ? beta.data() : nullptr;
  std::vector<float> expected(args.rows * dim);
  args.out = expected.data();
  reference::Embed(args);

  DeviceArray<int32_t> device_ids(ids);
  ShiftedArray<float> device_table(table, shift), device_type(type, 0), device_gamma(gamma, 0);
  ShiftedArray<uint16_t> device_half(half, shift);
  DeviceArray<float> device_beta(beta), out(std::vector<float>(args.rows * dim, -7.0f));
  DeviceArray<uint16_t> bf16(args.rows * dim);
  args.ids = device_ids.data();
  args.word = table_type == DType::kF32 ? static_cast<const void*>(device_table.data())
                                        : device_half.data();
  args.type = with_type ? device_type.data() : nullptr;
  args.gamma = norm ? device_gamma.data() : nullptr;
  args.beta = norm ? device_beta.data() : nullptr;
  args.out = out.data();
  args.out_bf16 = bf16.data();
  EXPECT_OK(Embed(args, nullptr));
  const std::vector<float> result = out.Download();
  const double bound = norm ? kLayerNorm * std::max(1.0, MaxAbs(expected)) : 0.0;
  if (!(MaxDistance(result, expected) <= bound)) {
    Failed(__FILE__, __LINE__, "dim %lld type %d norm %d", static_cast<long long>(dim),
           static_cast<int>(table_type), norm);
  }
  EXPECT(IsRounded(bf16.Download(), result));
}

PARITY_TEST(dense_embed_shapes) {
  for (int64_t dim : kDims) {
    if (SmallShapes() && dim > 1028 && dim != 4096 && dim != 5003) continue;
    for (DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      ExpectEmbed(dim, type, /*norm=*/true, /*with_type=*/type != DType::kBF16, 0);
      // Without norm the rows as they are, to the bit; the sum with the type row rounds once.
      ExpectEmbed(dim, type, /*norm=*/false, /*with_type=*/false, 0);
    }
    ExpectEmbed(dim, DType::kF32, /*norm=*/true, /*with_type=*/true, 1);
    ExpectEmbed(dim, DType::kBF16, /*norm=*/false, /*with_type=*/true, 3);
  }
}

// ---- RMS normalisation ------------------------------------------------------------------------

struct RmsCase {
  int64_t rows = 9, dim = 64, pad = 4;
  bool gather = false, scaled = false;
  int routers = 0;
};

void ExpectRmsNorm(const RmsCase& c) {
  const int64_t source_rows = c.rows + 5, stride = c.dim + c.pad;
  const std::vector<float> x = RandomFloats(source_rows * stride, 1, 2.0f, 0.5f);
  const std::vector<float> gamma = RandomFloats(c.dim, 2), scale = RandomFloats(c.rows, 3);
  const std::vector<float> routers[2] = {RandomFloats(c.dim, 4), RandomFloats(c.dim, 5)};
  std::vector<int32_t> indices(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) {
    indices[r] = static_cast<int32_t>((r * 5 + 3) % source_rows);
  }
  std::vector<float> expected(c.rows * c.dim), scores[2];
  RmsNormArgs args;
  args.rows = c.rows;
  args.dim = c.dim;
  args.x = x.data();
  args.x_stride = stride;
  args.indices = c.gather ? indices.data() : nullptr;
  args.gamma = gamma.data();
  args.epsilon = 1e-6f;
  args.row_scale = c.scaled ? scale.data() : nullptr;
  args.out = expected.data();
  args.num_routers = c.routers;
  for (int s = 0; s < 2; ++s) {
    scores[s].resize(c.rows);
    args.routers[s] = routers[s].data();
    args.scores[s] = scores[s].data();
  }
  reference::RmsNorm(args);

  DeviceArray<float> device_x(x), device_gamma(gamma), device_scale(scale);
  DeviceArray<int32_t> device_indices(indices);
  DeviceArray<float> device_routers[2] = {DeviceArray<float>(routers[0]),
                                          DeviceArray<float>(routers[1])};
  const std::vector<float> no_scores(c.rows, -7.0f);
  DeviceArray<float> device_scores[2] = {DeviceArray<float>(no_scores),
                                         DeviceArray<float>(no_scores)};
  DeviceArray<float> out(std::vector<float>(c.rows * c.dim, -7.0f));
  DeviceArray<uint16_t> bf16(c.rows * c.dim);
  args.x = device_x.data();
  args.indices = c.gather ? device_indices.data() : nullptr;
  args.gamma = device_gamma.data();
  args.row_scale = c.scaled ? device_scale.data() : nullptr;
  for (int s = 0; s < 2; ++s) {
    args.routers[s] = device_routers[s].data();
    args.scores[s] = device_scores[s].data();
  }
  args.out = out.data();
  EXPECT_OK(RmsNorm(args, nullptr));
  const std::vector<float> result = out.Download();
  bool near = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    near = near && std::abs(result[i] - expected[i]) <= kRmsNorm * std::abs(expected[i]);
  }
  bool ok = near;
  std::vector<float> with_out[2];
  for (int s = 0; s < c.routers; ++s) {
    with_out[s] = device_scores[s].Download();
    ok = MaxDistance(with_out[s], scores[s]) <= kRmsNorm * static_cast<double>(c.dim) && ok;
  }
  // A rounded copy, and the scores alone: the same numbers.
  args.out_type = DType::kBF16;
  args.out = bf16.data();
  EXPECT_OK(RmsNorm(args, nullptr));
  ok = IsRounded(bf16.Download(), result) && ok;
  args.out = nullptr;
  EXPECT_OK(RmsNorm(args, nullptr));
  for (int s = 0; s < c.routers; ++s) {
    ok = device_scores[s].Download() == with_out[s] && ok;
  }
  if (c.routers < 2) EXPECT(device_scores[1].Download() == no_scores);
  if (!ok) {
    Failed(__FILE__, __LINE__, "rows %lld dim %lld gather %d scaled %d routers %d",
           static_cast<long long>(c.rows), static_cast<long long>(c.dim), c.gather, c.scaled,
           c.routers);
  }
}

PARITY_TEST(dense_rms_norm_shapes) {
  for (int64_t dim : kDims) {
    for (int variant = 0; variant < 12; ++variant) {
      if (SmallShapes() && dim > 300 && variant % 4 != 3) continue;
      RmsCase c;
      c.dim = dim;
      c.rows = variant == 5 ? 1 : variant == 6 ? 0 : 9;
      c.pad = variant == 7 ? 3 : 4;
      c.gather = (variant & 1) != 0;
      c.scaled = (variant & 2) != 0;
      c.routers = variant / 4;
      ExpectRmsNorm(c);
    }
  }
}

PARITY_TEST(dense_rms_norm_in_place) {
  for (int64_t dim : {64, 70, 2048}) {
    const int64_t rows = 5;
    DeviceArray<float> x(RandomFloats(rows * dim, 6)), gamma(RandomFloats(dim, 7));
    DeviceArray<float> out(rows * dim);
    RmsNormArgs args;
    args.rows = rows;
    args.dim = args.x_stride = dim;
    args.x = x.data();
    args.gamma = gamma.data();
    args.out = out.data();
    EXPECT_OK(RmsNorm(args, nullptr));
    args.out = x.data();
    EXPECT_OK(RmsNorm(args, nullptr));
    EXPECT(x.Download() == out.Download());
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
