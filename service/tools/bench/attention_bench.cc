// longdoc-bench attention: the attention kernels alone, on random queries and keys of a given size.
#include <atomic>
#include <cmath>
#include <iostream>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/encoder_config.h"
#include "engine/planner.h"
#include "kernels/cpu_kernels.h"
#include "service/tools/attention_option.h"
#include "service/tools/bench/bench.h"
#include "service/tools/bench/buffers.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"
#include "service/tools/command.h"

namespace longdoc::tools {
namespace {

using kernels::AttentionProblem;
using kernels::AttentionStats;

constexpr int64_t kRowsPerUnit = 128;  // as the engine cuts it

struct Timing {
  double store = 0, bound = 0, attend = 0;  // seconds
  AttentionStats stats;
};

Timing RunOnce(const AttentionProblem& p, const std::vector<float>& qkv, int threads) {
  const kernels::CpuKernels& cpu = *kernels::GetCpuKernels(kernels::BestCpuIsa());
  const int64_t tokens = p.cu_seqlens[1];
  const int64_t dim = int64_t{p.num_heads} * p.head_dim, stride = 3 * dim;
  Timing t;
  double start = NowSeconds();
  ParallelFor(threads, tokens, 256, [&](int64_t begin, int64_t end) {
    const float* rows = qkv.data() + begin * stride;
    cpu.StoreQueries(p, begin, end - begin, rows, stride);
    cpu.StoreKeysValues(p, begin, end - begin, rows + dim, stride);
  });
  t.store = NowSeconds() - start;
  start = NowSeconds();
  ParallelFor(threads, p.num_kv_heads, 1,
              [&](int64_t head, int64_t) { cpu.Bound(p, 0, static_cast<int32_t>(head)); });
  t.bound = NowSeconds() - start;

  start = NowSeconds();
  const std::vector<kernels::AttentionUnit> units = cpu.PlanUnits(p, kRowsPerUnit);
  std::vector<AttentionStats> stats(static_cast<size_t>(threads));
  std::atomic<size_t> next{0};
  RunOnThreads(threads, [&](int thread) {
    AlignedBuffer scratch(cpu.AttendScratchBytes(p));
    AttentionStats mine;
    for (size_t i = next++; i < units.size(); i = next++) {
      cpu.Attend(p, units[i], scratch.data(), &mine);
    }
    stats[static_cast<size_t>(thread)] = mine;
  });
  t.attend = NowSeconds() - start;
  for (const AttentionStats& s : stats) {
    t.stats.tiles_computed += s.tiles_computed;
    t.stats.tiles_dense += s.tiles_dense;
    t.stats.max_bound = std::max(t.stats.max_bound, s.max_bound);
  }
  return t;
}

// The run with the median attention time.
absl::StatusOr<Timing> TimeLength(const AttentionArgs& args, const AttentionPolicy& policy,
                                  bool bf16, int threads, int64_t tokens) {
  const std::vector<float> slopes = AlibiSlopes(args.heads);
  const int64_t cu_seqlens[] = {0, tokens};
  BackendInfo backend;
  backend.storage_type = bf16 ? kernels::DType::kBF16 : kernels::DType::kF32;
  AttentionProblem p = MakeAttentionProblem(slopes, args.head_dim, backend, policy);
  p.num_sequences = 1;
  p.cu_seqlens = cu_seqlens;
  AlignedBuffer q(tokens * args.heads * args.head_dim *
                  static_cast<int64_t>(kernels::SizeOf(p.storage)));
  AlignedBuffer kv(kernels::AttentionKvBytes(p)), bounds(kernels::AttentionBoundsBytes(p));
  p.q = q.data();
  p.kv = kv.data();
  p.bounds = bounds.data();
  const char* problem = kernels::CheckAttentionProblem(p);
  if (*problem != '\0') return absl::InvalidArgumentError(problem);

  const std::vector<float> qkv = RandomQkv(tokens, args);
  std::vector<Timing> timings;
  std::vector<double> seconds;
  for (int64_t i = 0; i <= args.repeat; ++i) {
    timings.push_back(RunOnce(p, qkv, threads));
    if (i > 0) seconds.push_back(timings.back().attend);  // the first one warms up
  }
  const double median = Median(seconds);
  for (const Timing& t : timings) {
    if (t.attend == median) return t;
  }
  return timings.back();
}

absl::Status Bench(const AttentionArgs& args, const AttentionPolicy& policy) {
  const MachineReport machine = DescribeMachine(static_cast<int>(args.threads));
  const bool native = machine.peak.bf16 > 0;
  const bool bf16 = args.dtype == "bf16" || (args.dtype == "auto" && native);
  // Without a native product, bf16 is widened and multiplied as fp32.
  const double peak = PeakOf(machine.peak, bf16 && native);
  std::cout << FormatMachine(machine)
            << absl::StrFormat("%d heads of %d, %s, %s, logit bound %g\n", args.heads,
                               args.head_dim, bf16 ? "bf16" : "f32", FormatAttention(policy),
                               args.logit_bound)
            << absl::StrFormat("%9s %10s %10s %10s %8s %10s %8s\n", "tokens", "store s", "bound s",
                               "attend s", "tiles", "GFLOP/s", "of peak");
  Json results = Json::array();
  for (int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(const Timing t, TimeLength(args, policy, bf16, machine.threads, tokens));
    const double computed = static_cast<double>(t.stats.tiles_computed);
    const double fraction = computed / static_cast<double>(t.stats.tiles_dense);
    const double rate = 4.0 * kernels::kQueryBlock * kernels::kKeyBlock *
                        static_cast<double>(args.head_dim) * computed / t.attend;
    std::cout << absl::StrFormat("%9d %10.4f %10.4f %10.4f %7.1f%% %10.1f %7.1f%%\n", tokens,
                                 t.store, t.bound, t.attend, 100 * fraction, rate / 1e9,
                                 100 * rate / peak);
    results.push_back({{"tokens", tokens},
                       {"store_seconds", t.store},
                       {"bound_seconds", t.bound},
                       {"seconds", t.attend},
                       {"tile_fraction", fraction},
                       {"flops", rate},
                       {"share_of_peak", rate / peak}});
  }
  return WriteJson(args.json, {{"bench", "attention"},
                               {"attention", FormatAttention(policy)},
                               {"dtype", bf16 ? "bf16" : "f32"},
                               {"heads", args.heads},
                               {"head_dim", args.head_dim},
                               {"machine", MachineToJson(machine)},
                               {"results", results}});
}

}  // namespace

std::vector<float> RandomQkv(int64_t tokens, const AttentionArgs& args) {
  const int64_t dim = args.heads * args.head_dim;
  std::vector<float> qkv(static_cast<size_t>(tokens * 3 * dim));
  const float norm = std::sqrt(static_cast<float>(args.logit_bound) *
                               std::sqrt(static_cast<float>(args.head_dim)));
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1), spread(0.5f, 1);
  const size_t d = static_cast<size_t>(args.head_dim);
  for (size_t head = 0; head < qkv.size(); head += d) {
    float sum = 0;
    for (size_t i = head; i < head + d; ++i) {
      qkv[i] = uniform(random);
      sum += qkv[i] * qkv[i];
    }
    const bool is_value = head / static_cast<size_t>(dim) % 3 == 2;
    const float factor = is_value ? 1 : norm * spread(random) / std::sqrt(sum);
    for (size_t i = head; i < head + d; ++i) qkv[i] *= factor;
  }
  return qkv;
}

int RunAttentionBench(const std::vector<std::string>& words) {
  AttentionArgs args;
  OptionParser parser("longdoc-bench attention", "[OPTIONS]",
                      "One layer of attention over one document of random vectors.",
                      "  longdoc-bench attention --attention dense --tokens 8192\n"
                      "  longdoc-bench attention --tokens 100000 --logit-bound 20");
  parser.AddInts("tokens", "N,N,...", "document lengths", 1, int64_t{1} << 32, &args.tokens);
  parser.AddString("attention", "POLICY", kAttentionHelp, &args.attention);
  parser.AddChoice("dtype", {"auto", "f32", "bf16"}, "as queries, keys and values are kept",
                   &args.dtype);
  parser.AddInt("heads", "N", "heads", 1, 256, &args.heads);
  parser.AddInt("head-dim", "N", "their size, a multiple of 16", 16, 256, &args.head_dim);
  parser.AddDouble("logit-bound", "B", "largest |q||k|/sqrt(d)", 0.01, 1000, &args.logit_bound);
  parser.AddString("device", "NAME", kDeviceHelp, &args.device);
  parser.AddInt("threads", "N", "of a CPU; 0: one per core", 0, 1024, &args.threads);
  parser.AddInt("repeat", "N", "timings; the median counts", 1, 10000, &args.repeat);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const absl::StatusOr<AttentionPolicy> policy = ParseAttention(args.attention);
  if (!policy.ok()) return UsageError(parser.command(), std::string(policy.status().message()));
  const absl::Status status =
      IsCpu(args.device) ? Bench(args, *policy) : BenchAttentionOnDevice(args, *policy);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools
