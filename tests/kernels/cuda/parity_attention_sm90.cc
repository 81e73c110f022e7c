// Attention by the Hopper kernel, which serves head dims 64 and 128 alone: what its own tiles,
// stages and warpgroups could get wrong. The same cases run on every capability that there is.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/cuda/attention_device.h"
#include "tests/kernels/gathered_case.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::AddSequence;
using kernels::testing::GatheredPatterns;
using kernels::testing::MaxDifference;
using kernels::testing::RandomTensors;
using kernels::testing::RoundTo;
using kernels::testing::RunReference;
using kernels::testing::Uniform;

AttentionCase Sm90Case(std::vector<int64_t> lengths, int32_t dim) {
  AttentionCase c;
  c.lengths = std::move(lengths);
  c.dim = dim;
  c.heads = 2;
  c.kv_heads = 1;
  c.storage = dim == 64 ? DType::kBF16 : DType::kF16;
  return c;
}

constexpr int32_t kDims[] = {64, 128};

struct MaskKind {
  const char* name;
  bool causal;
  int64_t radius, globals;
};

// Lengths around the 64 rows of a warpgroup, the 128 keys of a tile and the 192 rows of a block.
PARITY_TEST(attention_sm90_awkward_lengths) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      for (const MaskKind& kind :
           {MaskKind{"full", false, -1, 0}, MaskKind{"causal", true, -1, 0},
            MaskKind{"window", false, 40, 0}, MaskKind{"window_globals", false, 20, 70}}) {
        AttentionCase c = Sm90Case({0, 1, 63, 64, 65, 0, 127, 128, 129, 191, 192, 193, 257}, dim);
        c.slopes = {0.0f, 0.3f};
        c.mask.causal = kind.causal;
        c.mask.window_radius = kind.radius;
        c.mask.num_global = kind.globals;
        ExpectParity(c, 61, std::string(kind.name) + ", dim " + std::to_string(dim));
      }
    }
  }
}

// Windows that some warpgroups of a block do not see: their stages pass by while the others
// compute.
PARITY_TEST(attention_sm90_windows_narrower_than_a_block) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      for (const MaskKind& kind :
           {MaskKind{"narrow", false, 5, 0}, MaskKind{"self", false, 0, 130},
            MaskKind{"wide", false, 200, 3}, MaskKind{"past", true, 90, 1}}) {
        AttentionCase c = Sm90Case({SmallShapes() ? 800 : 5000}, dim);
        c.heads = 1;
        c.slopes = {0.02f};
        c.mask.causal = kind.causal;
        c.mask.window_radius = kind.radius;
        c.mask.num_global = kind.globals;
        ExpectParity(c, 62, std::string(kind.name) + ", dim " + std::to_string(dim));
      }
    }
  }
}

// Scores that grow outward, so that maxima keep moving in tiles that lie to one side: by less than
// what the kernel lets pass, by more, and by leaps.
PARITY_TEST(attention_sm90_scores_that_grow_outward) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      for (float growth : {0.01f, 0.1f, 0.6f}) {
        AttentionCase c = Sm90Case({SmallShapes() ? 700 : 3000}, dim);
        c.heads = 1;
        c.slopes = {0.001f};
        AttentionTensors t = RandomTensors(c, 63, 1.0f);
        const float side = std::sqrt(std::sqrt(static_cast<float>(dim)));
        for (int64_t j = 0; j < c.tokens(); ++j) {
          // Rows in the middle see scores up to growth·350 on either side.
          const float far = std::fabs(static_cast<float>(j - c.tokens() / 2));
          t.q[j * dim] = RoundTo(c.storage, side);
          t.k[j * dim] = RoundTo(c.storage, side * growth * far);
        }
        const DeviceResult result = RunDevice(c, t);
        EXPECT_CLOSE(result.out, RunReference(c, t), Tolerance(c.storage),
                     kernels::testing::MaxAbs(t.v));
      }
    }
  }
}

// A sequence's rows do not depend on what lies around it in the packed tensors, bit for bit.
PARITY_TEST(attention_sm90_neighbours_change_no_bit) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      AttentionCase alone = Sm90Case({300}, dim), packed = Sm90Case({77, 300, 129}, dim);
      alone.slopes = packed.slopes = {0.01f, 0.4f};
      alone.skip = packed.skip = SkipMode::kTolerance;
      const AttentionTensors t = RandomTensors(alone, 64, 3.0f);
      AttentionTensors around = RandomTensors(packed, 65, 50.0f);
      const auto insert = [](const std::vector<float>& from, int64_t at, std::vector<float>* to) {
        for (size_t i = 0; i < from.size(); ++i) (*to)[static_cast<size_t>(at) + i] = from[i];
      };
      const int64_t q_row = int64_t{packed.heads} * dim, k_row = dim;
      for (float& x : around.v) x = std::numeric_limits<float>::quiet_NaN();
      for (int64_t i = 377 * k_row; i < 380 * k_row; ++i) around.k[i] = around.v[i];
      for (int64_t i = 377 * q_row; i < 380 * q_row; ++i) around.q[i] = around.v[0];
      insert(t.q, 77 * q_row, &around.q);
      insert(t.k, 77 * k_row, &around.k);
      insert(t.v, 77 * k_row, &around.v);
      const DeviceResult expected = RunDevice(alone, t), actual = RunDevice(packed, around);
      EXPECT(std::equal(expected.out.begin(), expected.out.end(), actual.out.begin() + 77 * q_row));
      EXPECT(actual.by_sequence[1].tiles_computed == expected.stats.tiles_computed);
    }
  }
}

// Block lists whose rows change within a block of queries, rows without the diagonal among them.
PARITY_TEST(attention_sm90_block_lists) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      for (int64_t block : {128, 256, 384}) {
        AttentionCase c = Sm90Case({900, 100}, dim);
        c.heads = 1;
        c.slopes = {0.003f};
        std::vector<int64_t> offsets{0};
        std::vector<int32_t> columns;
        for (int64_t length : c.lengths) {
          const int64_t blocks = CeilDiv(length, block);
          for (int64_t r = 0; r < blocks; ++r) {
            for (int64_t j = 0; j < blocks; ++j) {
              if ((r % 2 == 0 && j == r) || (2 * j + r) % 3 == 1) {
                columns.push_back(static_cast<int32_t>(j));
              }
            }
            offsets.push_back(static_cast<int64_t>(columns.size()));
          }
        }
        c.mask.block_tokens = block;
        c.mask.block_row_offsets = offsets.data();
        c.mask.block_columns = columns.data();
        ExpectParity(c, 66, "blocks of " + std::to_string(block) + ", dim " + std::to_string(dim));
      }
    }
  }
}

// Every row keeps the bound although warpgroups of a block end their sides at different tiles, and
// what they skip is the same in every run.
PARITY_TEST(attention_sm90_sides_end_apart) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      AttentionCase c = Sm90Case({SmallShapes() ? 1300 : 8000}, dim);
      c.heads = 1;
      c.slopes = {0.08f};
      c.skip = SkipMode::kTolerance;
      AttentionTensors t = RandomTensors(c, 67, 2.0f);
      // Queries of every other 64 rows are short, so that these rows end much earlier.
      for (int64_t i = 0; i < c.tokens() * dim; ++i) {
        if (i / dim / 64 % 2 == 1) t.q[i] = RoundTo(c.storage, t.q[i] * 0.02f);
      }
      const DeviceResult first = RunDevice(c, t), second = RunDevice(c, t);
      EXPECT(first.out == second.out);
      EXPECT(first.stats.tiles_computed == second.stats.tiles_computed);
      EXPECT(first.stats.tiles_computed < first.stats.tiles_dense);
      const double bound =
          2 * c.epsilon * LongestValue(c, t) + Tolerance(c.storage) * kernels::testing::MaxAbs(t.v);
      EXPECT(MaxDifference(first.out, RunReference(c, t)) <= bound);
    }
  }
}

PARITY_TEST(attention_sm90_gathered) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      int number = 0;
      for (AttentionCase& c : GatheredPatterns(SmallShapes() ? 290 : 2000)) {
        c.storage = number % 2 == 0 ? DType::kBF16 : DType::kF16;
        c.heads = 2;
        c.kv_heads = 1;
        c.dim = dim;
        c.slopes = {0.004f, 0.5f};
        const std::string what = "pattern " + std::to_string(number++);
        const DeviceResult dense = ExpectParity(c, 68, what);
        c.skip = SkipMode::kExact;
        const DeviceResult exact = ExpectParity(c, 68, what);
        EXPECT(dense.out == exact.out);
        EXPECT(dense.lse == exact.lse);
      }
    }
  }
}

PARITY_TEST(attention_sm90_over_queries) {
  for (int major : Capabilities()) {
    UseCapability(major);
    for (int32_t dim : kDims) {
      AttentionCase c = Sm90Case({210, 1, 190}, dim);
      const AttentionTensors t = RandomTensors(c, 69);
      const DeviceResult apart = RunDevice(c, t), over = RunDevice(c, t, /*in_place=*/true);
      EXPECT(apart.out == over.out);
      EXPECT(apart.lse == over.lse);
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
