// Attention on the device against the reference: shapes, masks, lists, gathered tokens.
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/cuda/attention_device.h"
#include "tests/kernels/gathered_case.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::AddSequence;
using kernels::testing::GatheredPatterns;
using kernels::testing::OneHead;
using kernels::testing::RandomTensors;
using kernels::testing::RunReference;
using kernels::testing::Spaced;
using kernels::testing::Uniform;

struct MaskKind {
  const char* name;
  bool causal;
  int64_t radius, globals;
};

constexpr MaskKind kMasks[] = {
    {"full", false, -1, 0},          {"causal", true, -1, 0},
    {"window", false, 50, 0},        {"window_globals", false, 33, 5},
    {"window_zero", false, 0, 0},    {"window_zero_global", false, 0, 1},
    {"window_wide", false, 5000, 3}, {"causal_window", true, 70, 2},
    {"all_global", false, 4, 5000},
};

void SetMask(const MaskKind& kind, AttentionCase* c) {
  c->mask.causal = kind.causal;
  c->mask.window_radius = kind.radius;
  c->mask.num_global = kind.globals;
}

AttentionCase Bf16Case(std::vector<int64_t> lengths) {
  AttentionCase c;
  c.lengths = std::move(lengths);
  c.storage = DType::kBF16;
  return c;
}

// Both types; one of them where time is short.
std::vector<DType> Types(bool both = false) {
  if (SmallShapes() && !both) return {DType::kBF16};
  return {DType::kBF16, DType::kF16};
}

PARITY_TEST(attention_awkward_lengths_under_every_mask) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (DType type : Types()) {
      for (const MaskKind& kind : kMasks) {
        AttentionCase c = Bf16Case({0, 1, 63, 64, 65, 0, 127, 128, 129, 5, 0});
        c.storage = type;
        SetMask(kind, &c);
        ExpectParity(c, 1, kind.name);
      }
    }
  }
}

PARITY_TEST(attention_long_sequence_under_every_mask) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (const MaskKind& kind : kMasks) {
      for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact}) {
        if (SmallShapes() && skip == SkipMode::kDense && !kind.causal) continue;
        AttentionCase c = Bf16Case({SmallShapes() ? 390 : 3000});
        c.heads = 3;
        c.kv_heads = 1;
        c.slopes = {0.0f, 0.4f, 3.0f};
        c.skip = skip;
        SetMask(kind, &c);
        ExpectParity(c, 2, kind.name);
      }
    }
  }
}

PARITY_TEST(attention_head_dims_and_grouped_heads) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (DType type : Types(/*both=*/true)) {
      for (int32_t dim : {16, 32, 48, 64, 80, 96, 112, 128}) {
        if (SmallShapes() && type == DType::kF16 && dim % 64 != 0 && dim != 16) continue;
        AttentionCase c = Bf16Case({70, 150});
        c.storage = type;
        c.heads = 4;
        c.kv_heads = dim == 32 ? 4 : dim == 64 ? 2 : 1;
        c.dim = dim;
        ExpectParity(c, 3, "dim " + std::to_string(dim));
      }
    }
  }
}

PARITY_TEST(attention_twelve_heads) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({200});
    c.heads = c.kv_heads = 12;
    c.dim = 64;
    ExpectParity(c, 4, "twelve heads");
  }
}

PARITY_TEST(attention_one_long_among_many_short) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({});
    for (int i = 0; i < 40; ++i) c.lengths.push_back(i % 7 + (i % 3) * 11);
    c.lengths.insert(c.lengths.begin() + 20, SmallShapes() ? 300 : 7777);
    c.heads = 2;
    c.kv_heads = 1;
    c.dim = 32;
    c.skip = SkipMode::kExact;
    ExpectParity(c, 5, "mixed");
  }
}

PARITY_TEST(attention_steep_and_shallow_slopes) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({SmallShapes() ? 300 : 2000});
    c.heads = 4;
    c.kv_heads = 2;
    c.slopes = {0.0f, 1e-6f, 20.0f, 1e6f};
    c.skip = SkipMode::kExact;
    ExpectParity(c, 6, "slopes");
    c.slopes = {0.0f, 0.0f, 0.0f, 0.0f};
    ExpectParity(c, 6, "no slopes");
  }
}

PARITY_TEST(attention_output_over_queries) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({200, 30});
    c.heads = 4;
    c.kv_heads = 2;
    const AttentionTensors t = RandomTensors(c, 7);
    const DeviceResult apart = RunDevice(c, t), over = RunDevice(c, t, /*in_place=*/true);
    EXPECT(apart.out == over.out);
    EXPECT(apart.lse == over.lse);
  }
}

// ln Σ e^score in double, from the same tensors.
std::vector<float> ReferenceLse(const AttentionCase& c, const AttentionTensors& t,
                                const std::vector<float>& slopes) {
  const std::vector<int64_t> cu = kernels::testing::Offsets(c.lengths);
  const std::vector<int64_t> cu_keys =
      kernels::testing::Offsets(c.gathered ? c.key_lengths : c.lengths);
  const double scale = 1.0 / std::sqrt(static_cast<double>(c.dim));
  std::vector<float> lse;
  for (int32_t h = 0; h < c.heads; ++h) {
    const int32_t kv = h * c.kv_heads / c.heads;
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      for (int64_t i = cu[s]; i < cu[s + 1]; ++i) {
        const double row = c.gathered ? c.q_positions[i] : static_cast<double>(i - cu[s]);
        double sum = 0;
        for (int64_t j = cu_keys[s]; j < cu_keys[s + 1]; ++j) {
          const double key = c.gathered ? c.k_positions[j] : static_cast<double>(j - cu_keys[s]);
          double dot = 0;
          for (int32_t d = 0; d < c.dim; ++d) {
            dot += static_cast<double>(t.q[(i * c.heads + h) * c.dim + d]) *
                   t.k[(j * c.kv_heads + kv) * c.dim + d];
          }
          sum += std::exp(dot * scale - slopes[h] * std::abs(row - key));
        }
        lse.push_back(static_cast<float>(std::log(sum)));
      }
    }
  }
  return lse;
}

PARITY_TEST(attention_log_sums) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int number = 0; number < 6; ++number) {
      const bool gathered = number % 2 == 1;
      AttentionCase c = Bf16Case({});
      c.dim = number < 2 ? 16 : number < 4 ? 64 : 128;
      if (gathered) {
        AddSequence(Uniform(90, 400, 51), Uniform(120, 400, 52), &c);
        AddSequence(Spaced(7, 3), {}, &c);
      } else {
        c.lengths = {100, 0, 170};
      }
      c.slopes = {0.0f, 0.25f};
      const AttentionTensors t = RandomTensors(c, 8, 2.0f);
      EXPECT_CLOSE(RunDevice(c, t).lse, ReferenceLse(c, t, c.slopes), 2e-6, 10.0);
    }
  }
}

// ---- block lists --------------------------------------------------------------------------------

struct List {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> columns;
  void Apply(int64_t block, AttentionCase* c) const {
    c->mask.block_tokens = block;
    c->mask.block_row_offsets = offsets.data();
    c->mask.block_columns = columns.data();
  }
};

PARITY_TEST(attention_block_lists) {
  // Row r sees itself, a far block and, for odd r, nothing near: rows without the diagonal are
  // legal. Blocks of 192 straddle the tiles of queries.
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int64_t block : {64, 128, 192, 256}) {
      AttentionCase c = Bf16Case({500, 100});
      List list;
      for (int64_t length : c.lengths) {
        const int64_t blocks = CeilDiv(length, block);
        for (int64_t r = 0; r < blocks; ++r) {
          for (int64_t j = 0; j < blocks; ++j) {
            if ((r % 2 == 0 && j == r) || (j * 3 + r) % 4 == 1) {
              list.columns.push_back(static_cast<int32_t>(j));
            }
          }
          list.offsets.push_back(static_cast<int64_t>(list.columns.size()));
        }
      }
      list.Apply(block, &c);
      for (bool causal : {false, true}) {
        c.mask.causal = causal;
        c.skip = causal ? SkipMode::kDense : SkipMode::kExact;
        ExpectParity(c, 9, "list of " + std::to_string(block));
      }
    }
  }
}

PARITY_TEST(attention_empty_list_gives_zero) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({130});
    List list;
    list.offsets = {0, 0, 0, 0};
    list.Apply(64, &c);
    const DeviceResult result = RunDevice(c, RandomTensors(c, 10));
    EXPECT(kernels::testing::MaxAbs(result.out) == 0.0);
    EXPECT(result.lse[0] == -std::numeric_limits<float>::infinity());
    EXPECT(result.stats.tiles_computed == 0);
  }
}

// ---- gathered tokens ----------------------------------------------------------------------------

PARITY_TEST(attention_gathered_awkward_counts) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = Bf16Case({});
    uint32_t seed = 0;
    for (int64_t keys : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65},
                         int64_t{SmallShapes() ? 270 : 3000}}) {
      for (int64_t queries : {0, 1, 127, 129}) {
        seed += 2;
        AddSequence(Uniform(queries, 4 * queries + 3, seed), Uniform(keys, 2 * keys + 2, seed + 1),
                    &c);
      }
    }
    c.heads = 4;
    c.kv_heads = 2;
    c.slopes = {0.0f, 0.01f, 0.3f, 8.0f};
    c.skip = SkipMode::kExact;
    ExpectParity(c, 31, "awkward counts");
  }
}

PARITY_TEST(attention_gathered_patterns) {
  for (int major : Capabilities()) {
    UseCapability(major);
    int number = 0;
    for (AttentionCase& c : GatheredPatterns(SmallShapes() ? 300 : 2000)) {
      c.storage = number % 2 == 0 ? DType::kBF16 : DType::kF16;
      c.heads = 3;
      c.kv_heads = 1;
      c.dim = number % 3 == 0 ? 64 : number % 3 == 1 ? 32 : 128;
      c.slopes = {1e-7f, 0.02f, 0.7f};
      c.skip = number % 2 == 0 ? SkipMode::kExact : SkipMode::kDense;
      ExpectParity(c, 32, "pattern " + std::to_string(number));
      ++number;
    }
  }
}

PARITY_TEST(attention_gathered_without_keys_gives_zero) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = OneHead(Spaced(3, 130), {}, 0.5f);
    AddSequence({}, Spaced(0, 70), &c);
    AddSequence(Spaced(0, 2), Spaced(1, 1), &c);
    c.storage = DType::kBF16;
    for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact, SkipMode::kTolerance}) {
      c.skip = skip;
      const AttentionTensors t = RandomTensors(c, 33);
      const DeviceResult result = RunDevice(c, t);
      for (int64_t i = 0; i < 130 * c.dim; ++i) EXPECT(result.out[i] == 0.0f);
      EXPECT(result.out[130 * c.dim] == t.v[70 * c.dim]);  // one key: its value
      EXPECT(result.stats.tiles_dense == 1);
    }
  }
}

// Only distances count, however large the numbers are.
PARITY_TEST(attention_gathered_shifted_positions_change_no_bit) {
  for (int major : Capabilities()) {
    UseCapability(major);
    AttentionCase c = OneHead(Uniform(200, 4000, 5), Uniform(500, 4000, 6), 0.05f);
    c.storage = DType::kBF16;
    c.skip = SkipMode::kTolerance;
    const AttentionTensors t = RandomTensors(c, 35);
    const DeviceResult before = RunDevice(c, t);
    for (int32_t& p : c.q_positions) p += 2147000000;
    for (int32_t& p : c.k_positions) p += 2147000000;
    const DeviceResult after = RunDevice(c, t);
    EXPECT(before.out == after.out);
    EXPECT(before.stats.tiles_computed == after.stats.tiles_computed);
    EXPECT(before.stats.tiles_computed < before.stats.tiles_dense);
  }
}

// ---- what is refused ----------------------------------------------------------------------------

PARITY_TEST(attention_refuses_unsound_arguments) {
  for (int major : Capabilities()) {
    UseCapability(major);
    const AttentionCase c = Bf16Case({100});
    const AttentionTensors t = RandomTensors(c, 11);
    const auto refused = [&](auto change) {
      DeviceProblem problem(c, t);
      change(&problem.args());
      return Attention(problem.args(), nullptr) == cudaErrorInvalidValue;
    };
    EXPECT(refused([](AttentionArgs* a) { a->problem.storage = DType::kF32; }));
    EXPECT(refused([](AttentionArgs* a) { a->problem.head_dim = 24; }));
    EXPECT(refused([](AttentionArgs* a) { a->problem.head_dim = 256; }));
    EXPECT(refused([](AttentionArgs* a) { a->problem.num_kv_heads = 3; }));
    EXPECT(refused([](AttentionArgs* a) { a->problem.slopes = nullptr; }));
    EXPECT(refused(
        [](AttentionArgs* a) { a->problem.scale = std::numeric_limits<float>::quiet_NaN(); }));
    EXPECT(refused(
        [](AttentionArgs* a) { a->problem.skip = SkipMode::kTolerance, a->problem.epsilon = 0; }));
    EXPECT(refused([](AttentionArgs* a) { a->q.stride += 4; }));
    EXPECT(refused([](AttentionArgs* a) { a->k.stride = 8; }));
    EXPECT(refused([](AttentionArgs* a) { a->v.data = nullptr; }));
    EXPECT(refused([](AttentionArgs* a) { a->o.data = static_cast<char*>(a->o.data) + 8; }));
    EXPECT(refused([](AttentionArgs* a) { a->workspace = nullptr; }));
    EXPECT(refused([](AttentionArgs* a) { a->total_k = 99; }));
    EXPECT(refused([](AttentionArgs* a) { a->max_q = 101; }));
    EXPECT(refused([](AttentionArgs* a) {
      a->problem.mask.block_row_offsets = a->problem.cu_seqlens;
      a->problem.mask.block_tokens = 96;
    }));
    DeviceProblem nothing(c, t);
    nothing.args().total_q = 0;
    EXPECT_OK(Attention(nothing.args(), nullptr));
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
