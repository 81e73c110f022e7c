// Bytes counted against a budget for as long as somebody holds them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace longdoc {

// Movable, confined to its holder. The counter is shared, because results (token vectors, kept
// documents) may outlive the scheduler that counts them.
class ByteReservation {
 public:
  using Counter = std::atomic<int64_t>;

  ByteReservation() = default;  // of nothing
  // Raises the counter by `bytes`; it is lowered again when this is destroyed.
  ByteReservation(std::shared_ptr<Counter> total, int64_t bytes)
      : total_(std::move(total)), bytes_(bytes) {
    *total_ += bytes_;
  }
  ByteReservation(ByteReservation&& other) noexcept { *this = std::move(other); }
  ByteReservation& operator=(ByteReservation&& other) noexcept {
    if (this != &other) {
      Release();
      total_ = std::move(other.total_);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ~ByteReservation() { Release(); }

  int64_t bytes() const { return bytes_; }

  // A part of this as a reservation of its own. Whatever is asked beyond bytes() raises the
  // counter: what is held is always what is counted.
  ByteReservation Split(int64_t bytes) {
    ByteReservation part;
    if (total_ == nullptr) return part;
    if (bytes > bytes_) *total_ += bytes - std::exchange(bytes_, bytes);
    bytes_ -= bytes;
    part.total_ = total_;
    part.bytes_ = bytes;
    return part;
  }

 private:
  void Release() {
    if (total_ != nullptr) *total_ -= bytes_;
    total_ = nullptr;
    bytes_ = 0;
  }

  std::shared_ptr<Counter> total_;
  int64_t bytes_ = 0;
};

}  // namespace longdoc
