// Tests of the CUDA kernels without GoogleTest: they also run on a GPU machine that has nothing but
// the CUDA toolkit. Built twice: cuda_emulated_test (C++ and the emulator; small shapes) and
// cuda_parity (nvcc; all shapes). Both take filters: a test runs if its name contains one of them.
//
//   PARITY_TEST(dense_embed) { ... EXPECT_OK(Embed(args, nullptr)); EXPECT_CLOSE(...); }
//
// A name starts with its group, see sources.cmake. A failed check is reported and the test goes on,
// after REQUIRE it ends.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace longdoc::kernels::cuda::parity {

using TestFunction = void (*)();
bool Register(const char* name, TestFunction function);

// Counts a failure of the running test and prints it; after 20 of one test they are only counted.
void Failed(const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// True on the emulator and with --small (for compute-sanitizer): shapes that take seconds there.
bool SmallShapes();

// The compute capabilities to test: 8 and 9 on the emulator, that of the device otherwise.
std::vector<int> Capabilities();
// Makes the emulator one of them; on a device nothing.
void UseCapability(int major);

bool CheckOk(cudaError_t error, const char* expression, const char* file, int line);

// Element i may differ by tolerance * scale; NaN only matches NaN. Reports the worst.
bool CheckClose(const float* actual, const float* expected, int64_t count, double tolerance,
                double scale, const char* file, int line);
inline bool CheckClose(const std::vector<float>& actual, const std::vector<float>& expected,
                       double tolerance, double scale, const char* file, int line) {
  if (actual.size() != expected.size()) {
    Failed(file, line, "%zu values instead of %zu", actual.size(), expected.size());
    return false;
  }
  return CheckClose(actual.data(), expected.data(), static_cast<int64_t>(actual.size()), tolerance,
                    scale, file, line);
}

// Device memory of `count` elements with a guard behind, which is checked when it goes. Starts as
// 0xff bytes, NaN. Ends the process where memory cannot be had: the shapes are the tests' own.
class DeviceBytes {
 public:
  explicit DeviceBytes(size_t bytes);
  ~DeviceBytes();
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* get() const { return data_; }
  void Upload(const void* from, size_t bytes);
  void Download(void* to, size_t bytes) const;  // after all that was enqueued

 private:
  const size_t bytes_;
  char* data_ = nullptr;
};

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t count)
      : count_(count), bytes_(static_cast<size_t>(count) * sizeof(T)) {}
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    bytes_.Upload(values.data(), values.size() * sizeof(T));
  }
  T* data() const { return static_cast<T*>(bytes_.get()); }
  int64_t size() const { return count_; }
  std::vector<T> Download() const {
    std::vector<T> values(static_cast<size_t>(count_));
    bytes_.Download(values.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  int64_t count_;
  DeviceBytes bytes_;
};

}  // namespace longdoc::kernels::cuda::parity

#define PARITY_TEST(name)                                      \
  static void name();                                          \
  [[maybe_unused]] static const bool name##_registered =       \
      ::longdoc::kernels::cuda::parity::Register(#name, name); \
  static void name()

#define EXPECT(condition)                                                                       \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      ::longdoc::kernels::cuda::parity::Failed(__FILE__, __LINE__, "not true: %s", #condition); \
    }                                                                                           \
  } while (false)
#define REQUIRE(condition)                                                                      \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      ::longdoc::kernels::cuda::parity::Failed(__FILE__, __LINE__, "not true: %s", #condition); \
      return;                                                                                   \
    }                                                                                           \
  } while (false)
#define EXPECT_OK(expression) \
  ::longdoc::kernels::cuda::parity::CheckOk((expression), #expression, __FILE__, __LINE__)
#define REQUIRE_OK(expression)          \
  do {                                  \
    if (!EXPECT_OK(expression)) return; \
  } while (false)
// tolerance and scale: an absolute difference of tolerance * scale.
#define EXPECT_CLOSE(actual, expected, tolerance, scale)                                   \
  ::longdoc::kernels::cuda::parity::CheckClose((actual), (expected), (tolerance), (scale), \
                                               __FILE__, __LINE__)
