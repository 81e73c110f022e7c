// kernels/ranges.h, which every backend shares: against the masks' definition for tiles of any
// size, and where products of positions leave 32 bits.
#include "kernels/ranges.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <vector>

namespace longdoc::kernels {
namespace {

struct Problem {
  AttentionMask mask;
  int64_t tokens = 0;
  std::vector<int64_t> offsets;
  std::vector<int32_t> columns;

  bool Sees(int64_t i, int64_t j) const {
    if (mask.causal && j > i) return false;
    if (mask.window_radius >= 0 && std::abs(i - j) > mask.window_radius && i >= mask.num_global &&
        j >= mask.num_global) {
      return false;
    }
    if (offsets.empty()) return true;
    const int64_t row = i / mask.block_tokens;
    for (int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
      if (columns[e] == j / mask.block_tokens) return true;
    }
    return false;
  }
};

struct Shape {
  int64_t queries, keys;
};

// Visits in order, checks sides and order, returns how often each tile came.
std::map<int64_t, int> Walk(const KeyRange& range) {
  std::map<int64_t, int> visits;
  TileWalk walk = StartWalk(range);
  int32_t side = kTileDiagonal, last_side = kTileDiagonal;
  int64_t left = range.diagonal_begin, right = range.diagonal_end - 1;
  for (int64_t tile = NextTile(range, &walk, &side); tile >= 0;
       tile = NextTile(range, &walk, &side)) {
    if (side == kTileDiagonal) {
      EXPECT_EQ(last_side, kTileDiagonal);
      EXPECT_TRUE(tile >= range.diagonal_begin && tile < range.diagonal_end);
    } else if (side == kTileLeft) {
      EXPECT_LT(tile, left);
      left = tile;
    } else {
      EXPECT_GT(tile, right);
      right = tile;
    }
    last_side = side;
    ++visits[tile];
  }
  return visits;
}

void Check(const Problem& p, Shape shape) {
  for (int64_t first = 0; first < p.tokens; first += shape.queries) {
    const int64_t rows = Min(shape.queries, p.tokens - first);
    const KeyRange range = MaskedRange(p.mask, p.tokens, first, rows, shape.keys, 0);
    const std::map<int64_t, int> visits = Walk(range);
    for (int64_t tile = 0; tile < range.tiles; ++tile) {
      bool any = false, all = true;
      const bool listed = p.mask.block_row_offsets != nullptr;
      for (int64_t i = first; i < first + rows; ++i) {
        const bool in_list = !listed || IsListed(range, i < range.split ? 0 : 1, tile);
        const TileColumns columns = VisibleColumns(range, i, tile, in_list);
        for (int64_t c = 0; c < shape.keys; ++c) {
          const int64_t j = tile * shape.keys + c;
          const bool sees = j < p.tokens && p.Sees(i, j);
          any = any || sees;
          all = all && sees;
          const bool said = (c >= columns.begin && c < columns.end) || c < columns.prefix;
          ASSERT_EQ(said, sees) << i << " " << j;
        }
      }
      EXPECT_TRUE(!any || visits.count(tile) == 1) << first << " " << tile;
      EXPECT_LE(visits.count(tile) == 0 ? 0 : visits.at(tile), 1);
      EXPECT_TRUE(all || !IsFull(range, first, rows, tile));
    }
    for (const auto& [tile, count] : visits) EXPECT_TRUE(tile >= 0 && tile < range.tiles);
  }
}

TEST(Ranges, CoverWhatMasksAllow) {
  for (Shape shape : {Shape{128, 64}, Shape{128, 128}, Shape{192, 128}, Shape{16, 16}}) {
    for (int64_t tokens : {1, 63, 64, 65, 129, 400}) {
      for (bool causal : {false, true}) {
        for (int64_t radius : {-1, 0, 33, 70, 5000}) {
          for (int64_t globals : {0, 1, 70, 500}) {
            if (radius < 0 && globals > 0) continue;
            Problem p;
            p.tokens = tokens;
            p.mask.causal = causal;
            p.mask.window_radius = radius;
            p.mask.num_global = globals;
            Check(p, shape);
          }
        }
      }
    }
  }
}

TEST(Ranges, CoverBlockLists) {
  std::mt19937 generator(1);
  for (Shape shape : {Shape{128, 64}, Shape{128, 128}, Shape{64, 32}}) {
    for (int64_t block : {128, 256, 384}) {
      for (bool causal : {false, true}) {
        Problem p;
        p.tokens = 900;
        p.offsets = {0};
        for (int64_t r = 0; r < CeilDiv(p.tokens, block); ++r) {
          for (int64_t j = 0; j < CeilDiv(p.tokens, block); ++j) {
            if (generator() % 3 == 0) p.columns.push_back(static_cast<int32_t>(j));
          }
          p.offsets.push_back(static_cast<int64_t>(p.columns.size()));
        }
        p.mask.causal = causal;
        p.mask.block_tokens = block;
        p.mask.block_row_offsets = p.offsets.data();
        p.mask.block_columns = p.columns.data();
        Check(p, shape);
      }
    }
  }
}

TEST(Ranges, RuleAKeepsEveryTileNearerThanTheDistance) {
  for (Shape shape : {Shape{128, 64}, Shape{128, 128}, Shape{192, 96}}) {
    for (int64_t distance : {1, 2, 63, 64, 65, 200, 1000, 100000}) {
      for (int64_t first = 0; first < 2000; first += shape.queries) {
        const int64_t rows = Min(shape.queries, 2000 - first);
        KeyRange range = MaskedRange({}, 2000, first, rows, shape.keys, 0);
        LimitByDistance(distance, &range);
        const std::map<int64_t, int> visits = Walk(range);
        for (int64_t tile = 0; tile < range.tiles; ++tile) {
          const int64_t begin = tile * shape.keys, end = begin + shape.keys - 1;
          const int64_t gap = end < first                ? first - end
                              : begin > first + rows - 1 ? begin - (first + rows - 1)
                                                         : 0;
          EXPECT_EQ(visits.count(tile) == 1, gap == 0 || gap < distance) << distance << " " << tile;
        }
      }
    }
  }
}

// 46,341² is the first square beyond 2^31.
TEST(Ranges, PositionsBeyondThirtyTwoBits) {
  AttentionMask mask;
  for (int64_t tokens : {int64_t{46341}, int64_t{46341} * 46341, int64_t{1} << 33}) {
    const int64_t first = (tokens - 1) / 128 * 128;
    KeyRange range = MaskedRange(mask, tokens, first, tokens - first, 64, 0);
    EXPECT_EQ(range.tiles, CeilDiv(tokens, 64));
    LimitByDistance(1000, &range);
    EXPECT_EQ(range.left_end, (first - 999) / 64);
    EXPECT_EQ(static_cast<int64_t>(Walk(range).size()), range.tiles - range.left_end);
    mask.window_radius = tokens;
    mask.num_global = tokens / 2;
    const KeyRange wide = MaskedRange(mask, tokens, first, tokens - first, 128, 0);
    EXPECT_EQ(wide.left_end, 0);
    EXPECT_EQ(wide.right_end, CeilDiv(tokens, 128));
    EXPECT_EQ(wide.prefix_tiles, CeilDiv(tokens / 2, 128));
    mask = {};
  }
}

TEST(Ranges, DistanceIsThatOfTheContract) {
  EXPECT_EQ(SkipDistance(SkipMode::kDense, 1.0f, 1.0f, 0.1f), INT64_MAX);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 0.0f, 1.0f, 0.1f), INT64_MAX);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1.0f, std::nanf(""), 0.1f), INT64_MAX);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1.0f, INFINITY, 0.1f), INT64_MAX);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 1.0f, -1.0f, 0.1f), INT64_MAX);
  EXPECT_EQ(SkipDistance(SkipMode::kExact, 0.5f, 20.0f, 0.0f), 255);
  EXPECT_EQ(SkipDistance(SkipMode::kTolerance, 1.0f, 2.0f, 2.0f / std::exp(6.5f)), 11);
  // A tiny epsilon asks for no more than exactness.
  EXPECT_EQ(SkipDistance(SkipMode::kTolerance, 0.5f, 20.0f, 1e-40f), 255);
}

TEST(Ranges, EndedSidesStayAway) {
  const KeyRange range = MaskedRange({}, 1000, 512, 128, 64, 0);
  TileWalk walk = StartWalk(range);
  int32_t side = kTileDiagonal;
  std::vector<int64_t> order;
  for (int64_t tile = NextTile(range, &walk, &side); tile >= 0;
       tile = NextTile(range, &walk, &side)) {
    order.push_back(tile);
    if (tile == 6) EndSide(kTileLeft, &walk);
  }
  EXPECT_EQ(order, (std::vector<int64_t>{8, 9, 7, 10, 6, 11, 12, 13, 14, 15}));
}

}  // namespace
}  // namespace longdoc::kernels
