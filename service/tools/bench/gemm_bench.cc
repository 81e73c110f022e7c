// longdoc-bench gemm: the engine's matrix products on the shapes of an encoder.
#include <array>
#include <atomic>
#include <cstring>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/gemm.h"
#include "kernels/cpu_kernels.h"
#include "service/tools/bench/bench.h"
#include "service/tools/command.h"

namespace longdoc::tools {
namespace {

// C[m,n] = A[m,k] · W[n,k]^T; m is per thread, as the engine's workers each take a token tile.
struct Shape {
  int64_t m = 0, n = 0, k = 0;
};

struct GemmArgs {
  std::string shapes = "256x1536x512,256x512x512,256x4096x512,256x512x2048,64x512x64";
  std::string dtype = "auto", json;
  int64_t threads = 0, repeat = 20;
};

absl::StatusOr<std::vector<Shape>> ParseShapes(const std::string& text) {
  std::vector<Shape> shapes;
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const std::vector<std::string> parts = absl::StrSplit(word, 'x');
    if (parts.size() != 3) {
      return absl::InvalidArgumentError(
          absl::StrCat("--shapes takes MxNxK,MxNxK,..., not \"", word, "\""));
    }
    Shape& s = shapes.emplace_back();
    RETURN_IF_ERROR(ParseInt(parts[0], "M of --shapes", 1, 1 << 20, &s.m));
    RETURN_IF_ERROR(ParseInt(parts[1], "N of --shapes", 1, 1 << 16, &s.n));
    RETURN_IF_ERROR(ParseInt(parts[2], "K of --shapes", 1, 1 << 16, &s.k));
  }
  return shapes;
}

std::vector<float> RandomFloats(int64_t count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = uniform(random);
  return values;
}

// Seconds of one product on every thread at once, the median of `repeat`.
absl::StatusOr<double> TimeShape(const Shape& shape, bool bf16, int threads, int64_t repeat) {
  const std::vector<float> weights = RandomFloats(shape.n * shape.k);
  const std::vector<float> input = RandomFloats(shape.m * shape.k);
  std::vector<uint16_t> input_bf16(input.size());
  kernels::GetCpuKernels(kernels::BestCpuIsa())
      ->F32ToBf16(input.data(), shape.m * shape.k, input_bf16.data());
  TensorView view;
  view.shape = {shape.n, shape.k};
  view.data = weights.data();
  ASSIGN_OR_RETURN(const std::unique_ptr<PackedMatrix> packed,
                   PackWithOneDnn({view}, {}, bf16 ? DType::kBF16 : DType::kF32, shape.m));
  const void* a = bf16 ? static_cast<const void*>(input_bf16.data()) : input.data();
  // A timing holds some ten milliseconds of work, so that starting threads does not show.
  const double flops = 2.0 * static_cast<double>(shape.m * shape.n * shape.k);
  const int64_t inner = std::max<int64_t>(1, static_cast<int64_t>(2e9 / flops));
  std::mutex mutex;
  absl::Status failure;
  const auto work = [&](int) {
    UseSingleThreadedGemm();
    std::vector<float> c(static_cast<size_t>(shape.m * shape.n));
    for (int64_t i = 0; i < inner; ++i) {
      const absl::Status status = packed->Gemm(shape.m, a, c.data());
      const std::lock_guard<std::mutex> lock(mutex);
      if (!status.ok()) failure = status;
    }
  };
  const std::vector<double> seconds = TimeRepeated(repeat, [&] { RunOnThreads(threads, work); });
  RETURN_IF_ERROR(failure);
  return Median(seconds) / static_cast<double>(inner);
}

absl::Status Bench(const GemmArgs& args, const std::vector<Shape>& shapes) {
  const MachineReport machine = DescribeMachine(static_cast<int>(args.threads));
  const bool native = machine.peak.bf16 > 0;
  if (args.dtype == "bf16" && !native) {
    return absl::FailedPreconditionError("this CPU has no bf16 dot product; use --dtype f32");
  }
  const bool bf16 = args.dtype == "bf16" || (args.dtype == "auto" && native);
  const char* type = bf16 ? "bf16" : "f32";
  std::cout << FormatMachine(machine)
            << absl::StrFormat("%8s %6s %6s %6s %12s %10s %8s\n", "m/thread", "n", "k", "type",
                               "seconds", "GFLOP/s", "of peak");
  Json results = Json::array();
  for (const Shape& s : shapes) {
    ASSIGN_OR_RETURN(const double seconds, TimeShape(s, bf16, machine.threads, args.repeat));
    const double rate = 2.0 * static_cast<double>(s.m * s.n * s.k) * machine.threads / seconds;
    const double share = rate / PeakOf(machine.peak, bf16);
    std::cout << absl::StrFormat("%8d %6d %6d %6s %12.6f %10.1f %7.1f%%\n", s.m, s.n, s.k, type,
                                 seconds, rate / 1e9, 100 * share);
    results.push_back({{"m", s.m},
                       {"n", s.n},
                       {"k", s.k},
                       {"dtype", type},
                       {"seconds", seconds},
                       {"flops", rate},
                       {"share_of_peak", share}});
  }
  return WriteJson(args.json,
                   {{"bench", "gemm"}, {"machine", MachineToJson(machine)}, {"results", results}});
}

}  // namespace

int RunGemmBench(const std::vector<std::string>& words) {
  GemmArgs args;
  OptionParser parser("longdoc-bench gemm", "[OPTIONS]",
                      "Matrix products with packed weights, one on every thread at once.",
                      "  longdoc-bench gemm --dtype f32 --shapes 256x1536x512");
  parser.AddString("shapes", "MxNxK,...", "rows per thread, outputs, inputs", &args.shapes);
  parser.AddChoice("dtype", {"auto", "f32", "bf16"}, "of the inputs", &args.dtype);
  parser.AddInt("threads", "N", "0: one per core", 0, 1024, &args.threads);
  parser.AddInt("repeat", "N", "timings; the median counts", 1, 10000, &args.repeat);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const absl::StatusOr<std::vector<Shape>> shapes = ParseShapes(args.shapes);
  if (!shapes.ok()) return UsageError(parser.command(), std::string(shapes.status().message()));
  const absl::Status status = Bench(args, *shapes);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools
