#include "service/tools/bench/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "engine/memory_pool.h"
#include "kernels/cpu_kernels.h"

namespace longdoc::tools {
namespace {

using Loop = int64_t (*)(int64_t iterations, float* sink);
using Clock = std::chrono::steady_clock;

constexpr int64_t kIterations = 200'000;  // some tens of microseconds to a millisecond
constexpr auto kRound = std::chrono::milliseconds(80);
constexpr int kRounds = 5;  // the best counts: others may use the machine, too

// FLOP/s of one round: every thread repeats the loop until the time is over.
double Round(Loop loop, int num_threads) {
  std::atomic<int64_t> flops{0};
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(num_threads));
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < num_threads; ++i) {
    threads.emplace_back([&] {
      int64_t mine = 0;
      float sink = 0;
      while (Clock::now() - start < kRound) mine += loop(kIterations, &sink);
      // Adds nothing, but the compiler cannot know that.
      flops += mine + (sink == 12345.678f ? 1 : 0);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(flops) / std::chrono::duration<double>(Clock::now() - start).count();
}

double Best(Loop loop, int num_threads) {
  double best = 0;
  for (int i = 0; i < kRounds; ++i) best = std::max(best, Round(loop, num_threads));
  return best;
}

}  // namespace

int64_t FmaLoopPortable(int64_t iterations, float* sink) {
  constexpr int kLanes = 32;
  float acc[kLanes] = {};
  for (int64_t i = 0; i < iterations; ++i) {
    for (int j = 0; j < kLanes; ++j) acc[j] = acc[j] * 0.999f + 0.5f;
  }
  for (float a : acc) *sink += a;
  return iterations * kLanes * 2;
}

PeakRates MeasurePeak(int num_threads) {
  using kernels::CpuIsa;
  PeakRates rates;
  Loop f32 = FmaLoopPortable;
#if defined(__x86_64__)
  if (kernels::CpuSupports(CpuIsa::kAvx2)) f32 = FmaLoopAvx2;
  if (kernels::CpuSupports(CpuIsa::kAvx512)) f32 = FmaLoopAvx512;
  if (kernels::CpuSupports(CpuIsa::kAvx512Bf16)) rates.bf16 = Best(Bf16LoopAvx512, num_threads);
#endif
  rates.f32 = Best(f32, num_threads);
  return rates;
}

double MeasureReadBandwidth(int num_threads) {
  constexpr size_t kWords = size_t{32} << 20;  // 256 MiB in all
  MemoryPool memory(0);                        // on huge pages, as documents are
  const absl::StatusOr<Buffer> buffer = memory.Allocate(kWords * sizeof(uint64_t), /*zeroed=*/true);
  if (!buffer.ok()) return 0;
  std::fill_n(buffer->as<uint64_t>(), kWords, 1);
  const size_t share = kWords / static_cast<size_t>(num_threads);
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<uint64_t> total{0};
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(num_threads));
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < num_threads; ++i) {
      threads.emplace_back([&, i] {
        const uint64_t* words = buffer->as<uint64_t>() + static_cast<size_t>(i) * share;
        // Four streams at once: one alone waits for its own lines.
        const size_t quarter = share / 4;
        uint64_t sum = 0;
        for (size_t w = 0; w < quarter; ++w) {
          sum += words[w] + words[w + quarter] + words[w + 2 * quarter] + words[w + 3 * quarter];
        }
        total += sum;
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const size_t bytes = share * static_cast<size_t>(num_threads) * sizeof(uint64_t);
    if (total != 0) best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace longdoc::tools
