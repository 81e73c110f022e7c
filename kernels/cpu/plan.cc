#include <algorithm>
#include <limits>
#include <tuple>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/tables.h"

namespace longdoc::kernels {
namespace {

constexpr int64_t kEverything = std::numeric_limits<int64_t>::max();

// The bound that the prediction assumes: queries are not looked at before Attend.
constexpr float kTypicalBound = 20.0f;

// Predicted tiles of rows [begin, end) of a sequence of `tokens`, for one head whose tiles reach
// `reach` tokens to each side.
double PredictTiles(const AttentionProblem& p, int64_t tokens, int64_t begin, int64_t end,
                    int64_t reach) {
  double tiles = 0;
  const bool windowed = p.mask.window_radius >= 0;
  for (int64_t i = begin; i < end; i += kQueryBlock) {
    const int64_t last = std::min(end, i + kQueryBlock) - 1;
    int64_t side = reach;
    if (windowed && i >= p.mask.num_global) side = std::min(side, p.mask.window_radius);
    const int64_t low = i > side ? i - side : 0;
    const int64_t limit = p.mask.causal ? last : tokens - 1;
    const int64_t high = side < limit - last ? last + side : std::max(limit, last);
    int64_t visited = high / kKeyBlock - low / kKeyBlock + 1;
    if (windowed) visited += CeilDiv(std::min(low, p.mask.num_global), kKeyBlock);
    tiles += static_cast<double>(visited);
  }
  return tiles;
}

// The same for gathered tokens: the tiles of keys within `reach` of the rows' own positions.
double PredictGatheredTiles(const AttentionProblem& p, int64_t sequence, int64_t begin, int64_t end,
                            int64_t reach) {
  const int32_t* keys = p.k_positions + p.cu_seqlens_k[sequence];
  const int32_t* keys_end = keys + KeyCount(p, sequence);
  const int32_t* rows = p.q_positions + p.cu_seqlens[sequence];
  const int64_t side = std::min<int64_t>(reach, std::numeric_limits<int32_t>::max());
  double tiles = 0;
  for (int64_t i = begin; i < end; i += kQueryBlock) {
    const int64_t low = rows[i] - side, high = rows[std::min(end, i + kQueryBlock) - 1] + side;
    const int64_t first = std::lower_bound(keys, keys_end, low) - keys;
    const int64_t last = std::upper_bound(keys, keys_end, high) - keys;
    // The tile of the nearest key is visited however far it is.
    tiles +=
        static_cast<double>(std::max<int64_t>(CeilDiv(last, kKeyBlock) - first / kKeyBlock, 1));
  }
  return tiles;
}

}  // namespace

std::vector<AttentionUnit> PlanUnits(const AttentionProblem& p, int64_t rows_per_unit) {
  std::vector<AttentionUnit> units;
  const int64_t rows = RoundUp(std::max<int64_t>(rows_per_unit, 1), kQueryBlock);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t tokens = p.cu_seqlens[s + 1] - p.cu_seqlens[s];
    if (tokens == 0) continue;
    const bool gathered = p.cu_seqlens_k != nullptr;
    const bool is_short = std::max(tokens, KeyCount(p, s)) <= kShortSequence;
    const int32_t heads = is_short ? p.num_heads : 1;
    for (int32_t h = 0; h < p.num_heads; h += heads) {
      const int64_t reach =
          is_short ? kEverything : SkipDistance(p.skip, p.slopes[h], kTypicalBound, p.epsilon);
      for (int64_t i = 0; i < tokens; i += is_short ? tokens : rows) {
        AttentionUnit unit;
        unit.sequence = s;
        unit.query_begin = i;
        unit.query_end = is_short ? tokens : std::min(tokens, i + rows);
        unit.head_begin = h;
        unit.head_end = h + heads;
        unit.cost = heads * (gathered ? PredictGatheredTiles(p, s, i, unit.query_end, reach)
                                      : PredictTiles(p, tokens, i, unit.query_end, reach));
        units.push_back(unit);
      }
    }
  }
  std::stable_sort(units.begin(), units.end(),
                   [](const AttentionUnit& a, const AttentionUnit& b) { return a.cost > b.cost; });
  return units;
}

}  // namespace longdoc::kernels
