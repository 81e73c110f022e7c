#include "tests/kernels/cuda/parity.h"

#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstring>

namespace longdoc::kernels::cuda::parity {
namespace {

struct Test {
  const char* name;
  TestFunction function;
};

// Registration runs before main, in any order.
std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

constexpr int kReported = 20;
constexpr int kSkipped = 77;  // SKIP_RETURN_CODE of ctest
constexpr size_t kGuardBytes = 256;
constexpr unsigned char kGuard = 0x5a;

int failures = 0;  // of the running test
bool small_shapes = false;

void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

}  // namespace

bool Register(const char* name, TestFunction function) {
  Tests().push_back({name, function});
  return true;
}

void Failed(const char* file, int line, const char* format, ...) {
  if (++failures > kReported) return;
  std::printf("%s:%d: ", file, line);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

bool SmallShapes() { return small_shapes; }

std::vector<int> Capabilities() {
#if defined(LONGDOC_CUDA_EMULATION)
  return {8, 9};
#else
  cudaDeviceProp properties;
  Must(cudaGetDeviceProperties(&properties, 0), "device properties");
  return {properties.major};
#endif
}

void UseCapability(int major) {
#if defined(LONGDOC_CUDA_EMULATION)
  emulation::SetEmulatedCapability(major);
#else
  static_cast<void>(major);
#endif
}

bool CheckOk(cudaError_t error, const char* expression, const char* file, int line) {
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return true;
  Failed(file, line, "%s: %s", expression, cudaGetErrorString(error));
  return false;
}

bool CheckClose(const float* actual, const float* expected, int64_t count, double tolerance,
                double scale, const char* file, int line) {
  const double bound = tolerance * scale;
  double worst = -1;
  int64_t at = -1, wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    if (actual[i] == expected[i]) continue;  // infinities as well
    const double difference = std::fabs(double{actual[i]} - expected[i]);
    if (difference <= bound) continue;
    ++wrong;
    if (at < 0 || difference > worst || (std::isnan(difference) && !std::isnan(worst))) {
      worst = difference;
      at = i;
    }
  }
  if (wrong == 0) return true;
  Failed(file, line,
         "%lld of %lld values differ by more than %g; the worst, element %lld, is %.9g and should "
         "be %.9g",
         static_cast<long long>(wrong), static_cast<long long>(count), bound,
         static_cast<long long>(at), double{actual[at]}, double{expected[at]});
  return false;
}

DeviceBytes::DeviceBytes(size_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  Must(cudaMalloc(&data, bytes + kGuardBytes), "device memory");
  data_ = static_cast<char*>(data);
  Must(cudaMemset(data_, 0xff, bytes), "device memory");
  Must(cudaMemset(data_ + bytes, kGuard, kGuardBytes), "device memory");
}

DeviceBytes::~DeviceBytes() {
  unsigned char guard[kGuardBytes];
  if (cudaMemcpy(guard, data_ + bytes_, kGuardBytes, cudaMemcpyDeviceToHost) == cudaSuccess) {
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (guard[i] == kGuard) continue;
      Failed(__FILE__, __LINE__, "written %zu bytes behind an array of %zu bytes", i, bytes_);
      break;
    }
  }
  cudaFree(data_);
}

void DeviceBytes::Upload(const void* from, size_t bytes) {
  Must(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "upload");
}

void DeviceBytes::Download(void* to, size_t bytes) const {
  Must(cudaDeviceSynchronize(), "kernel");
  Must(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost), "download");
}

namespace {

bool Wanted(const char* name, const std::vector<const char*>& filters) {
  for (const char* filter : filters) {
    if (std::strstr(name, filter) != nullptr) return true;
  }
  return filters.empty();
}

int Main(int argc, char** argv) {
  std::vector<const char*> filters;
#if defined(LONGDOC_CUDA_EMULATION)
  small_shapes = true;
#endif
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--small") == 0) {
      small_shapes = true;
    } else if (std::strcmp(argv[i], "--list") == 0) {
      for (const Test& test : Tests()) std::printf("%s\n", test.name);
      return 0;
    } else if (argv[i][0] == '-') {
      std::fprintf(stderr, "usage: %s [--small] [--list] [FILTER...]\n", argv[0]);
      return 2;
    } else {
      filters.push_back(argv[i]);
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device\n");
    return kSkipped;
  }
  int ran = 0, failed = 0;
  for (const Test& test : Tests()) {
    if (!Wanted(test.name, filters)) continue;
    failures = 0;
    const auto start = std::chrono::steady_clock::now();
    test.function();
    if (cudaDeviceSynchronize() != cudaSuccess) {
      Failed(__FILE__, __LINE__, "left an error: %s", cudaGetErrorString(cudaGetLastError()));
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%-6s %s (%.2f s)\n", failures == 0 ? "ok" : "FAILED", test.name, seconds.count());
    std::fflush(stdout);
    ++ran;
    if (failures != 0) ++failed;
  }
  std::printf("%d tests, %d failed\n", ran, failed);
  return ran == 0 || failed != 0 ? 1 : 0;  // a filter that matches nothing is a mistake
}

}  // namespace
}  // namespace longdoc::kernels::cuda::parity

int main(int argc, char** argv) { return longdoc::kernels::cuda::parity::Main(argc, argv); }
