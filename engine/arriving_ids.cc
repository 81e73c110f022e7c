#include "engine/arriving_ids.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/encode_pass.h"
#include "engine/scheduler.h"

namespace longdoc {
namespace {

constexpr int64_t kIdBytes = static_cast<int64_t>(sizeof(int32_t));

}  // namespace

void ArrivingIds::Append(absl::Span<const int32_t> ids) {
  {
    std::lock_guard lock(mutex_);
    appended_ += static_cast<int64_t>(ids.size());
    if (closed_) return;
    pending_.insert(pending_.end(), ids.begin(), ids.end());
    if (asked_ || static_cast<int64_t>(pending_.size()) < kCopiedAtOnce) return;
    asked_ = true;
  }
  scheduler_.RunSoon([self = shared_from_this()] { self->Copy(); });
}

int64_t ArrivingIds::appended() const {
  std::lock_guard lock(mutex_);
  return appended_;
}

int64_t ArrivingIds::copied() const {
  std::lock_guard lock(device_mutex_);
  return copied_;
}

void ArrivingIds::Copy() {
  std::lock_guard device_lock(device_mutex_);
  std::vector<int32_t> fresh;
  {
    std::lock_guard lock(mutex_);
    asked_ = false;
    if (closed_) return;
    fresh.swap(pending_);
  }
  const int64_t size = static_cast<int64_t>(fresh.size());
  for (int64_t done = 0; done < size;) {
    const int64_t filled = copied_ % kPieceIds;
    if (filled == 0 && !Grow()) {
      std::lock_guard lock(mutex_);
      closed_ = true;
      pending_ = {};
      return;
    }
    const int64_t part = std::min(size - done, kPieceIds - filled);
    backend_.CopyToDevice(pieces_.back().memory.as<int32_t>() + filled, fresh.data() + done,
                          part * kIdBytes);
    copied_ += part;
    done += part;
  }
}

bool ArrivingIds::Grow() {
  Piece piece;
  piece.reservation = scheduler_.ReserveForArrivals(kPieceIds * kIdBytes);
  if (piece.reservation.bytes() == 0) return false;
  absl::StatusOr<Buffer> memory =
      backend_.memory().Allocate(kPieceIds * kIdBytes, /*zeroed=*/false);
  if (!memory.ok()) return false;
  piece.memory = *std::move(memory);
  pieces_.push_back(std::move(piece));
  return true;
}

int64_t ArrivingIds::MoveTo(int32_t* device, int64_t limit) {
  std::lock_guard device_lock(device_mutex_);
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    pending_ = {};
  }
  const int64_t count = std::min(copied_, limit);
  for (int64_t begin = 0; begin < count; begin += kPieceIds) {
    backend_.memory().Copy(device + begin, pieces_[begin / kPieceIds].memory.data(),
                           std::min(kPieceIds, count - begin) * kIdBytes);
  }
  pieces_.clear();
  copied_ = 0;
  return count;
}

absl::StatusOr<Placed> PlaceIds(Backend& backend, const PassPacking& packing) {
  const auto arrived = [](const PassSequence& s) { return s.arrived != nullptr; };
  if (std::none_of(packing.sequences.begin(), packing.sequences.end(), arrived)) {
    return backend.Place(packing.ids.data(), packing.tokens() * kIdBytes);
  }
  Placed ids;
  ASSIGN_OR_RETURN(ids.copy, backend.memory().Allocate(packing.tokens() * kIdBytes,
                                                       /*zeroed=*/false));
  ids.data = ids.copy.data();
  int32_t* device = ids.copy.as<int32_t>();
  for (size_t s = 0; s < packing.sequences.size(); ++s) {
    int64_t begin = packing.cu_seqlens[s];
    ArrivingIds* first_ids = packing.sequences[s].arrived;
    if (first_ids != nullptr) begin += first_ids->MoveTo(device + begin, packing.tokens(s));
    backend.CopyToDevice(device + begin, packing.ids.data() + begin,
                         (packing.cu_seqlens[s + 1] - begin) * kIdBytes);
  }
  return ids;
}

}  // namespace longdoc
