// longdoc-gpu-bench: the CUDA kernels alone, timed by the device, on a machine that has nothing but
// the CUDA toolkit. One run also measures what the device can do at best (a large copy, a large
// matrix product), and every result is stated as a share of that.
//
// A result is a line of the table and of the JSON: section and name say what was run, tests/gpu/
// torch_compare.py writes the same form for the same names.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/gemm.h"

namespace longdoc::kernels::cuda::bench {

struct Options {
  std::vector<std::string> sections;  // empty: all
  int64_t repeat = 15;                // samples; the median counts
  bool tiny = false;                  // shapes that the emulator takes a moment for
  std::string json;                   // file, or none
};

// Device memory; ends the process with a clear line where there is none left.
class Memory {
 public:
  explicit Memory(int64_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <typename T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }
  void Upload(const void* host, int64_t bytes);

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Uploads a vector.
template <typename T>
Memory OnDevice(const std::vector<T>& values) {
  Memory memory(static_cast<int64_t>(values.size() * sizeof(T)));
  memory.Upload(values.data(), memory.bytes());
  return memory;
}

// Starts as NaN, of any type.
Memory Output(int64_t bytes);

// Random numbers, uniform in [-1, 1): a pattern of at most 2^22 of them, repeated. Without zeros or
// constant data, on which products run faster than on real data.
Memory RandomF32(int64_t count, uint32_t seed);
Memory RandomBf16(int64_t count, uint32_t seed);
// Rows of bf16 whose norms lie between `norm` / 2 and `norm`.
Memory RandomBf16Rows(int64_t rows, int64_t dim, float norm, uint32_t seed);

struct Result {
  std::string section, name;
  std::string against;           // name of an earlier result of the section, for a ratio; or none
  double seconds = 0, best = 0;  // of one call: median and minimum of the samples
  int64_t samples = 0;
  bool graph = false;      // replayed as a CUDA graph
  double flops = 0;        // that the call has to do
  double bytes = 0;        // of device memory that it has to read and write
  double tiles_kept = -1;  // attention: computed tiles / all tiles
  double max_bound = -1;   // attention: largest logit bound
  std::string skipped;     // why it was not run
  std::string error;       // what failed
};

class Bench {
 public:
  // Enqueues one call on stream() with the `copy`-th copy of its data; returns the launch's error.
  using Call = std::function<cudaError_t(int copy)>;

  explicit Bench(Options options) : options_(std::move(options)) {}
  ~Bench();

  // Takes the current device and measures its rates.
  cudaError_t Init();
  void Run();     // every wanted section
  bool Finish();  // writes the JSON; false when something failed

  bool tiny() const { return options_.tiny; }
  cudaStream_t stream() const { return stream_; }
  Gemm& gemm() { return *gemm_; }
  void* gemm_workspace() const { return gemm_workspace_->as(); }
  // How many copies of data of `bytes` calls must go round so that none finds it in the cache; at
  // most 16.
  int Copies(int64_t bytes) const;
  // Whether `bytes` can be had; a result that is skipped if not.
  bool Fits(const Result& result, int64_t bytes);

  // Times `call` with all its copies in turn, and adds `result` with its times. What is added to
  // the reference is in the table, which prints a result when the next one comes.
  Result& Time(Result result, int copies, const Call& call);
  // An output that still holds NaN, as it did at first, is a failure.
  void CheckWritten(const Memory& output, bool bf16, Result* result);

 private:
  bool Wants(const char* section) const;
  cudaError_t MeasureRates();
  // Seconds of one call, `inner` times at a stretch; `graph` null: enqueued one by one.
  cudaError_t TimeStretch(int64_t inner, int copies, const Call& call, cudaGraphExec_t graph,
                          double* seconds);
  cudaError_t Capture(int64_t inner, int copies, const Call& call, cudaGraphExec_t* graph);
  cudaError_t Sample(int copies, const Call& call, Result* result);
  void PrintNew();
  const Result* Find(const std::string& section, const std::string& name) const;

  const Options options_;
  cudaDeviceProp device_ = {};
  cudaStream_t stream_ = nullptr;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
  std::unique_ptr<Gemm> gemm_;
  std::unique_ptr<Memory> gemm_workspace_;
  double copy_rate_ = 0;    // bytes read and written per second
  double matrix_rate_ = 0;  // flops per second
  std::vector<std::unique_ptr<Result>> results_;
  size_t printed_ = 0;
};

void AttentionSection(Bench& bench);
void DecodeSection(Bench& bench);
void RouteSection(Bench& bench);
void RowsSection(Bench& bench);
void GemmSection(Bench& bench);

// printf into a string.
std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace longdoc::kernels::cuda::bench
