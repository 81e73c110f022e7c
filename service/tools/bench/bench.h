// What the sub-commands of longdoc-bench share.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "service/tools/bench/peak.h"
#include "service/tools/options.h"

namespace longdoc::tools {

using Json = nlohmann::ordered_json;

int RunGemmBench(const std::vector<std::string>& args);
int RunAttentionBench(const std::vector<std::string>& args);
int RunEncodeBench(const std::vector<std::string>& args);
int RunEncodeChild(const std::vector<std::string>& args);  // one length, in a process of its own
int RunRouteBench(const std::vector<std::string>& args);
int RunDecodeBench(const std::vector<std::string>& args);
int RunScoreBench(const std::vector<std::string>& args);
int RunServeBench(const std::vector<std::string>& args);

// The machine and the peak rates of this run: head of every table, and `machine` in the JSON.
struct MachineReport {
  std::string cpu, features, kernels;
  int cores = 0, threads = 0;
  int64_t memory_bytes = 0;
  PeakRates peak;
};
// `threads` 0: one per core. Measures the peak rates.
MachineReport DescribeMachine(int threads);
std::string FormatMachine(const MachineReport& machine);
Json MachineToJson(const MachineReport& machine);

// Peak rate that belongs to a storage type.
inline double PeakOf(const PeakRates& peak, bool bf16) { return bf16 ? peak.bf16 : peak.f32; }

// Writes `json` to `path`, indented; does nothing for "".
absl::Status WriteJson(const std::string& path, const Json& json);

// Calls `work` once to warm up (unless told not to) and then `repeat` times; seconds of each.
template <typename Work>
std::vector<double> TimeRepeated(int64_t repeat, Work work, bool warm_up = true);
double Median(std::vector<double> values);
// `p` in [0, 1], nearest rank; 0 without values.
double Percentile(std::vector<double> values, double p);
double NowSeconds();  // of a steady clock

// Runs work(thread) on `threads` threads at once and waits for all.
void RunOnThreads(int threads, const std::function<void(int)>& work);

// `tokens` ids of real text with the special tokens: the text is repeated or cut to length. `path`
// "": Debian Reference if it is installed, else the built-in prose; gzip files are read through.
absl::StatusOr<std::vector<int32_t>> TextIds(const Tokenizer& tokenizer, const std::string& path,
                                             int64_t tokens);

template <typename Work>
std::vector<double> TimeRepeated(int64_t repeat, Work work, bool warm_up) {
  if (warm_up) work();
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeat; ++i) {
    const double start = NowSeconds();
    work();
    seconds.push_back(NowSeconds() - start);
  }
  return seconds;
}

}  // namespace longdoc::tools
