// longdoc-bench decode: cross-attention of a decoder step to a long document, with one key/value
// head for all query heads and with one for each.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <iostream>
#include <memory>
#include <random>

#include "absl/strings/str_format.h"
#include "engine/memory_pool.h"
#include "kernels/cpu_kernels.h"
#include "service/tools/bench/bench.h"
#include "service/tools/bench/buffers.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"
#include "service/tools/command.h"

namespace longdoc::tools {
namespace {

using kernels::DType;

// Bytes that no cache holds: documents take turns until they have so many together.
constexpr int64_t kBeyondCaches = int64_t{256} << 20;
constexpr int64_t kMaxCopies = 16;

// Keys and values of `kv_heads` heads, as a document keeps them; several such documents.
class Document {
 public:
  Document(const kernels::CpuKernels& cpu, const DecodeArgs& args, DType storage, int64_t keys,
           int64_t kv_heads)
      : keys_(keys),
        kv_heads_(kv_heads),
        head_dim_(static_cast<int32_t>(args.head_dim)),
        storage_(storage) {
    const int64_t blocks = kernels::CeilDiv(keys, kernels::kKeyBlock);
    const int64_t block_bytes = kernels::MqaBlockBytes(head_dim_, storage);
    std::minstd_rand random(7);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> rows(static_cast<size_t>(kernels::kKeyBlock * head_dim_));
    for (float& v : rows) v = uniform(random);
    copies_ = std::clamp<int64_t>(kBeyondCaches / bytes(), 1, kMaxCopies);
    for (int64_t h = 0; h < copies_ * kv_heads; ++h) {
      heads_.push_back(*memory_.Allocate(blocks * block_bytes, /*zeroed=*/true));
      for (int64_t b = 0; b < blocks; ++b) {
        kernels::MqaStoreArgs store;
        store.rows = std::min(kernels::kKeyBlock, keys - b * kernels::kKeyBlock);
        store.head_dim = head_dim_;
        store.storage = storage;
        store.keys = store.values = rows.data();
        store.stride = head_dim_;
        store.block = heads_.back().as<char>() + b * block_bytes;
        cpu.MqaStore(store);
      }
    }
  }
  // Of the document that has turn number `turn`.
  kernels::MqaKeys Keys(int64_t turn, int64_t head) const {
    kernels::MqaKeys keys;
    keys.keys = keys_;
    keys.head_dim = head_dim_;
    keys.storage = storage_;
    keys.blocks = heads_[static_cast<size_t>(turn % copies_ * kv_heads_ + head)].data();
    return keys;
  }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t blocks() const { return kernels::CeilDiv(keys_, kernels::kKeyBlock); }
  int64_t bytes() const {  // of one
    return kv_heads() * blocks() * kernels::MqaBlockBytes(head_dim_, storage_);
  }

 private:
  const int64_t keys_, kv_heads_;
  const int32_t head_dim_;
  const DType storage_;
  MemoryPool memory_{0};  // on huge pages, as documents are
  int64_t copies_ = 1;
  std::vector<Buffer> heads_;  // [copies][kv_heads]
};

struct StepSeconds {
  double median, best;
};

// Seconds of attention of `rows` rows, divided over the key/value heads; every thread takes ranges
// of keys.
StepSeconds TimeStep(const kernels::CpuKernels& cpu, const DecodeArgs& args,
                     const Document& document, int64_t rows, int threads) {
  const auto dim = static_cast<size_t>(args.head_dim);
  const int64_t rows_per_head = rows / document.kv_heads();
  const auto per_head = static_cast<size_t>(rows_per_head);
  const int64_t parts = threads * 2;
  const auto slots = static_cast<size_t>(parts * document.kv_heads());
  std::vector<float> q(per_head * dim, 0.1f), out(slots * per_head * dim), max(slots * per_head),
      sum(slots * per_head), merged(per_head * dim);
  std::vector<std::unique_ptr<AlignedBuffer>> scratch;
  for (size_t i = 0; i < slots; ++i) {
    scratch.push_back(std::make_unique<AlignedBuffer>(
        cpu.MqaScratchBytes(rows_per_head, static_cast<int32_t>(args.head_dim))));
  }
  const auto attend = [&](int64_t turn, int64_t slot) {
    const auto at = static_cast<size_t>(slot) * per_head;
    const int64_t part = slot % parts;
    kernels::MqaPartialArgs p;
    p.keys = document.Keys(turn, slot / parts);
    p.block_begin = document.blocks() * part / parts;
    p.block_end = document.blocks() * (part + 1) / parts;
    p.scale = 1 / std::sqrt(static_cast<float>(args.head_dim));
    p.rows = rows_per_head;
    p.q = q.data();
    p.out = out.data() + at * dim;
    p.max = max.data() + at;
    p.sum = sum.data() + at;
    p.scratch = scratch[static_cast<size_t>(slot)]->data();
    cpu.MqaPartial(p);
  };
  const auto merge = [&](int64_t head) {
    const auto at = static_cast<size_t>(head * parts) * per_head;
    kernels::MqaMergeArgs m;
    m.parts = parts;
    m.rows = rows_per_head;
    m.head_dim = static_cast<int32_t>(args.head_dim);
    m.partial_out = out.data() + at * dim;
    m.partial_max = max.data() + at;
    m.partial_sum = sum.data() + at;
    m.out = merged.data();
    cpu.MqaMerge(m);
  };
  // The threads stay awake, as workers in the middle of a pass are: to wake one may take as long as
  // a step. Everyone waits for all at the beginning and at the end of each.
  std::vector<double> seconds;
  std::atomic<int64_t> next{0}, arrived{0};
  RunOnThreads(threads, [&](int thread) {
    int64_t expected = 0;
    const auto wait_here = [&] {
      expected += threads;
      ++arrived;
      while (arrived < expected) {
      }
    };
    for (int64_t i = 0; i <= args.repeat; ++i) {  // the first one warms up
      if (thread == 0) next = 0;
      // Thread 0 comes last, from its merge: taken later, the others might be done already.
      const double start = NowSeconds();
      wait_here();
      for (int64_t s = next++; s < static_cast<int64_t>(slots); s = next++) attend(i, s);
      wait_here();
      if (thread != 0) continue;
      for (int64_t head = 0; head < document.kv_heads(); ++head) merge(head);
      if (i > 0) seconds.push_back(NowSeconds() - start);
    }
  });
  return {Median(seconds), *std::min_element(seconds.begin(), seconds.end())};
}

absl::Status Bench(const DecodeArgs& args) {
  const MachineReport machine = DescribeMachine(static_cast<int>(args.threads));
  const double bandwidth = MeasureReadBandwidth(machine.threads);
  const kernels::CpuKernels& cpu = *kernels::GetCpuKernels(kernels::BestCpuIsa());
  const DType storage = args.dtype == "bf16" ? DType::kBF16 : DType::kF32;
  const double peak = PeakOf(machine.peak, storage == DType::kBF16 && machine.peak.bf16 > 0);
  std::cout << FormatMachine(machine)
            << absl::StrFormat("memory read %.1f GB/s; %d query heads of %d, keys in %s\n",
                               bandwidth / 1e9, args.heads, args.head_dim, args.dtype)
            << absl::StrFormat("%9s %8s %10s %8s %8s %8s %8s %12s %8s\n", "keys", "targets",
                               "1 kv ms", "GB/s", "of mem", "at best", "of peak", "all kv ms",
                               "ratio");
  Json results = Json::array();
  for (const int64_t keys : args.keys) {
    const Document one(cpu, args, storage, keys, 1), all(cpu, args, storage, keys, args.heads);
    for (const int64_t targets : args.targets) {
      const int64_t rows = args.heads * targets;
      const auto [seconds, best] = TimeStep(cpu, args, one, rows, machine.threads);
      const double all_seconds = TimeStep(cpu, args, all, rows, machine.threads).median;
      const double bytes = static_cast<double>(one.bytes()), rate = bytes / seconds;
      const double flops = 4.0 * static_cast<double>(rows * keys * args.head_dim) / seconds;
      std::cout << absl::StrFormat("%9d %8d %10.3f %8.1f %7.1f%% %7.1f%% %7.1f%% %12.3f %8.2f\n",
                                   keys, targets, 1e3 * seconds, rate / 1e9, 100 * rate / bandwidth,
                                   100 * bytes / best / bandwidth, 100 * flops / peak,
                                   1e3 * all_seconds, all_seconds / seconds);
      results.push_back({{"keys", keys},
                         {"targets", targets},
                         {"seconds", seconds},
                         {"bytes_per_second", rate},
                         {"share_of_bandwidth", rate / bandwidth},
                         {"best_seconds", best},
                         {"best_share_of_bandwidth", bytes / best / bandwidth},
                         {"share_of_peak", flops / peak},
                         {"multi_head_seconds", all_seconds},
                         {"multi_head_ratio", all_seconds / seconds}});
    }
  }
  return WriteJson(args.json, {{"bench", "decode"},
                               {"heads", args.heads},
                               {"head_dim", args.head_dim},
                               {"dtype", args.dtype},
                               {"read_bytes_per_second", bandwidth},
                               {"machine", MachineToJson(machine)},
                               {"results", results}});
}

}  // namespace

int RunDecodeBench(const std::vector<std::string>& words) {
  DecodeArgs args;
  OptionParser parser("longdoc-bench decode", "[OPTIONS]",
                      "Cross-attention of one decoder layer: all heads and targets share one key "
                      "and value\nhead (multi-query), beside the same with a head each.",
                      "  longdoc-bench decode --keys 100000 --targets 1,4,32");
  parser.AddInts("keys", "N,N,...", "document lengths", 1, int64_t{1} << 24, &args.keys);
  parser.AddInts("targets", "N,N,...", "target tokens at once", 1, 65536, &args.targets);
  parser.AddInt("heads", "N", "query heads", 1, 256, &args.heads);
  parser.AddInt("head-dim", "N", "their size, a multiple of 16", 16, 256, &args.head_dim);
  parser.AddChoice("dtype", {"f32", "bf16"}, "as keys and values are kept", &args.dtype);
  parser.AddString("device", "NAME", kDeviceHelp, &args.device);
  parser.AddInt("threads", "N", "of a CPU; 0: one per core", 0, 1024, &args.threads);
  parser.AddInt("repeat", "N", "timings; the median counts", 1, 10000, &args.repeat);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (args.head_dim % 16 != 0) {
    return UsageError(parser.command(), "--head-dim takes a multiple of 16");
  }
  const absl::Status status = IsCpu(args.device) ? Bench(args) : BenchDecodeOnDevice(args);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools
