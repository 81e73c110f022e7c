// Bytes counted against a budget for as long as somebody holds them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace longdoc {

// The counter was raised by `bytes` before; it is lowered again when this is destroyed. The counter
// is shared, because token vectors may outlive the scheduler that counted them.
class ByteReservation {
 public:
  ByteReservation(std::shared_ptr<std::atomic<int64_t>> total, int64_t bytes)
      : total_(std::move(total)), bytes_(bytes) {}
  ByteReservation(const ByteReservation&) = delete;
  ByteReservation& operator=(const ByteReservation&) = delete;
  ~ByteReservation() { *total_ -= bytes_; }

  void ShrinkTo(int64_t smaller) {
    *total_ -= bytes_ - smaller;
    bytes_ = smaller;
  }

 private:
  const std::shared_ptr<std::atomic<int64_t>> total_;
  int64_t bytes_;
};

}  // namespace longdoc
