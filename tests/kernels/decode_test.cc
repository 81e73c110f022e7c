// Multi-query attention of a decoder and the softmax over a vocabulary, of every table.
#include "kernels/decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/reference/reference.h"
#include "tests/kernels/attention_case.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/test_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::testing {
namespace {

double Tolerance(const CpuKernels& kernels, const MqaCase& c) {
  const bool rounded = c.storage == DType::kBF16 && kernels.native_bf16;  // the weights are
  return (rounded ? kBf16 : 0) + kAttentionF32;
}

class Mqa : public TableTest {
 protected:
  void ExpectParity(const MqaCase& c, uint32_t seed) {
    SCOPED_TRACE(::testing::Message()
                 << "rows " << c.rows << " keys " << c.keys << " dim " << c.dim << " bf16 "
                 << (c.storage == DType::kBF16) << " causal " << c.causal << " parts " << c.parts);
    const MqaTensors t = MakeTensors(c, seed);
    const std::vector<float> expected = RunMqa(Reference(), c, t);
    const std::vector<float> out = RunMqa(Of(kernels()), c, t);
    EXPECT_LE(MaxDifference(out, expected), Tolerance(kernels(), c) * std::max(1.0, MaxAbs(t.v)));
  }
};

TEST_P(Mqa, EveryShape) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (bool causal : {false, true}) {
      for (int32_t dim : {16, 64, 128, 256}) {
        for (int64_t rows : {0, 1, 5, 6, 7, 25, 64}) {
          for (int64_t keys : {0, 1, 63, 64, 65, 200}) {
            MqaCase c;
            c.rows = rows;
            c.keys = keys;
            c.dim = dim;
            c.storage = storage;
            c.causal = causal;
            ExpectParity(c, static_cast<uint32_t>(rows * 1000 + keys));
          }
        }
      }
    }
  }
}

TEST_P(Mqa, LongKeysAndManyRows) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (bool causal : {false, true}) {
      MqaCase c;
      c.storage = storage;
      c.causal = causal;
      c.rows = 9;
      c.keys = emulated() ? 1000 : 10000;
      c.parts = 3;
      ExpectParity(c, 1);
      c.rows = 200;
      c.keys = 500;
      ExpectParity(c, 2);
      c.score_scale = 8;  // sharp
      ExpectParity(c, 3);
    }
  }
}

TEST_P(Mqa, ExtremeScores) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    MqaCase c;
    c.rows = 7;
    c.keys = 300;
    c.dim = 16;
    c.storage = storage;
    MqaTensors t = MakeTensors(c, 4);
    // Powers of two, so that scores are exact whatever the order of their sums.
    for (float& x : t.q) x = x > 0 ? 64.0f : -64.0f;
    for (float& x : t.k) x = x > 0 ? 32.0f : -32.0f;  // scores in [-8192, 8192]
    const std::vector<float> expected = RunMqa(Reference(), c, t);
    const std::vector<float> out = RunMqa(Of(kernels()), c, t);
    EXPECT_LE(MaxDifference(out, expected), Tolerance(kernels(), c) * MaxAbs(t.v));
    std::fill(t.k.begin(), t.k.end(), -32.0f);  // all the same, far below zero for some rows
    std::fill(t.q.begin(), t.q.end(), 64.0f);
    EXPECT_LE(MaxDifference(RunMqa(Of(kernels()), c, t), RunMqa(Reference(), c, t)),
              Tolerance(kernels(), c) * MaxAbs(t.v));
  }
}

TEST_P(Mqa, PagesChangeNoBit) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (bool causal : {false, true}) {
      MqaCase c;
      c.rows = 30;
      c.keys = 777;
      c.storage = storage;
      c.causal = causal;
      const MqaTensors t = MakeTensors(c, 5);
      const std::vector<float> contiguous = RunMqa(Of(kernels()), c, t);
      for (int64_t page_blocks : {1, 2, 5}) {
        c.page_blocks = page_blocks;
        EXPECT_EQ(RunMqa(Of(kernels()), c, t), contiguous) << page_blocks;
      }
    }
  }
}

TEST_P(Mqa, PiecesStoredChangeNoBit) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    MqaCase c;
    c.keys = 150;
    c.dim = 80;
    c.storage = storage;
    const MqaTensors t = MakeTensors(c, 6);
    const KeyStore whole(Of(kernels()), c, t);
    for (int64_t rows : {1, 3, 17, 40}) {
      c.store_rows = rows;
      const KeyStore pieces(Of(kernels()), c, t);
      for (int64_t b = 0; b < 3; ++b) {
        EXPECT_EQ(std::memcmp(pieces.Block(b), whole.Block(b), MqaBlockBytes(c.dim, storage)), 0);
      }
    }
  }
}

TEST_P(Mqa, AnySplitMergesToTheSame) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    for (bool causal : {false, true}) {
      MqaCase c;
      c.rows = 13;
      c.keys = 2000;
      c.storage = storage;
      c.causal = causal;
      c.score_scale = 3;
      const MqaTensors t = MakeTensors(c, 7);
      const std::vector<float> one = RunMqa(Of(kernels()), c, t);
      for (int64_t parts : {2, 3, 7, 32, 40}) {  // 40: more than blocks, some parts are empty
        c.parts = parts;
        // Rounded weights depend on the maximum of the part they are in.
        const double tolerance =
            storage == DType::kBF16 && kernels().native_bf16 ? 2 * kBf16 : kMerge;
        EXPECT_LE(MaxDifference(RunMqa(Of(kernels()), c, t), one), tolerance * MaxAbs(t.v))
            << parts;
      }
    }
  }
}

// A cache that was cut back: what lies beyond the last key must not matter.
TEST_P(Mqa, KeysBeyondTheLastAreNotSeen) {
  for (DType storage : {DType::kF32, DType::kBF16}) {
    MqaCase c;
    c.rows = 8;
    c.keys = 256;
    c.storage = storage;
    const MqaTensors t = MakeTensors(c, 8);
    const KeyStore full(Of(kernels()), c, t);
    for (int64_t keys : {1, 64, 77, 100, 255}) {
      MqaCase cut = c;
      cut.keys = keys;
      MqaKeys shorter = full.keys();
      shorter.keys = keys;
      EXPECT_EQ(Attend(Of(kernels()), c, t, shorter), RunMqa(Of(kernels()), cut, t)) << keys;
    }
  }
}

// Row r sees keys 0 … r of a text: teacher forcing is what a cache sees step by step.
TEST_P(Mqa, RowsAreIndependent) {
  MqaCase c;
  c.rows = 40;
  c.keys = 100;
  c.causal = true;
  MqaTensors t = MakeTensors(c, 9);
  for (int64_t r = 0; r < c.rows; ++r) t.positions[r] = static_cast<int32_t>(2 * r);
  const KeyStore store(Of(kernels()), c, t);
  const std::vector<float> together = Attend(Of(kernels()), c, t, store.keys());
  for (int64_t r = 0; r < c.rows; ++r) {
    MqaCase one = c;
    one.rows = 1;
    MqaTensors row;
    row.q.assign(t.q.begin() + r * c.dim, t.q.begin() + (r + 1) * c.dim);
    row.slopes = {t.slopes[r]};
    row.positions = {t.positions[r]};
    MqaKeys keys = store.keys();
    keys.keys = t.positions[r] + 1;
    const std::vector<float> alone = Attend(Of(kernels()), one, row, keys);
    EXPECT_EQ(alone,
              std::vector<float>(together.begin() + r * c.dim, together.begin() + (r + 1) * c.dim))
        << r;
  }
}

TEST_P(Mqa, RowsWithoutAnyKeyGiveZero) {
  MqaCase c;
  c.rows = 3;
  c.keys = 70;
  c.causal = true;
  c.parts = 2;
  MqaTensors t = MakeTensors(c, 10);
  t.positions = {-1, 0, 69};
  const std::vector<float> out = RunMqa(Of(kernels()), c, t);
  for (int64_t d = 0; d < c.dim; ++d) {
    EXPECT_EQ(out[d], 0.0f);
    EXPECT_NEAR(out[c.dim + d], t.v[d], 1e-6);  // sees the first key alone
  }
}

TEST_P(Mqa, MergeRoundsToBf16) {
  MqaCase c;
  c.parts = 2;
  const MqaTensors t = MakeTensors(c, 11);
  const std::vector<float> exact = RunMqa(Of(kernels()), c, t);
  c.out_type = DType::kBF16;
  const std::vector<float> rounded = RunMqa(Of(kernels()), c, t);
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(rounded[i], RoundTo(DType::kBF16, exact[i]));
}

TEST_P(Mqa, NanStaysInItsRow) {
  MqaCase c;
  c.rows = 10;
  MqaTensors t = MakeTensors(c, 12);
  const std::vector<float> clean = RunMqa(Of(kernels()), c, t);
  t.q[3 * c.dim + 5] = NAN;
  const std::vector<float> out = RunMqa(Of(kernels()), c, t);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t d = 0; d < c.dim; ++d) {
      const int64_t i = r * c.dim + d;
      if (r == 3) {
        EXPECT_TRUE(std::isnan(out[i]));
      } else {
        EXPECT_EQ(out[i], clean[i]);
      }
    }
  }
}

// The reference itself, against the reference of whole attention problems.
TEST(MqaReference, AgreesWithAttention) {
  MqaCase c;
  c.keys = 90;
  c.dim = 16;
  c.causal = true;
  const int32_t heads = 3;
  c.rows = c.keys * heads;
  MqaTensors t = MakeTensors(c, 13);
  const std::vector<float> slopes{0.5f, 0.0f, 0.03f};
  for (int64_t r = 0; r < c.rows; ++r) {
    t.positions[r] = static_cast<int32_t>(r / heads);
    t.slopes[r] = slopes[r % heads];
  }
  AttentionCase whole;
  whole.lengths = {c.keys};
  whole.heads = heads;
  whole.kv_heads = 1;
  whole.dim = c.dim;
  whole.slopes = slopes;
  whole.mask.causal = true;
  const std::vector<float> expected = RunReference(whole, {t.q, t.k, t.v});
  for (int64_t parts : {1, 2}) {
    c.parts = parts;
    EXPECT_LE(MaxDifference(RunMqa(Reference(), c, t), expected), 1e-6);
  }
}

// log p of every row's target, in tiles of `width` columns.
template <class Function>
std::vector<float> LogProbabilities(const std::vector<float>& logits, int64_t rows,
                                    const std::vector<int32_t>& targets, float scale, int64_t width,
                                    const Function& function) {
  const int64_t columns = static_cast<int64_t>(logits.size()) / rows;
  std::vector<float> max(rows, -FLT_MAX), sum(rows, 0.0f), chosen(rows, 0.0f);
  for (int64_t begin = 0; begin < columns; begin += width) {
    const int64_t count = std::min(width, columns - begin);
    std::vector<float> tile(rows * count);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(logits.data() + r * columns + begin, count, tile.data() + r * count);
    }
    LogSoftmaxTileArgs args;
    args.rows = rows;
    args.column_begin = begin;
    args.columns = count;
    args.logits = tile.data();
    args.scale = scale;
    args.targets = targets.data();
    args.max = max.data();
    args.sum = sum.data();
    args.chosen = chosen.data();
    function(args);
  }
  std::vector<float> out(rows);
  for (int64_t r = 0; r < rows; ++r) {
    out[r] = static_cast<float>(static_cast<double>(chosen[r]) - max[r] - std::log(sum[r]));
  }
  return out;
}

double ExactLogProbability(const float* logits, int64_t columns, int32_t target, float scale) {
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t c = 0; c < columns; ++c) max = std::max(max, static_cast<double>(logits[c]) * scale);
  for (int64_t c = 0; c < columns; ++c) {
    sum += std::exp(static_cast<double>(logits[c]) * scale - max);
  }
  return static_cast<double>(logits[target]) * scale - max - std::log(sum);
}

TEST_P(Mqa, LogSoftmaxOfAnyTiles) {
  const int64_t columns = 5003;
  for (float spread : {1.0f, 10.0f, 1e4f}) {
    const std::vector<int32_t> targets{0, 5002, 1023, 1024, 77, 4096, 2500};
    const int64_t rows = static_cast<int64_t>(targets.size());
    const std::vector<float> logits = RandomFloats(rows * columns, 14, spread);
    for (float scale : {1.0f, 0.044f}) {
      for (int64_t width : {int64_t{1}, int64_t{7}, int64_t{1000}, int64_t{1024}, columns}) {
        if (width < 7 && emulated()) continue;
        const std::vector<float> result =
            LogProbabilities(logits, rows, targets, scale, width, kernels().LogSoftmaxTile);
        const std::vector<float> naive =
            LogProbabilities(logits, rows, targets, scale, width, reference::LogSoftmaxTile);
        for (int64_t r = 0; r < rows; ++r) {
          const double exact =
              ExactLogProbability(logits.data() + r * columns, columns, targets[r], scale);
          // Tiles of one column add to the running sum 5,003 times, each rounded to float.
          const double tolerance = (width == 1 ? 20 : 1) * kLogSoftmax *
                                   std::max(1.0, static_cast<double>(scale * spread));
          EXPECT_NEAR(result[r], exact, tolerance + 2e-7 * std::abs(exact)) << width;
          EXPECT_NEAR(naive[r], exact, tolerance + 2e-7 * std::abs(exact)) << width;
        }
      }
    }
  }
}

TEST_P(Mqa, LogSoftmaxOfAWholeVocabulary) {
  const int64_t columns = 250000;
  std::vector<float> logits(columns, 3.25f);  // equal terms: rounding errors all go one way
  const std::vector<float> result =
      LogProbabilities(logits, 1, {columns - 1}, 1.0f, columns, kernels().LogSoftmaxTile);
  EXPECT_NEAR(result[0], -std::log(static_cast<double>(columns)), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Tables, Mqa, ::testing::ValuesIn(AllTables()), TableName);

}  // namespace
}  // namespace longdoc::kernels::testing
