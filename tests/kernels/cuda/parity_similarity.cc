// Late interaction on the device against the reference: maxima bit for bit, sums in double.
#include <cmath>
#include <limits>
#include <random>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"

namespace longdoc::kernels::cuda::parity {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Whole tile, its ends, single rows, every way to lie among strips of 64 rows, and random ones.
std::vector<RowRange> SomeRanges(int64_t rows, uint32_t seed) {
  std::vector<RowRange> ranges;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin < 0 || begin >= end || end > rows) return;
    // Slots in another order than ranges.
    const int64_t slot = static_cast<int64_t>(ranges.size()) ^ 1;
    ranges.push_back({static_cast<int32_t>(begin), static_cast<int32_t>(end), slot});
  };
  add(0, rows);
  add(rows - 1, rows);
  add(0, 1);
  for (int64_t begin : {1, 63, 64, 65}) {
    for (int64_t end : {64, 65, 127, 128, 129, 192}) add(begin, end);
  }
  std::mt19937 generator(seed);
  for (int i = 0; i < 10; ++i) {
    const int64_t a = generator() % rows, b = generator() % rows;
    add(std::min(a, b), std::max(a, b) + 1);
  }
  return ranges;
}

void CheckMaxima(const std::vector<float>& in, int64_t rows, int64_t columns) {
  const std::vector<RowRange> ranges = SomeRanges(rows, static_cast<uint32_t>(rows));
  const int64_t stride = columns + 3, slots = static_cast<int64_t>(ranges.size()) + 1;
  std::vector<float> expected(slots * stride, -7.0f);
  DeviceArray<float> device_in(in), out(expected);
  DeviceArray<RowRange> device_ranges(ranges);
  DeviceArray<char> scratch(ColumnMaximaWorkspaceBytes(rows, columns));
  ColumnMaximaArgs args;
  args.rows = rows;
  args.columns = columns;
  args.num_ranges = static_cast<int64_t>(ranges.size());
  args.out_stride = stride;
  args.in = in.data();
  args.ranges = ranges.data();
  args.out = expected.data();
  reference::ColumnMaxima(args);
  args.in = device_in.data();
  args.ranges = device_ranges.data();
  args.out = out.data();
  args.scratch = scratch.data();
  EXPECT_OK(ColumnMaxima(args, nullptr));
  if (MaxDistance(out.Download(), expected) != 0) {
    Failed(__FILE__, __LINE__, "%lld rows, %lld columns", static_cast<long long>(rows),
           static_cast<long long>(columns));
  }
}

PARITY_TEST(similarity_column_maxima) {
  for (int64_t rows : {1, 2, 63, 64, 65, 127, 128, 200}) {
    for (int64_t columns : {1, 3, 31, 64, 65, 130}) {
      CheckMaxima(RandomFloats(rows * columns, static_cast<uint32_t>(rows + columns)), rows,
                  columns);
    }
  }
  if (SmallShapes()) return;
  CheckMaxima(RandomFloats(8192 * 1024, 5), 8192, 1024);
  CheckMaxima(RandomFloats(8191 * 1000, 5), 8191, 1000);
}

PARITY_TEST(similarity_maxima_pass_over_nan) {
  constexpr int64_t kRows = 130, kColumns = 5;
  std::vector<float> in = RandomFloats(kRows * kColumns, 3);
  for (int64_t r = 0; r < kRows; ++r) {
    in[r * kColumns] = kNan;                         // nothing else
    if (r != 70) in[r * kColumns + 1] = kNan;        // one number
    in[r * kColumns + 2] = -kInfinity;               // nothing larger
    if (r == 129) in[r * kColumns + 3] = kInfinity;  // nothing is larger
    if (r % 64 == 0) in[r * kColumns + 4] = kNan;
  }
  CheckMaxima(in, kRows, kColumns);
}

// A tile of ranges that must not touch what is no range's slot.
PARITY_TEST(similarity_no_ranges) {
  DeviceArray<float> out(std::vector<float>{4, 5});
  ColumnMaximaArgs args;
  args.rows = 1;
  args.columns = 2;
  args.out = out.data();
  EXPECT_OK(ColumnMaxima(args, nullptr));
  EXPECT(out.Download() == (std::vector<float>{4, 5}));
}

struct Sums {
  std::vector<double> scores, expected;
};

Sums RunSums(const std::vector<float>& maxima, int64_t stride, const std::vector<MaximaSpan>& spans,
             const std::vector<int64_t>& columns) {
  const int64_t count = static_cast<int64_t>(spans.size());
  const int64_t candidates = static_cast<int64_t>(columns.size()) - 1;
  Sums sums;
  sums.expected.assign(candidates * (count + 2), -3.0);
  DeviceArray<double> scores(sums.expected);
  DeviceArray<float> device_maxima(maxima);
  DeviceArray<MaximaSpan> device_spans(spans);
  DeviceArray<int64_t> device_columns(columns);
  SumMaximaArgs args;
  args.stride = stride;
  args.num_spans = count;
  args.num_candidates = candidates;
  args.scores_stride = count + 2;
  args.maxima = maxima.data();
  args.spans = spans.data();
  args.columns = columns.data();
  args.scores = sums.expected.data();
  reference::SumMaxima(args);
  args.maxima = device_maxima.data();
  args.spans = device_spans.data();
  args.columns = device_columns.data();
  args.scores = scores.data();
  EXPECT_OK(SumMaxima(args, nullptr));
  sums.scores = scores.Download();
  return sums;
}

PARITY_TEST(similarity_sum_maxima) {
  const std::vector<MaximaSpan> spans = {{-1, -1, 0, 9}, {0, -1, 0, 0}, {3, 8, 0, 0},
                                         {8, 0, 2, 7},   {-1, 4, 4, 5}, {2, 2, 0, 0}};
  for (const std::vector<int64_t>& columns :
       std::vector<std::vector<int64_t>>{{0, 1}, {0, 127, 128, 300}, {0, 129, 400, 401, 403}}) {
    const int64_t stride = columns.back() + 1;
    const Sums sums = RunSums(RandomFloats(9 * stride, 11), stride, spans, columns);
    for (size_t i = 0; i < sums.scores.size(); ++i) {
      EXPECT(std::abs(sums.scores[i] - sums.expected[i]) <= 1e-12);
    }
    // Spans of equal rows have equal scores, and a candidate scores what it scores alone.
    EXPECT(sums.scores[1] != sums.scores[2]);
    std::vector<MaximaSpan> twice = {spans[3], spans[0], spans[3]};
    const Sums again = RunSums(RandomFloats(9 * stride, 11), stride, twice, columns);
    EXPECT(again.scores[0] == again.scores[2] && again.scores[0] == sums.scores[3]);
    const int64_t width = columns[1];
    std::vector<float> first;
    const std::vector<float> all = RandomFloats(9 * stride, 11);
    for (int64_t r = 0; r < 9; ++r) {
      first.insert(first.end(), all.begin() + r * stride, all.begin() + r * stride + width);
    }
    const Sums alone = RunSums(first, width, spans, {0, width});
    for (size_t s = 0; s < spans.size(); ++s) EXPECT(alone.scores[s] == sums.scores[s]);
  }
}

PARITY_TEST(similarity_unit_rows) {
  for (int64_t dim : {1, 3, 4, 31, 32, 128, 132, 200, 768}) {
    for (int64_t rows : {1, 7, 8, 9}) {
      for (int64_t shift : {0, 1}) {
        std::vector<float> in = RandomFloats(rows * dim, static_cast<uint32_t>(dim), 3.0f);
        for (int64_t c = 0; c < dim; ++c) in[c] *= 1e25f;  // squares beyond fp32
        if (rows > 1) std::fill(in.begin() + dim, in.begin() + 2 * dim, 0.0f);
        if (rows > 2) in[2 * dim] = kNan;
        if (rows > 3) in[4 * dim - 1] = kInfinity;
        std::vector<uint16_t> expected(rows * dim, 7);
        UnitRowsArgs args;
        args.rows = rows;
        args.dim = dim;
        args.in = in.data();
        args.out = expected.data();
        reference::UnitRows(args);
        ShiftedArray<float> device_in(in, shift);
        ShiftedArray<uint16_t> out(std::vector<uint16_t>(rows * dim), shift);
        args.in = device_in.data();
        args.out = out.data();
        EXPECT_OK(UnitRows(args, nullptr));
        // Sums in another order may move a result that lies between two.
        const std::vector<float> a = FromBf16(out.Download()), b = FromBf16(expected);
        for (size_t i = 0; i < a.size(); ++i) {
          if (std::isnan(a[i]) && std::isnan(b[i])) continue;
          EXPECT(std::abs(a[i] - b[i]) <= std::abs(b[i]) / 128);
        }
      }
    }
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
