// Route on the device: indices equal the host's for every score, weights to rounding; and the same
// bits on every run.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/cuda/parity.h"
#include "tests/kernels/cuda/row_data.h"
#include "tests/kernels/tolerance.h"

namespace longdoc::kernels::cuda::parity {
namespace {

using kernels::testing::kSoftTopK;

struct Routed {
  std::vector<int32_t> indices;
  std::vector<float> weights;
};

Routed RunOnDevice(const std::vector<float>& scores, int64_t k, int64_t shift = 0) {
  const int64_t n = static_cast<int64_t>(scores.size());
  ShiftedArray<float> device_scores(scores, shift);
  // What lies behind the k results must stay.
  DeviceArray<int32_t> indices(std::vector<int32_t>(k + 5, -7));
  DeviceArray<float> weights(std::vector<float>(k + 5, -7.0f));
  DeviceArray<uint8_t> workspace(RouteWorkspaceBytes(n));
  RouteArgs args;
  args.n = n;
  args.k = k;
  args.scores = device_scores.data();
  args.indices = indices.data();
  args.weights = weights.data();
  args.scratch = workspace.data();
  EXPECT_OK(Route(args, nullptr));
  Routed routed = {indices.Download(), weights.Download()};
  EXPECT(std::all_of(routed.indices.begin() + k, routed.indices.end(),
                     [](int32_t i) { return i == -7; }));
  EXPECT(std::all_of(routed.weights.begin() + k, routed.weights.end(),
                     [](float w) { return w == -7.0f; }));
  routed.indices.resize(k);
  routed.weights.resize(k);
  return routed;
}

Routed RunReference(const std::vector<float>& scores, int64_t k) {
  Routed routed;
  routed.indices.resize(k);
  routed.weights.resize(k);
  RouteArgs args;
  args.n = static_cast<int64_t>(scores.size());
  args.k = k;
  args.scores = scores.data();
  args.indices = routed.indices.data();
  args.weights = routed.weights.data();
  reference::Route(args);
  return routed;
}

void ExpectRouted(const std::vector<float>& scores, int64_t k, int64_t shift = 0) {
  const Routed expected = RunReference(scores, k), routed = RunOnDevice(scores, k, shift);
  bool ok = routed.indices == expected.indices;
  double worst = 0;  // in units of what is allowed
  for (int64_t r = 0; r < k; ++r) {
    const double difference =
        std::abs(static_cast<double>(routed.weights[r]) - expected.weights[r]);
    worst = std::max(worst, difference / (kSoftTopK * expected.weights[r] + 1e-37));
    if (std::isnan(difference)) worst = std::numeric_limits<double>::infinity();
  }
  ok = worst <= 1.0 && ok;
  if (!ok) {
    Failed(__FILE__, __LINE__, "n %lld k %lld first score %g",
           static_cast<long long>(scores.size()), static_cast<long long>(k),
           scores.empty() ? 0.0 : scores[0]);
  }
}

// The same problem also among so many lower scores that several blocks share the work.
void ExpectRoutedShortAndLong(const std::vector<float>& scores, int64_t k) {
  ExpectRouted(scores, k);
  std::vector<float> padded(9500, -std::numeric_limits<float>::max());
  std::copy(scores.begin(), scores.end(), padded.begin() + 5000);
  ExpectRouted(padded, k);
  ExpectRouted(padded, k + 4000);
}

PARITY_TEST(routing_random_scores) {
  for (int64_t n : {1, 2, 3, 5, 64, 1000, 4096, 4099, 8192, 8193, 10241}) {
    for (float spread : {0.0f, 0.01f, 1.0f, 5.0f, 40.0f, 1e4f, 1e30f}) {
      if (SmallShapes() && n > 64 && spread != 1.0f && spread != 40.0f && n != 1000) continue;
      const std::vector<float> scores = RandomFloats(n, static_cast<uint32_t>(n), spread, -0.3f);
      for (int64_t k : {int64_t{0}, int64_t{1}, n / 16, n / 8, n / 2, n - 1, n}) {
        if (SmallShapes() && n <= 64 && k == n / 16) continue;
        ExpectRouted(scores, k, /*shift=*/k % 2);
      }
    }
  }
}

PARITY_TEST(routing_hundred_thousand_scores) {
  const std::vector<float> scores = RandomFloats(100000, 11, 2.0f);
  for (int64_t k : {1, 6250, 12500, 99999}) {
    if (SmallShapes() && k == 6250) continue;
    ExpectRouted(scores, k);
  }
  const Routed once = RunOnDevice(scores, 12500), again = RunOnDevice(scores, 12500);
  EXPECT(once.indices == again.indices);
  EXPECT(once.weights == again.weights);
  const std::vector<float> equal(100000, -2.5f);
  ExpectRouted(equal, 12500);
}

// More scores than one tile for every block, and 2^20 of them.
PARITY_TEST(routing_many_tiles_per_block) {
  if (!SmallShapes()) {
    const std::vector<float> scores = RandomFloats(int64_t{1} << 20, 15, 1.0f);
    ExpectRouted(scores, int64_t{1} << 16);
    ExpectRouted(scores, int64_t{1} << 17);
  }
  std::vector<float> coarse((int64_t{1} << 20) + 3001);
  uint32_t state = 1;
  for (float& x : coarse) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(state >> 24) * 0.01f;
  }
  ExpectRouted(coarse, 1000);
}

PARITY_TEST(routing_ties_go_to_the_lower_index) {
  std::vector<float> scores(50, 1.5f);
  for (int64_t k : {0, 1, 7, 49, 50}) ExpectRoutedShortAndLong(scores, k);
  scores[30] = 4.0f;
  scores[3] = -4.0f;
  EXPECT(RunOnDevice(scores, 4).indices == (std::vector<int32_t>{0, 1, 2, 30}));
  ExpectRoutedShortAndLong(scores, 4);
  ExpectRoutedShortAndLong(scores, 49);
  // Few distinct values, so that the pivot is always a tie, also across tiles and blocks.
  std::mt19937 generator(12);
  std::vector<float> coarse(3001);
  for (float& x : coarse) x = static_cast<float>(generator() % 7) - 3.0f;
  for (int64_t k : {1, 400, 1500, 3000}) ExpectRoutedShortAndLong(coarse, k);
  const std::vector<float> zeros{-0.0f, -1.0f, 0.0f, -0.0f, 0.0f, -2.0f};
  EXPECT(RunOnDevice(zeros, 3).indices == (std::vector<int32_t>{0, 2, 3}));
  ExpectRoutedShortAndLong(zeros, 3);
}

PARITY_TEST(routing_extreme_scores) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float huge = std::numeric_limits<float>::max();
  std::vector<float> denormal(100);
  for (size_t i = 0; i < denormal.size(); ++i) {
    denormal[i] = tiny * static_cast<float>((i * 37) % 100) * (i % 2 == 0 ? 1.0f : -1.0f);
  }
  for (int64_t k : {1, 10, 99}) ExpectRoutedShortAndLong(denormal, k);
  // Half far above the rest: with k beyond that half, all of it is clipped and the rest share.
  std::vector<float> halves(64);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = i % 2 == 0 ? 1e4f : -1e4f;
  for (int64_t k : {1, 31, 32, 33, 48, 63}) ExpectRoutedShortAndLong(halves, k);
  const std::vector<float> ends{huge, -huge, 0.0f, tiny, -tiny, huge, -huge, 1.0f};
  for (int64_t k = 0; k <= 8; ++k) ExpectRoutedShortAndLong(ends, k);
  // Every step of the solution clips one more.
  std::vector<float> stairs(40);
  for (size_t i = 0; i < stairs.size(); ++i) stairs[i] = -static_cast<float>(i) * 1.7f;
  for (int64_t k : {1, 5, 39}) ExpectRoutedShortAndLong(stairs, k);
}

PARITY_TEST(routing_nan_ranks_last) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores{nan, -1e30f, -nan, 2.0f, nan, 1.0f};
  const Routed five = RunOnDevice(scores, 5);
  EXPECT(five.indices == (std::vector<int32_t>{0, 1, 2, 3, 5}));
  EXPECT(five.weights == (std::vector<float>{0, 1, 0, 1, 1}));
  for (int64_t k = 0; k <= 6; ++k) ExpectRoutedShortAndLong(scores, k);
  const Routed none = RunOnDevice(std::vector<float>(5, nan), 2);
  EXPECT(none.indices == (std::vector<int32_t>{0, 1}));
  EXPECT(none.weights == (std::vector<float>{0, 0}));
  std::vector<float> some = RandomFloats(5000, 16);
  for (size_t i = 0; i < some.size(); i += 3) some[i] = i % 2 == 0 ? nan : -nan;
  for (int64_t k : {100, 3000, 3333, 3334, 4999}) ExpectRouted(some, k);
  some.insert(some.end(), 7000, nan);
  for (int64_t k : {100, 3333, 3334, 11999, 12000}) ExpectRouted(some, k);
}

PARITY_TEST(routing_refuses_what_it_cannot) {
  RouteArgs args;
  args.n = 5;
  args.k = 6;
  EXPECT(Route(args, nullptr) == cudaErrorInvalidValue);
  args.k = -1;
  EXPECT(Route(args, nullptr) == cudaErrorInvalidValue);
  args.n = int64_t{1} << 31;
  args.k = 1;
  EXPECT(Route(args, nullptr) == cudaErrorInvalidValue);
  args.n = args.k = 0;
  EXPECT_OK(Route(args, nullptr));
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity
