// Device memory of the bench, and what it is filled with.
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "kernels/reference/convert.h"
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

constexpr int64_t kPattern = int64_t{1} << 22;  // different numbers

void Must(cudaError_t error, const char* what, int64_t bytes) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "longdoc-gpu-bench: %s of %lld bytes: %s\n", what,
               static_cast<long long>(bytes), cudaGetErrorString(error));
  std::exit(1);
}

// `bytes` of device memory, `pattern` over and over.
template <typename T>
Memory Repeat(const std::vector<T>& pattern, int64_t bytes) {
  Memory memory(bytes);
  const auto have = static_cast<int64_t>(pattern.size() * sizeof(T));
  int64_t filled = std::min(have, bytes);
  if (filled == 0) return memory;
  memory.Upload(pattern.data(), filled);
  while (filled < bytes) {
    const int64_t more = std::min(filled, bytes - filled);
    Must(cudaMemcpy(memory.as<char>() + filled, memory.as(), static_cast<size_t>(more),
                    cudaMemcpyDeviceToDevice),
         "filling", bytes);
    filled += more;
  }
  return memory;
}

std::vector<float> Uniform(int64_t count, uint32_t seed) {
  std::minstd_rand random(seed + 1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& x : out) x = uniform(random);
  return out;
}

std::vector<uint16_t> Rounded(const std::vector<float>& values) {
  std::vector<uint16_t> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), reference::RoundToBf16);
  return out;
}

}  // namespace

Memory::Memory(int64_t bytes) : bytes_(bytes) {
  Must(cudaMalloc(&data_, static_cast<size_t>(std::max<int64_t>(bytes, 1))), "device memory",
       bytes);
}

Memory::~Memory() {
  if (data_ != nullptr) cudaFree(data_);
}

void Memory::Upload(const void* host, int64_t bytes) {
  Must(cudaMemcpy(data_, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "upload",
       bytes);
}

Memory Output(int64_t bytes) {
  Memory memory(bytes);
  Must(cudaMemset(memory.as(), 0xff, static_cast<size_t>(bytes)), "filling", bytes);
  return memory;
}

Memory RandomF32(int64_t count, uint32_t seed) {
  return Repeat(Uniform(std::min(count, kPattern), seed), count * 4);
}

Memory RandomBf16(int64_t count, uint32_t seed) {
  return Repeat(Rounded(Uniform(std::min(count, kPattern), seed)), count * 2);
}

Memory RandomBf16Rows(int64_t rows, int64_t dim, float norm, uint32_t seed) {
  std::vector<float> pattern = Uniform(std::min(rows, kPattern / dim) * dim, seed);
  std::minstd_rand random(seed + 2);
  std::uniform_real_distribution<float> spread(0.5f, 1);
  for (size_t row = 0; row < pattern.size(); row += static_cast<size_t>(dim)) {
    float sum = 0;
    for (size_t i = row; i < row + static_cast<size_t>(dim); ++i) sum += pattern[i] * pattern[i];
    const float factor = norm * spread(random) / std::sqrt(sum);
    for (size_t i = row; i < row + static_cast<size_t>(dim); ++i) pattern[i] *= factor;
  }
  return Repeat(Rounded(pattern), rows * dim * 2);
}

std::string Format(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return text;
}

}  // namespace longdoc::kernels::cuda::bench
