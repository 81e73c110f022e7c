// CUDA devices in longdoc-bench: ops timed by the device's own events.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "service/tools/bench/bench.h"

namespace longdoc::tools {

// What --device says of the kernels' sections.
constexpr char kDeviceHelp[] = "cpu, cuda or cuda:N";
inline bool IsCpu(const std::string& device) { return device == "cpu"; }

// A device and what copies within its memory reach, as bytes read and written a second: the measure
// of ops that wait for memory. The calling thread is its worker.
struct BenchDevice {
  std::unique_ptr<Backend> backend;
  double copy_bytes_per_second = 0;

  // FAILED_PRECONDITION when it cannot be used, INVALID_ARGUMENT for another name.
  static absl::StatusOr<BenchDevice> Open(const std::string& name);
  Backend* operator->() const { return backend.get(); }
};
// INVALID_ARGUMENT for keys and values of a type ("auto" is fine) or head dim that no device keeps.
absl::Status CheckDeviceKeeps(const std::string& dtype, int64_t head_dim);
std::string FormatDevice(const BenchDevice& device);
Json DeviceToJson(const BenchDevice& device);

// Device memory with a copy of `values`.
template <typename T>
absl::StatusOr<Buffer> ToDevice(Backend& backend, const std::vector<T>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(T));
  absl::StatusOr<Buffer> buffer = backend.memory().Allocate(bytes, /*zeroed=*/false);
  if (buffer.ok()) backend.CopyToDevice(buffer->data(), values.data(), bytes);
  return buffer;
}

// How many copies of an input of `bytes` must take turns, so that none is still in a cache.
int64_t RotatedCopies(int64_t bytes);
// Median seconds of one work(i), i = 0, 1, 2, …, which only enqueues. A timing takes as many calls
// as last two milliseconds: launches are hidden behind each other, as they are in a pass.
absl::StatusOr<double> TimeOnDevice(Backend& backend, int64_t repeat,
                                    const std::function<void(int64_t)>& work);
// FLOP/s of square matrix products in bf16, of the largest size that takes less than a millisecond:
// the measure of ops that wait for arithmetic.
absl::StatusOr<double> MeasureProducts(Backend& backend);

}  // namespace longdoc::tools
