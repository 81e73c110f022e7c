// Memory and threads of the kernel benchmarks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "service/tools/bench/bench.h"

namespace longdoc::tools {

// Zero-filled bytes on a cache-line border.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(int64_t bytes) : storage_(static_cast<size_t>(bytes) + kAlignment) {
    void* p = storage_.data();
    size_t space = storage_.size();
    data_ = std::align(kAlignment, static_cast<size_t>(bytes), p, space);
  }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kAlignment = 64;
  std::vector<char> storage_;
  void* data_;
};

// Hands out [0, count) in pieces to all threads.
inline void ParallelFor(int threads, int64_t count, int64_t piece,
                        const std::function<void(int64_t, int64_t)>& work) {
  std::atomic<int64_t> next{0};
  RunOnThreads(threads, [&](int) {
    for (int64_t i = next.fetch_add(piece); i < count; i = next.fetch_add(piece)) {
      work(i, std::min(i + piece, count));
    }
  });
}

}  // namespace longdoc::tools
