// Sampling and the running log-softmax on the device.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/cuda/sample_oracle.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {
namespace {

struct Sampled {
  std::vector<int32_t> tokens;
  std::vector<float> log_probs;
};

Sampled RunSample(const std::vector<float>& logits, int64_t rows, const SampleOptions& o,
                  const std::vector<double>& uniform) {
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<double> device_uniform(uniform);
  DeviceArray<int32_t> tokens(std::vector<int32_t>(rows, -7));
  DeviceArray<float> log_probs(std::vector<float>(rows, 7.0f));
  SampleArgs args;
  args.rows = rows;
  args.vocabulary = static_cast<int64_t>(logits.size()) / rows;
  args.logits = device_logits.data();
  args.scale = o.scale;
  args.temperature = o.temperature;
  args.top_k = o.top_k;
  args.top_p = o.top_p;
  args.uniform = device_uniform.data();
  args.tokens = tokens.data();
  args.log_probs = log_probs.data();
  const DeviceArray<uint8_t> workspace(SampleWorkspaceBytes(rows, args.vocabulary));
  args.workspace = workspace.data();
  EXPECT_OK(Sample(args, nullptr));
  return {tokens.Download(), log_probs.Download()};
}

// What the device chooses is what the oracle chooses, but where the uniform number is so near a
// border that rounding decides.
void ExpectTokens(const std::vector<float>& logits, int64_t rows, const SampleOptions& o,
                  uint32_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<double> uniform(rows);
  for (double& u : uniform) u = std::uniform_real_distribution<double>(0, 1)(generator);
  const Sampled sampled = RunSample(logits, rows, o, uniform);
  const int64_t size = static_cast<int64_t>(logits.size()) / rows;
  for (int64_t r = 0; r < rows; ++r) {
    const OracleToken expected = OracleSample(logits.data() + r * size, size, o, uniform[r]);
    if (expected.margin < 1e-11) continue;
    if (sampled.tokens[r] != expected.id) {
      Failed(__FILE__, __LINE__,
             "token %d instead of %d: vocabulary %lld temperature %g top_k %d top_p %g row %lld "
             "margin %g",
             sampled.tokens[r], expected.id, static_cast<long long>(size), o.temperature, o.top_k,
             o.top_p, static_cast<long long>(r), expected.margin);
    }
    EXPECT(std::fabs(sampled.log_probs[r] - expected.log_prob) <=
           kernels::testing::kLogSoftmax * std::max(1.0f, std::fabs(expected.log_prob)));
  }
}

std::vector<SampleOptions> EveryOption(int64_t size) {
  std::vector<SampleOptions> options;
  for (float temperature : {0.0f, 0.3f, 1.0f, 20.0f}) {
    for (int64_t top_k : {int64_t{0}, int64_t{1}, int64_t{40}, size / 2, size + 5}) {
      for (float top_p : {0.0f, 0.5f, 0.9f, 1.0f}) {
        if (temperature == 0 && (top_k != 0 || top_p != 1)) continue;
        options.push_back({1.0f, temperature, static_cast<int32_t>(top_k), top_p});
      }
    }
  }
  return options;
}

PARITY_TEST(sample_every_option) {
  for (int64_t size : {1, 2, 33, 3001}) {
    const int64_t rows = SmallShapes() ? 2 : 64;
    const std::vector<float> logits = RandomFloats(rows * size, 3, 4.0f);
    uint32_t seed = 0;
    for (const SampleOptions& o : EveryOption(size)) ExpectTokens(logits, rows, o, ++seed);
  }
}

PARITY_TEST(sample_vocabularies) {
  for (int64_t size : {30522, 131072}) {
    const int64_t rows = SmallShapes() ? 1 : 200;
    const std::vector<float> logits = RandomFloats(rows * size, 4, 2.5f);
    uint32_t seed = 100;
    for (const SampleOptions& o :
         {SampleOptions{0.7f, 0.0f, 0, 1.0f}, SampleOptions{0.7f, 1.0f, 0, 1.0f},
          SampleOptions{1.3f, 0.8f, 50, 0.9f}, SampleOptions{1.3f, 1.5f, 20000, 0.99f}}) {
      ExpectTokens(logits, rows, o, ++seed);
    }
  }
}

// Few different values, both zeros, all of them equal: ids decide.
PARITY_TEST(sample_ties) {
  for (int64_t size : {64, 10007}) {
    const int64_t rows = SmallShapes() ? 2 : 32;
    uint32_t seed = 0;
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<float> logits = RandomFloats(rows * size, 5, 1.0f);
      for (float& x : logits) {
        x = kind == 0 ? std::round(x * 2) / 2 : kind == 1 ? (x > 0 ? 0.0f : -0.0f) : 1.5f;
      }
      for (const SampleOptions& o : EveryOption(size)) {
        if (SmallShapes() && o.temperature != 1 && o.temperature != 0) continue;
        ExpectTokens(logits, rows, o, ++seed);
      }
    }
  }
}

// One outlier takes the whole range of the first buckets; infinities; values that differ in their
// last bits alone.
PARITY_TEST(sample_skewed_logits) {
  const int64_t size = 9000;
  for (int kind = 0; kind < 4; ++kind) {
    std::vector<float> logits = RandomFloats(size, 6, 1.0f);
    for (int64_t v = 0; v < size; ++v) {
      if (kind == 0) logits[v] = v == 17 ? -1e30f : logits[v];
      if (kind == 1 && v % 3 != 0) logits[v] = -std::numeric_limits<float>::infinity();
      if (kind == 2) logits[v] = 1.0f + 0x1p-23f * static_cast<float>(v * 7 % 5);
      if (kind == 3) logits[v] = v == 4321 ? FLT_MAX / 4 : -FLT_MAX / 4;
    }
    uint32_t seed = 40;
    for (int32_t top_k : {0, 1, 2, 3000, 8999}) {
      for (float top_p : {0.01f, 0.8f, 1.0f}) ExpectTokens(logits, 1, {1, 1, top_k, top_p}, ++seed);
    }
  }
}

// Whole-number weights, at the very borders between tokens: the next token begins at its border.
PARITY_TEST(sample_borders) {
  const std::vector<float> logits(4 * 8, 2.0f);
  const Sampled quarters =
      RunSample(logits, 8, {1, 1, 0, 1}, {0, 0.25, 0.5, 0.75, 0.2499999, 0.7499999, 0.9999999, 0});
  const std::vector<int32_t> expected{0, 1, 2, 3, 0, 2, 3, 0};
  EXPECT(quarters.tokens == expected);
  // Half of the weight is reached by two of four.
  const Sampled halves = RunSample(logits, 8, {1, 1, 0, 0.5f},
                                   {0, 0.49, 0.5, 0.99, 0.25, 0.75, std::nextafter(1.0, 0.0), 0});
  EXPECT(halves.tokens == (std::vector<int32_t>{0, 0, 1, 1, 0, 1, 1, 0}));
  // The largest number below 1 times an odd count is rounded to that count: the first of the
  // likeliest, as in the sampler.
  const double last = std::nextafter(1.0, 0.0);
  for (int64_t size : {3, 5, 1000, 1001}) {
    const std::vector<float> equal(size, 1.0f);
    const Sampled sampled = RunSample(equal, 1, {1, 1, 0, 1}, {last});
    EXPECT(sampled.tokens[0] == OracleSample(equal.data(), size, {1, 1, 0, 1}, last).id);
  }
}

PARITY_TEST(sample_not_finite) {
  const int64_t size = 100;
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> logits = RandomFloats(2 * size, 7, 1.0f);
    const bool all = bad < 0;
    for (int64_t v = 0; v < size; ++v) {
      if (all || v == 31) logits[v] = bad;
    }
    for (float temperature : {0.0f, 1.0f}) {
      const Sampled sampled = RunSample(logits, 2, {1, temperature, 5, 0.9f}, {0.5, 0.5});
      EXPECT(sampled.tokens[0] == -1);
      EXPECT(std::isnan(sampled.log_probs[0]));
      EXPECT(sampled.tokens[1] >= 0 && sampled.tokens[1] < size);  // its neighbour is well
    }
  }
}

// Frequencies against probabilities, in standard deviations of the counts.
PARITY_TEST(sample_distribution) {
  const int64_t size = 12, rows = SmallShapes() ? 400 : 20000;
  const std::vector<float> one = RandomFloats(size, 8, 1.0f);
  std::vector<float> logits;
  std::vector<double> uniform(rows);
  for (int64_t r = 0; r < rows; ++r) {
    logits.insert(logits.end(), one.begin(), one.end());
    uniform[r] = (static_cast<double>(r) + 0.5) / static_cast<double>(rows);  // evenly
  }
  const Sampled sampled = RunSample(logits, rows, {1, 0.7f, 8, 1}, uniform);
  std::vector<double> weights(size), counts(size);
  std::vector<float> sorted = one;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0;
  for (int64_t v = 0; v < size; ++v) {
    weights[v] = one[v] >= sorted[7] ? std::exp(one[v] / 0.7) : 0;
    total += weights[v];
  }
  for (int32_t token : sampled.tokens) counts[token] += 1;
  // Even numbers leave no chance: at most the two borders of a token's interval are off.
  for (int64_t v = 0; v < size; ++v) {
    EXPECT(std::fabs(counts[v] - rows * weights[v] / total) <= (weights[v] > 0 ? 1.001 : 0.0));
  }
}

PARITY_TEST(sample_refuses_bad_arguments) {
  const auto refused = [](void (*change)(SampleArgs&)) {
    SampleArgs args;
    args.rows = 1;
    args.vocabulary = 10;
    change(args);
    return Sample(args, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT(refused([](SampleArgs& a) { a.vocabulary = 0; }));
  EXPECT(refused([](SampleArgs& a) { a.vocabulary = int64_t{1} << 31; }));
  EXPECT(refused([](SampleArgs& a) { a.scale = -1; }));
  EXPECT(refused([](SampleArgs& a) { a.temperature = NAN; }));
  EXPECT(refused([](SampleArgs& a) { a.top_k = -1; }));
  EXPECT(refused([](SampleArgs& a) { a.top_p = NAN; }));
}

// ---- log-softmax ---------------------------------------------------------------------------

// log p of every row's target, in tiles of `width` columns.
std::vector<float> LogProbabilities(const std::vector<float>& logits, int64_t rows,
                                    const std::vector<int32_t>& targets, float scale,
                                    int64_t width) {
  const int64_t columns = static_cast<int64_t>(logits.size()) / rows;
  DeviceArray<float> max(std::vector<float>(rows, -FLT_MAX)), sum(std::vector<float>(rows, 0.0f)),
      chosen(std::vector<float>(rows, 0.0f));
  const DeviceArray<int32_t> device_targets(targets);
  for (int64_t begin = 0; begin < columns; begin += width) {
    const int64_t count = std::min(width, columns - begin);
    std::vector<float> tile(rows * count);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(logits.data() + r * columns + begin, count, tile.data() + r * count);
    }
    const DeviceArray<float> device_tile(tile);
    LogSoftmaxTileArgs args;
    args.rows = rows;
    args.column_begin = begin;
    args.columns = count;
    args.logits = device_tile.data();
    args.scale = scale;
    args.targets = device_targets.data();
    args.max = max.data();
    args.sum = sum.data();
    args.chosen = chosen.data();
    EXPECT_OK(LogSoftmaxTile(args, nullptr));
  }
  const std::vector<float> m = max.Download(), s = sum.Download(), c = chosen.Download();
  std::vector<float> out(rows);
  for (int64_t r = 0; r < rows; ++r) {
    out[r] = static_cast<float>(static_cast<double>(c[r]) - m[r] - std::log(s[r]));
  }
  return out;
}

double ExactLogProbability(const float* logits, int64_t columns, int32_t target, float scale) {
  double max = -INFINITY, sum = 0;
  for (int64_t c = 0; c < columns; ++c) max = std::max(max, static_cast<double>(logits[c]) * scale);
  for (int64_t c = 0; c < columns; ++c) {
    sum += std::exp(static_cast<double>(logits[c]) * scale - max);
  }
  return static_cast<double>(logits[target]) * scale - max - std::log(sum);
}

PARITY_TEST(sample_log_softmax_of_any_tiles) {
  const int64_t columns = 5004;
  const std::vector<int32_t> targets{0, 5003, 1023, 1024, 77, 4096, 2500};
  const int64_t rows = static_cast<int64_t>(targets.size());
  for (float spread : {1.0f, 10.0f, 1e4f}) {
    const std::vector<float> logits = RandomFloats(rows * columns, 14, spread);
    for (float scale : {1.0f, 0.044f}) {
      for (int64_t width : {int64_t{500}, int64_t{1001}, columns}) {
        const std::vector<float> out = LogProbabilities(logits, rows, targets, scale, width);
        for (int64_t r = 0; r < rows; ++r) {
          const float* row = logits.data() + r * columns;
          const double expected = ExactLogProbability(row, columns, targets[r], scale);
          // The logit and the maximum are rounded: relative to the larger.
          const double size = std::max(1.0, static_cast<double>(scale) * spread * 8);
          EXPECT(std::fabs(out[r] - expected) <= kernels::testing::kLogSoftmax * size);
        }
      }
    }
  }
}

PARITY_TEST(sample_log_softmax_of_many_rows) {
  const int64_t rows = SmallShapes() ? 600 : 3000, columns = 64;
  const std::vector<float> logits = RandomFloats(rows * columns, 15, 3.0f);
  std::vector<int32_t> targets(rows);
  for (int64_t r = 0; r < rows; ++r) targets[r] = static_cast<int32_t>(r % columns);
  const std::vector<float> out = LogProbabilities(logits, rows, targets, 1.0f, columns);
  for (int64_t r = 0; r < rows; ++r) {
    const double expected =
        ExactLogProbability(logits.data() + r * columns, columns, targets[r], 1);
    EXPECT(std::fabs(out[r] - expected) <= kernels::testing::kLogSoftmax * 8);
  }
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
