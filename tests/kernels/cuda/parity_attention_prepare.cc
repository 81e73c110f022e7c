// The preparation of attention: norms that bound, ranges and sums that are the host's.
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "kernels/cpu/gathered.h"
#include "tests/kernels/cuda/attention_device.h"
#include "tests/kernels/gathered_case.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using namespace kernels::testing;  // NOLINT: its cases are what this file is about

template <typename T>
std::vector<T> Fetch(const T* from, int64_t count) {
  std::vector<T> out(static_cast<size_t>(count));
  EXPECT_OK(cudaMemcpy(out.data(), from, out.size() * sizeof(T), cudaMemcpyDeviceToHost));
  return out;
}

// What the preparation left in the workspace.
struct Prepared {
  Prepared(const AttentionCase& c, const AttentionTensors& t, TileShape tile)
      : problem(c, t), workspace(SizeFor(tile)) {
    problem.args().workspace = workspace.get();
    MakeAttentionParams(problem.args(), tile, &params);
    EXPECT_OK(PrepareAttention(params, nullptr));
    EXPECT_OK(cudaDeviceSynchronize());
    items = Fetch(params.work, params.items);
  }
  // Tiles that no kernel has need memory of their own.
  size_t SizeFor(TileShape tile) {
    problem.args().workspace = nullptr;
    return static_cast<size_t>(MakeAttentionParams(problem.args(), tile, &params));
  }

  DeviceProblem problem;
  AttentionParams params;
  DeviceBytes workspace;
  std::vector<AttentionItem> items;
};

bool SameRange(const KeyRange& a, const KeyRange& b) {
  return a.tile_keys == b.tile_keys && a.tokens == b.tokens && a.tiles == b.tiles &&
         a.first_row == b.first_row && a.rows == b.rows && a.radius == b.radius &&
         a.globals == b.globals && a.causal == b.causal && a.listed == b.listed &&
         a.diagonal_begin == b.diagonal_begin && a.diagonal_end == b.diagonal_end &&
         a.left_end == b.left_end && a.right_end == b.right_end &&
         a.prefix_tiles == b.prefix_tiles && a.dense_tiles == b.dense_tiles;
}

double Norm(const std::vector<float>& x, int64_t row, int32_t dim, const float* centre) {
  double square = 0;
  for (int32_t d = 0; d < dim; ++d) {
    const double value = x[row * dim + d] - (centre == nullptr ? 0.0 : double{centre[d]});
    square += value * value;
  }
  return std::sqrt(square);
}

// Every (sequence, head, row) in exactly one item, flat slopes first.
void CheckOrder(const AttentionCase& c, const Prepared& p) {
  std::vector<std::vector<int>> covered(c.heads, std::vector<int>(c.tokens()));
  float last_slope = 0;
  for (const AttentionItem& item : p.items) {
    if (item.range.rows == 0) continue;
    EXPECT(p.problem.slopes()[item.head] >= last_slope);
    last_slope = p.problem.slopes()[item.head];
    EXPECT(item.kv_head == item.head * c.kv_heads / c.heads);
    EXPECT(item.k_begin == p.problem.cu_keys()[item.sequence]);
    EXPECT(item.q_begin == p.problem.cu()[item.sequence] + item.range.first_row);
    for (int64_t r = 0; r < item.range.rows; ++r) ++covered[item.head][item.q_begin + r];
  }
  EXPECT(covered == std::vector<std::vector<int>>(c.heads, std::vector<int>(c.tokens(), 1)));
}

// Ranges of side-by-side tokens from the device's own norms, by the host.
void CheckRanges(const AttentionCase& c, const Prepared& p) {
  const AttentionParams& params = p.params;
  const std::vector<RowNorm> norms =
      params.norms ? Fetch(params.row_norms, c.heads * c.tokens()) : std::vector<RowNorm>{};
  const std::vector<KeyBound> bounds =
      params.norms ? Fetch(params.key_bounds, params.num_sequences * c.kv_heads)
                   : std::vector<KeyBound>{};
  int64_t limited = 0;
  for (const AttentionItem& item : p.items) {
    if (item.range.rows == 0) continue;
    int64_t list_row = 0;
    for (int32_t s = 0; c.mask.block_row_offsets != nullptr && s < item.sequence; ++s) {
      list_row += CeilDiv(c.lengths[s], c.mask.block_tokens);
    }
    const KeyRange& got = item.range;
    KeyRange range = MaskedRange(c.mask, c.lengths[item.sequence], got.first_row, got.rows,
                                 params.tile.keys, list_row);
    const int64_t allowed = range.right_end - range.left_end;
    if (params.norms && range.tokens > kShortSequence) {
      float top = 0;
      for (int64_t r = 0; r < range.rows; ++r) {
        top = std::max(top, norms[item.head * c.tokens() + item.q_begin + r].norm);
      }
      const KeyBound& keys = bounds[item.sequence * c.kv_heads + item.kv_head];
      const float slack = keys.raw_norm * static_cast<float>(c.dim) * 0x1p-20f;
      const float bound = top * (keys.centred_norm + slack) * (1 / kLog2E) * (1 + 0x1p-20f);
      LimitByDistance(
          DistanceOfSpread(SkipSpread(c.skip, c.epsilon), p.problem.slopes()[item.head], bound),
          &range);
    }
    EXPECT(SameRange(got, range));
    for (int list = 0; list < 2; ++list) {
      EXPECT(got.list_end[list] - got.list_begin[list] ==
             range.list_end[list] - range.list_begin[list]);
    }
    limited += allowed - (range.right_end - range.left_end);
  }
  if (c.skip != SkipMode::kDense && c.mask.block_row_offsets == nullptr) EXPECT(limited > 0);
}

PARITY_TEST(attention_prepare_ranges_are_the_hosts) {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> columns;
  for (int64_t length : {700, 0, 130, 900}) {
    const int64_t blocks = CeilDiv(length, 128);
    for (int64_t r = 0; r < blocks; ++r) {
      for (int64_t j = r % 3; j < blocks; j += 2) columns.push_back(static_cast<int32_t>(j));
      offsets.push_back(static_cast<int64_t>(columns.size()));
    }
  }
  for (TileShape tile : {Sm80Tile(64), Sm90Tile(64), TileShape{192, 128}, TileShape{64, 32}}) {
    for (SkipMode skip : {SkipMode::kDense, SkipMode::kExact, SkipMode::kTolerance}) {
      for (int mask = 0; mask < 5; ++mask) {
        AttentionCase c;
        c.lengths = {700, 0, 130, 900};
        c.heads = 4;
        c.kv_heads = 2;
        c.slopes = {0.5f, 0.0f, 3.0f, 0.25f};
        c.dim = 48;
        c.storage = DType::kBF16;
        c.skip = skip;
        c.mask.causal = mask == 1 || mask == 3;
        c.mask.window_radius = mask == 2 || mask == 3 ? 350 : -1;
        c.mask.num_global = 70;
        if (mask == 4) {
          if (tile.queries > 128) continue;
          c.mask.block_tokens = 128;
          c.mask.block_row_offsets = offsets.data();
          c.mask.block_columns = columns.data();
        }
        const AttentionTensors t = RandomTensors(c, 61, 0.5f);
        const Prepared prepared(c, t, tile);
        CheckOrder(c, prepared);
        CheckRanges(c, prepared);
      }
    }
  }
}

// Norms are those of the stored values, never too small, hardly too large.
PARITY_TEST(attention_prepare_norms_bound) {
  for (DType type : {DType::kBF16, DType::kF16}) {
    AttentionCase c;
    c.lengths = {300, 40, 513};
    c.heads = 4;
    c.kv_heads = 2;
    c.dim = 80;
    c.storage = type;
    c.skip = SkipMode::kTolerance;
    AttentionTensors t = RandomTensors(c, 62);
    for (size_t i = 0; i < t.k.size(); i += 5) t.k[i] = RoundTo(type, t.k[i] + 4.0f);
    const Prepared p(c, t, Sm80Tile(80));
    const std::vector<RowNorm> rows = Fetch(p.params.row_norms, c.heads * c.tokens());
    const std::vector<float> centres = Fetch(p.params.centres, 3 * c.kv_heads * c.dim);
    const std::vector<float> left = Fetch(p.params.left_norms, c.kv_heads * p.params.key_slots);
    const std::vector<float> right = Fetch(p.params.right_norms, c.kv_heads * p.params.key_slots);
    const double by = kLog2E / std::sqrt(static_cast<double>(c.dim));
    for (const AttentionItem& item : p.items) {
      if (item.range.rows == 0 || item.range.tokens <= kShortSequence) continue;
      const float* centre = centres.data() + (item.sequence * c.kv_heads + item.kv_head) * c.dim;
      double before = 0;
      for (int64_t tile = 0; tile < item.range.tiles; ++tile) {
        for (int64_t j = tile * 64; j < std::min<int64_t>(item.range.tokens, tile * 64 + 64); ++j) {
          const int64_t row = (item.k_begin + j) * c.kv_heads + item.kv_head;
          const double norm = Norm(t.k, row, c.dim, centre);
          before = std::max(before, norm);
          EXPECT(right[item.norms + tile] >= norm);
        }
        EXPECT(left[item.norms + tile] >= before);
        EXPECT(left[item.norms + tile] <= before * 1.001);
      }
      EXPECT(right[item.norms] == left[item.norms + item.range.tiles - 1]);
      for (int64_t r = 0; r < item.range.rows; ++r) {
        const RowNorm& got = rows[item.head * c.tokens() + item.q_begin + r];
        const double norm =
            Norm(t.q, (item.q_begin + r) * c.heads + item.head, c.dim, nullptr) * by;
        EXPECT(got.norm >= norm && got.norm <= norm * 1.001);
      }
      // The centre takes the common part of the keys away.
      EXPECT(left[item.norms + item.range.tiles - 1] <
             0.95 * Fetch(p.params.key_bounds + item.sequence * c.kv_heads + item.kv_head, 1)[0]
                        .raw_norm);
    }
  }
}

PARITY_TEST(attention_prepare_position_sums_are_the_hosts) {
  for (AttentionCase& c : GatheredPatterns(SmallShapes() ? 300 : 3000)) {
    c.slopes = {0.7f, 0.001f};
    c.dim = 16;
    c.storage = DType::kBF16;
    c.skip = SkipMode::kTolerance;
    if (c.keys() <= kShortSequence) continue;
    const Prepared p(c, RandomTensors(c, 63), Sm80Tile(16));
    for (int32_t h = 0; h < c.heads; ++h) {
      std::vector<float> left(c.keys()), right(c.keys());
      PositionSums(c.k_positions.data(), c.keys(), c.slopes[h], left.data(), right.data());
      const std::vector<float> got_left = Fetch(p.params.left_sums + h * c.keys(), c.keys());
      const std::vector<float> got_right = Fetch(p.params.right_sums + h * c.keys(), c.keys());
      for (int64_t j = 0; j < c.keys(); ++j) {
        EXPECT(std::abs(got_left[j] - left[j]) <= 2e-7f * left[j]);
        EXPECT(std::abs(got_right[j] - right[j]) <= 2e-7f * right[j]);
      }
    }
    // Places: the nearest key of every row, and the diagonal that holds them.
    const std::vector<RowLimit> limits = Fetch(p.params.row_limits, c.heads * c.tokens());
    for (const AttentionItem& item : p.items) {
      for (int64_t r = 0; r < item.range.rows; ++r) {
        int64_t nearest = int64_t{1} << 40, key = 0;
        for (int64_t j = 0; j < c.keys(); ++j) {
          const int64_t apart =
              std::abs(int64_t{c.q_positions[item.q_begin + r]} - c.k_positions[j]);
          if (apart < nearest) nearest = apart, key = j;
        }
        EXPECT(limits[item.head * c.tokens() + item.q_begin + r].nearest == nearest);
        EXPECT(item.range.diagonal_begin <= key / 64 && key / 64 < item.range.diagonal_end);
      }
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
