#include "service/tools/bench/bench.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "kernels/cpu_kernels.h"
#include "service/tools/embedded.h"
#include "service/tools/model_info.h"

namespace longdoc::tools {
namespace {

constexpr char kDebianReference[] = "/usr/share/debian-reference/debian-reference.en.txt.gz";
constexpr size_t kMaxTextBytes = 1 << 30;

// Value of the first line "key : value" of /proc/cpuinfo.
std::string CpuInfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.compare(0, key.size(), key) == 0 && colon != line.npos) return line.substr(colon + 2);
  }
  return "";
}

// Those of the CPU's features that matter to us.
std::string Features() {
  std::istringstream flags(CpuInfo("flags"));
  std::string out, flag;
  while (flags >> flag) {
    for (const char* wanted : {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl",
                               "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"}) {
      if (flag == wanted) absl::StrAppend(&out, out.empty() ? "" : " ", flag);
    }
  }
  return out;
}

absl::StatusOr<std::string> ReadMaybeGzip(const std::string& path) {
  const gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  std::string text;
  int count = 0;
  do {
    const size_t old = text.size();
    text.resize(old + (1 << 20));
    count = gzread(file, text.data() + old, 1 << 20);
    text.resize(old + static_cast<size_t>(std::max(count, 0)));
  } while (count > 0 && text.size() < kMaxTextBytes);
  gzclose(file);
  if (count < 0) return absl::DataLossError(absl::StrCat("cannot read ", path));
  return text;
}

}  // namespace

MachineReport DescribeMachine(int threads) {
  MachineReport machine;
  machine.cpu = CpuInfo("model name");
  machine.features = Features();
  machine.kernels = kernels::GetCpuKernels(kernels::BestCpuIsa())->name;
  machine.cores = static_cast<int>(std::thread::hardware_concurrency());
  machine.threads = threads > 0 ? threads : std::max(machine.cores, 1);
  machine.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  machine.peak = MeasurePeak(machine.threads);
  return machine;
}

std::string FormatMachine(const MachineReport& m) {
  std::string out = absl::StrFormat("cpu      %s, %d cores, %s memory\n", m.cpu, m.cores,
                                    HumanBytes(static_cast<double>(m.memory_bytes)));
  absl::StrAppendFormat(&out, "features %s; kernels %s\n", m.features, m.kernels);
  absl::StrAppendFormat(&out, "peak     %.1f GFLOP/s f32", m.peak.f32 / 1e9);
  if (m.peak.bf16 > 0) absl::StrAppendFormat(&out, ", %.1f GFLOP/s bf16", m.peak.bf16 / 1e9);
  absl::StrAppendFormat(&out, " on %d threads (measured now, in registers)\n\n", m.threads);
  return out;
}

Json MachineToJson(const MachineReport& m) {
  return {{"cpu", m.cpu},
          {"features", m.features},
          {"kernels", m.kernels},
          {"cores", m.cores},
          {"threads", m.threads},
          {"memory_bytes", m.memory_bytes},
          {"peak_f32_flops", m.peak.f32},
          {"peak_bf16_flops", m.peak.bf16}};
}

absl::Status WriteJson(const std::string& path, const Json& json) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path, std::ios::trunc);
  file << json.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  file.close();
  return file ? absl::OkStatus() : absl::PermissionDeniedError(absl::StrCat("cannot write ", path));
}

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) { return Percentile(std::move(values), 0.5); }

double Percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(p * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

void RunOnThreads(int threads, const std::function<void(int)>& work) {
  std::vector<std::thread> running;
  running.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) running.emplace_back(work, i);
  for (std::thread& thread : running) thread.join();
}

absl::StatusOr<std::vector<int32_t>> TextIds(const Tokenizer& tokenizer, const std::string& path,
                                             int64_t tokens) {
  std::string text(EmbeddedCalibrationText());
  if (!path.empty() || access(kDebianReference, R_OK) == 0) {
    ASSIGN_OR_RETURN(text, ReadMaybeGzip(path.empty() ? kDebianReference : path));
  }
  ASSIGN_OR_RETURN(const TokenSequence sequence,
                   tokenizer.Encode(text, /*add_special_tokens=*/false));
  if (sequence.ids.empty()) return absl::InvalidArgumentError("the text has no tokens");
  const int32_t cls = tokenizer.special().cls, sep = tokenizer.special().sep;
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(tokens));
  for (size_t i = 0; static_cast<int64_t>(ids.size()) < tokens; ++i) {
    ids.push_back(sequence.ids[i % sequence.ids.size()]);
  }
  if (cls >= 0) ids.front() = cls;
  if (sep >= 0 && tokens > 1) ids.back() = sep;
  return ids;
}

}  // namespace longdoc::tools
