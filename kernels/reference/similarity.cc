#include "kernels/similarity.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"

namespace longdoc::kernels::reference {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// best[c] = max(best[c], row[c]); NaN is passed over.
void TakeLarger(const float* row, int64_t columns, float* best) {
  for (int64_t c = 0; c < columns; ++c) best[c] = row[c] > best[c] ? row[c] : best[c];
}

}  // namespace

void ColumnMaxima(const ColumnMaximaArgs& args) {
  for (int64_t i = 0; i < args.num_ranges; ++i) {
    const RowRange& range = args.ranges[i];
    float* out = args.out + range.slot * args.out_stride;
    std::fill(out, out + args.columns, kNothing);
    for (int64_t r = range.begin; r < range.end; ++r) {
      TakeLarger(args.in + r * args.columns, args.columns, out);
    }
  }
}

void SumMaxima(const SumMaximaArgs& args) {
  const int64_t columns = args.columns[args.num_candidates];
  std::vector<float> best(static_cast<size_t>(columns));
  for (int64_t s = 0; s < args.num_spans; ++s) {
    const MaximaSpan& span = args.spans[s];
    std::fill(best.begin(), best.end(), kNothing);
    const auto take = [&](int64_t slot) {
      if (slot >= 0) TakeLarger(args.maxima + slot * args.stride, columns, best.data());
    };
    take(span.first);
    take(span.last);
    for (int64_t slot = span.begin; slot < span.end; ++slot) take(slot);
    for (int64_t i = 0; i < args.num_candidates; ++i) {
      double sum = 0;
      for (int64_t c = args.columns[i]; c < args.columns[i + 1]; ++c) sum += best[c];
      args.scores[i * args.scores_stride + s] =
          sum / static_cast<double>(args.columns[i + 1] - args.columns[i]);
    }
  }
}

void UnitRows(const UnitRowsArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* in = args.in + r * args.dim;
    double sum = 0;
    for (int64_t c = 0; c < args.dim; ++c) sum += static_cast<double>(in[c]) * in[c];
    const double factor = sum > 0 ? 1 / std::sqrt(sum) : 1;
    for (int64_t c = 0; c < args.dim; ++c) {
      args.out[r * args.dim + c] = RoundToBf16(static_cast<float>(in[c] * factor));
    }
  }
}

}  // namespace longdoc::kernels::reference
