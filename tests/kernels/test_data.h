// Inputs, aligned memory and names for kernel tests.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_kernels.h"
#include "tests/kernels/random_floats.h"

namespace longdoc::kernels::testing {

// 64-byte aligned, filled with `fill`, with a guard behind that must not change.
class Buffer {
 public:
  Buffer(int64_t bytes, int fill) : bytes_(bytes), size_(RoundUp(bytes, 64) + 64) {
    data_ = static_cast<char*>(std::aligned_alloc(64, size_));
    std::memset(data_, fill, size_);
    std::memset(data_ + bytes, 0x5a, size_ - bytes);
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* get() const { return data_; }
  bool GuardIntact() const {
    return std::all_of(data_ + bytes_, data_ + size_, [](char c) { return c == 0x5a; });
  }

 private:
  const int64_t bytes_, size_;
  char* data_;
};

inline float FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// AVX-512 in terms of narrower instructions: slow, so shapes are smaller.
inline bool Emulated(const CpuKernels& kernels) {
  return std::string(kernels.name).find("emulated") != std::string::npos;
}

// A test of one table.
class TableTest : public ::testing::TestWithParam<const CpuKernels*> {
 protected:
  const CpuKernels& kernels() const { return *GetParam(); }
  bool emulated() const { return Emulated(kernels()); }
};

// The name of a test parameterised by a table.
inline std::string TableName(const ::testing::TestParamInfo<const CpuKernels*>& info) {
  std::string name = info.param->name;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

}  // namespace longdoc::kernels::testing
