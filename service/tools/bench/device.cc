#include "service/tools/bench/device.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"

namespace longdoc::tools {
namespace {

constexpr int64_t kCopyBytes = int64_t{256} << 20;
constexpr int64_t kBeyondCaches = int64_t{256} << 20;
constexpr double kTimingSeconds = 2e-3;
constexpr int64_t kMaxCalls = 1024;
constexpr int64_t kRepeat = 9;

// Of `calls` calls that begin with number `first`.
absl::StatusOr<double> TimeCalls(Backend& backend, int64_t first, int64_t calls,
                                 const std::function<void(int64_t)>& work) {
  const auto spent = std::make_shared<std::atomic<int64_t>>(0);
  const int64_t timer = backend.StartTimer();
  for (int64_t i = 0; i < calls; ++i) work(first + i);
  backend.StopTimer(timer, spent);
  RETURN_IF_ERROR(backend.Synchronize());
  return 1e-9 * static_cast<double>(*spent);
}

absl::StatusOr<double> MeasureCopy(Backend& backend) {
  ASSIGN_OR_RETURN(const Buffer from, backend.memory().Allocate(kCopyBytes, /*zeroed=*/true));
  ASSIGN_OR_RETURN(const Buffer to, backend.memory().Allocate(kCopyBytes, /*zeroed=*/false));
  ASSIGN_OR_RETURN(const double seconds, TimeOnDevice(backend, kRepeat, [&](int64_t) {
                     backend.memory().Copy(to.data(), from.data(), kCopyBytes);
                   }));
  return 2.0 * static_cast<double>(kCopyBytes) / seconds;
}

}  // namespace

absl::StatusOr<BenchDevice> BenchDevice::Open(const std::string& name) {
  CudaOptions options;
  int64_t number = 0;
  if (name.rfind("cuda:", 0) == 0) {
    RETURN_IF_ERROR(ParseInt(name.substr(5), "N of --device cuda:N", 0, 999, &number));
  } else if (name != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("--device takes ", kDeviceHelp, ", got \"", name, "\""));
  }
  options.device = static_cast<int>(number);
  BenchDevice device;
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCudaBackend(options);
  if (!backend.ok()) {
    return absl::Status(backend.status().code(),
                        absl::StrCat("device \"", name, "\": ", backend.status().message()));
  }
  device.backend = *std::move(backend);
  device->InitWorkerThread();
  ASSIGN_OR_RETURN(device.copy_bytes_per_second, MeasureCopy(*device.backend));
  return device;
}

absl::Status CheckDeviceKeeps(const std::string& dtype, int64_t head_dim) {
  constexpr int64_t kMaxHeadDim = 128;
  if (dtype != "f32" && head_dim <= kMaxHeadDim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "a CUDA device keeps keys and values in bf16 with head dims up to %d, got %s and %d",
      kMaxHeadDim, dtype, head_dim));
}

std::string FormatDevice(const BenchDevice& device) {
  const BackendInfo& info = device->info();
  return absl::StrFormat("device   %s %s\ncopy     %.1f GB/s read and written (measured now)\n\n",
                         info.name, info.isa, device.copy_bytes_per_second / 1e9);
}

Json DeviceToJson(const BenchDevice& device) {
  return {{"name", device->info().name},
          {"isa", device->info().isa},
          {"copy_bytes_per_second", device.copy_bytes_per_second}};
}

int64_t RotatedCopies(int64_t bytes) {
  return std::clamp<int64_t>(kBeyondCaches / std::max<int64_t>(bytes, 1) + 1, 2, 64);
}

absl::StatusOr<double> TimeOnDevice(Backend& backend, int64_t repeat,
                                    const std::function<void(int64_t)>& work) {
  int64_t calls = 1, next = 0;
  ASSIGN_OR_RETURN(double seconds, TimeCalls(backend, next++, 1, work));  // warms up
  while (calls < kMaxCalls) {
    ASSIGN_OR_RETURN(seconds, TimeCalls(backend, next, calls, work));
    next += calls;
    if (seconds >= kTimingSeconds) break;
    calls *= 2;
  }
  std::vector<double> each;
  for (int64_t i = 0; i < repeat; ++i) {
    ASSIGN_OR_RETURN(seconds, TimeCalls(backend, next, calls, work));
    next += calls;
    each.push_back(seconds / static_cast<double>(calls));
  }
  return Median(each);
}

absl::StatusOr<double> MeasureProducts(Backend& backend) {
  constexpr int64_t kLargest = 8192;
  constexpr double kProductSeconds = 5e-4;
  double best = 0;
  for (int64_t n = 128; n <= kLargest; n *= 2) {
    const std::vector<float> weights(static_cast<size_t>(n * n), 0.5f);
    ASSIGN_OR_RETURN(const std::unique_ptr<PackedMatrix> matrix,
                     backend.Pack({{DType::kF32, {n, n}, weights.data()}}, {}));
    ASSIGN_OR_RETURN(const Buffer a, ToDevice(backend, std::vector<uint16_t>(n * n, 0x3f00)));
    ASSIGN_OR_RETURN(const Buffer c, backend.memory().Allocate(4 * n * n, /*zeroed=*/false));
    absl::Status status;
    ASSIGN_OR_RETURN(const double seconds, TimeOnDevice(backend, kRepeat, [&](int64_t) {
                       status = matrix->Gemm(n, a.data(), c.as<float>());
                     }));
    RETURN_IF_ERROR(status);
    best = std::max(best, 2.0 * static_cast<double>(n * n * n) / seconds);
    if (seconds > kProductSeconds) break;
  }
  return best;
}

}  // namespace longdoc::tools
