// Timing by device events, rates of the device, the table and the JSON.
#include "tests/bench/gpu/gpu_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace longdoc::kernels::cuda::bench {
namespace {

constexpr double kStretchSeconds = 2e-3;  // of the calls between two events
constexpr int64_t kMaxInner = 64;
constexpr double kCaseSeconds = 1.5;     // of all samples of a result
constexpr double kGraphSeconds = 20e-3;  // longer calls gain nothing from a graph

#if defined(LONGDOC_CUDA_EMULATION)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out + "\"";
}

double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

Bench::~Bench() {
  if (start_ != nullptr) cudaEventDestroy(start_);
  if (stop_ != nullptr) cudaEventDestroy(stop_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

cudaError_t Bench::Init() {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&device_, device);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaEventCreate(&start_);
  if (error == cudaSuccess) error = cudaEventCreate(&stop_);
  if (error == cudaSuccess) error = Gemm::Create(device, &gemm_);
  if (error != cudaSuccess) return error;
  gemm_workspace_ = std::make_unique<Memory>(kGemmWorkspaceBytes);
  error = MeasureRates();
  if (error != cudaSuccess) return error;
  std::printf("device   %s%s, %d.%d, %d multiprocessors, %.1f GB, L2 %.0f MB\n",
              kEmulated ? "emulated: times mean nothing; " : "", device_.name, device_.major,
              device_.minor, device_.multiProcessorCount,
              static_cast<double>(device_.totalGlobalMem) / 1e9, device_.l2CacheSize / 1e6);
  std::printf("measured %.0f GB/s of copies (read + written), %.1f TFLOP/s of bf16 products\n\n",
              copy_rate_ / 1e9, matrix_rate_ / 1e12);
  std::printf("%-44s %10s %10s %8s %7s %9s %7s %6s %8s\n", "section: case", "median us", "best us",
              "TFLOP/s", "of peak", "GB/s", "of copy", "tiles", "ratio");
  return cudaSuccess;
}

cudaError_t Bench::MeasureRates() {
  const int64_t bytes = tiny() ? 1 << 16 : int64_t{1} << 30;
  const int64_t size = tiny() ? 16 : 8192;
  Result copy, product;
  {
    const Memory from = RandomF32(bytes / 4, 1), to(bytes);
    const cudaError_t error = Sample(
        1,
        [&](int) {
          return cudaMemcpyAsync(to.as(), from.as(), static_cast<size_t>(bytes),
                                 cudaMemcpyDeviceToDevice, stream_);
        },
        &copy);
    if (error != cudaSuccess) return error;
  }
  const Memory a = RandomBf16(size * size, 1), w = RandomBf16(size * size, 2), c(size * size * 2);
  GemmArgs args;
  args.rows = args.n = args.k = args.a_stride = args.c_stride = size;
  args.a = a.as();
  args.w = w.as();
  args.out_type = DType::kBF16;
  args.c = c.as();
  args.workspace = gemm_workspace();
  args.workspace_bytes = kGemmWorkspaceBytes;
  const cudaError_t error = Sample(
      1, [&](int) { return gemm_->Run(args, stream_); }, &product);
  if (error != cudaSuccess) return error;
  // On the emulator a clock may not have moved.
  copy_rate_ = 2 * static_cast<double>(bytes) / std::max(copy.seconds, 1e-9);
  matrix_rate_ = 2 * std::pow(static_cast<double>(size), 3) / std::max(product.seconds, 1e-9);
  return cudaSuccess;
}

bool Bench::Wants(const char* section) const {
  const std::vector<std::string>& wanted = options_.sections;
  return wanted.empty() || std::find(wanted.begin(), wanted.end(), section) != wanted.end();
}

void Bench::Run() {
  const std::pair<const char*, void (*)(Bench&)> sections[] = {{"attention", AttentionSection},
                                                               {"decode", DecodeSection},
                                                               {"route", RouteSection},
                                                               {"rows", RowsSection},
                                                               {"gemm", GemmSection}};
  for (const auto& [name, run] : sections) {
    if (Wants(name)) run(*this);
  }
  PrintNew();
}

int Bench::Copies(int64_t bytes) const {
  if (tiny()) return 2;
  const int64_t enough = 3 * int64_t{device_.l2CacheSize} / std::max<int64_t>(bytes, 1) + 1;
  return static_cast<int>(std::min<int64_t>(enough, 16));
}

bool Bench::Fits(const Result& result, int64_t bytes) {
  size_t free = 0, total = 0;
  const cudaError_t error = cudaMemGetInfo(&free, &total);
  if (error == cudaSuccess && bytes <= static_cast<int64_t>(free / 20 * 19)) return true;
  PrintNew();
  results_.push_back(std::make_unique<Result>(result));
  results_.back()->skipped =
      Format("needs %.1f GB of memory, %.1f GB are free", static_cast<double>(bytes) / 1e9,
             static_cast<double>(free) / 1e9);
  return false;
}

cudaError_t Bench::Capture(int64_t inner, int copies, const Call& call, cudaGraphExec_t* graph) {
  cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return error;
  for (int64_t i = 0; i < inner && error == cudaSuccess; ++i) {
    error = call(static_cast<int>(i % copies));
  }
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &captured);
  if (error == cudaSuccess) error = ended;
  if (error == cudaSuccess) error = cudaGraphInstantiate(graph, captured);
  if (captured != nullptr) cudaGraphDestroy(captured);
  return error;
}

cudaError_t Bench::TimeStretch(int64_t inner, int copies, const Call& call, cudaGraphExec_t graph,
                               double* seconds) {
  cudaError_t error = cudaEventRecord(start_, stream_);
  if (error == cudaSuccess && graph != nullptr) {
    error = cudaGraphLaunch(graph, stream_);
  } else {
    for (int64_t i = 0; i < inner && error == cudaSuccess; ++i) {
      error = call(static_cast<int>(i % copies));
    }
  }
  if (error == cudaSuccess) error = cudaEventRecord(stop_, stream_);
  if (error == cudaSuccess) error = cudaEventSynchronize(stop_);
  float milliseconds = 0;
  if (error == cudaSuccess) error = cudaEventElapsedTime(&milliseconds, start_, stop_);
  *seconds = std::max(double{milliseconds} * 1e-3 / static_cast<double>(inner), 1e-9);
  return error;
}

cudaError_t Bench::Sample(int copies, const Call& call, Result* result) {
  double once = 0;
  // The first call loads code and chooses algorithms.
  cudaError_t error = TimeStretch(1, copies, call, nullptr, &once);
  if (error == cudaSuccess) error = TimeStretch(copies, copies, call, nullptr, &once);
  if (error != cudaSuccess) return error;
  int64_t inner = 1;
  while (inner < kMaxInner && static_cast<double>(inner) * once < kStretchSeconds) ++inner;
  inner = tiny() ? copies : (inner + copies - 1) / copies * copies;
  cudaGraphExec_t graph = nullptr;
  // Where work cannot be captured it is timed with its launches, and the result says so.
  if ((once < kGraphSeconds || tiny()) && Capture(inner, copies, call, &graph) != cudaSuccess) {
    graph = nullptr;
    static_cast<void>(cudaGetLastError());
  }
  const auto affordable = static_cast<int64_t>(kCaseSeconds / (once * static_cast<double>(inner)));
  const int64_t samples = std::clamp<int64_t>(affordable, 1, tiny() ? 1 : options_.repeat);
  std::vector<double> seconds(static_cast<size_t>(samples));
  if (graph != nullptr) error = TimeStretch(inner, copies, call, graph, &seconds[0]);
  for (double& sample : seconds) {
    if (error == cudaSuccess) error = TimeStretch(inner, copies, call, graph, &sample);
  }
  result->seconds = MedianOf(seconds);
  result->best = *std::min_element(seconds.begin(), seconds.end());
  result->samples = samples;
  result->graph = graph != nullptr;
  if (graph != nullptr) cudaGraphExecDestroy(graph);
  return error;
}

Result& Bench::Time(Result result, int copies, const Call& call) {
  PrintNew();
  results_.push_back(std::make_unique<Result>(std::move(result)));
  Result& added = *results_.back();
  const cudaError_t error = Sample(copies, call, &added);
  if (error != cudaSuccess) added.error = cudaGetErrorString(error);
  return added;
}

void Bench::CheckWritten(const Memory& output, bool bf16, Result* result) {
  if (!result->error.empty()) return;
  constexpr int64_t kPiece = int64_t{16} << 20;  // of the start and of the end
  const int64_t bytes = std::min(output.bytes(), kPiece) / 4 * 4;
  std::vector<uint32_t> words(static_cast<size_t>(bytes / 4));
  for (const int64_t from : {int64_t{0}, output.bytes() - bytes}) {
    const cudaError_t error = cudaMemcpy(words.data(), output.as<char>() + from,
                                         static_cast<size_t>(bytes), cudaMemcpyDeviceToHost);
    if (error != cudaSuccess) result->error = cudaGetErrorString(error);
    for (const uint32_t word : words) {
      const bool nan = bf16 ? (word & 0x7fff) > 0x7f80 || (word >> 16 & 0x7fff) > 0x7f80
                            : (word & 0x7fffffff) > 0x7f800000;
      if (!nan) continue;
      result->error = "the output has NaN in it";
      return;
    }
  }
}

const Result* Bench::Find(const std::string& section, const std::string& name) const {
  for (const auto& r : results_) {
    if (r->section == section && r->name == name && r->seconds > 0) return r.get();
  }
  return nullptr;
}

void Bench::PrintNew() {
  for (; printed_ < results_.size(); ++printed_) {
    const Result& r = *results_[printed_];
    std::printf("%-44s ", (r.section + ": " + r.name).c_str());
    if (!r.error.empty() || !r.skipped.empty()) {
      std::printf("%s%s\n", r.error.empty() ? "skipped: " : "FAILED: ",
                  r.error.empty() ? r.skipped.c_str() : r.error.c_str());
      continue;
    }
    std::printf("%10.1f %10.1f ", 1e6 * r.seconds, 1e6 * r.best);
    const auto rate = [&](double amount, double unit, double peak, int width) {
      const double achieved = amount / r.seconds;
      std::printf("%*.1f %6.1f%% ", width, achieved / unit, 100 * achieved / peak);
    };
    if (r.flops > 0) {
      rate(r.flops, 1e12, matrix_rate_, 8);
    } else {
      std::printf("%8s %7s ", "", "");
    }
    if (r.bytes > 0) {
      rate(r.bytes, 1e9, copy_rate_, 9);
    } else {
      std::printf("%9s %7s ", "", "");
    }
    std::printf("%6s ", r.tiles_kept < 0 ? "" : Format("%.2f%%", 100 * r.tiles_kept).c_str());
    const Result* base = r.against.empty() ? nullptr : Find(r.section, r.against);
    std::printf("%8s%s\n",
                base == nullptr ? "" : Format("%.2fx", base->seconds / r.seconds).c_str(),
                r.graph || kEmulated ? "" : "  (no graph)");
    std::fflush(stdout);
  }
}

bool Bench::Finish() {
  bool ok = !results_.empty();
  for (const auto& r : results_) ok = ok && r->error.empty();
  if (options_.json.empty()) return ok;
  std::FILE* file = std::fopen(options_.json.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "longdoc-gpu-bench: cannot write %s\n", options_.json.c_str());
    return false;
  }
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::fprintf(file,
               "{\"bench\": \"longdoc-gpu\",\n \"device\": {\"name\": %s, \"emulated\": %s, "
               "\"compute_capability\": \"%d.%d\", \"multiprocessors\": %d, \"l2_bytes\": %d, "
               "\"memory_bytes\": %lld, \"driver\": %d, \"runtime\": %d, "
               "\"copy_bytes_per_second\": %.6g, \"matrix_flops_per_second\": %.6g},\n"
               " \"results\": [",
               Quoted(device_.name).c_str(), kEmulated ? "true" : "false", device_.major,
               device_.minor, device_.multiProcessorCount, device_.l2CacheSize,
               static_cast<long long>(device_.totalGlobalMem), driver, runtime, copy_rate_,
               matrix_rate_);
  const char* separator = "\n";
  for (const auto& result : results_) {
    const Result& r = *result;
    std::fprintf(file, "%s  {\"implementation\": \"longdoc\", \"section\": %s, \"name\": %s",
                 separator, Quoted(r.section).c_str(), Quoted(r.name).c_str());
    separator = ",\n";
    if (!r.error.empty()) std::fprintf(file, ", \"error\": %s", Quoted(r.error).c_str());
    if (!r.skipped.empty()) std::fprintf(file, ", \"skipped\": %s", Quoted(r.skipped).c_str());
    if (r.error.empty() && r.skipped.empty()) {
      std::fprintf(
          file, ", \"seconds\": %.6g, \"best_seconds\": %.6g, \"samples\": %lld, \"graph\": %s",
          r.seconds, r.best, static_cast<long long>(r.samples), r.graph ? "true" : "false");
      if (r.flops > 0) {
        std::fprintf(file, ", \"flops\": %.6g, \"share_of_matrix_rate\": %.4g", r.flops,
                     r.flops / r.seconds / matrix_rate_);
      }
      if (r.bytes > 0) {
        std::fprintf(file, ", \"bytes\": %.6g, \"share_of_copy_rate\": %.4g", r.bytes,
                     r.bytes / r.seconds / copy_rate_);
      }
      if (r.tiles_kept >= 0) std::fprintf(file, ", \"tiles_kept\": %.6g", r.tiles_kept);
      if (r.max_bound >= 0 && std::isfinite(r.max_bound)) {
        std::fprintf(file, ", \"max_bound\": %.4g", r.max_bound);
      }
      if (!r.against.empty()) std::fprintf(file, ", \"against\": %s", Quoted(r.against).c_str());
    }
    std::fprintf(file, "}");
  }
  std::fprintf(file, "\n ]}\n");
  return std::fclose(file) == 0 && ok;
}

}  // namespace longdoc::kernels::cuda::bench
