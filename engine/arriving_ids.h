// Token ids of a document that copy themselves to the device while the rest of the document is
// still arriving, so that its pass finds them there, but for the tail.
//
// Whoever receives the document appends and never waits. A worker copies, between two steps: only
// workers touch the device's stream, so that these copies have their place in its order like
// everything else, and what is freed may be handed out again at once. It is all for speed: ids that
// found no memory, or no time, are copied when the pass begins.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/byte_reservation.h"
#include "engine/memory_pool.h"

namespace longdoc {

class Scheduler;
struct PassPacking;

// Thread-safe; Append is called in the order of the ids. Held by shared pointers only; backend and
// scheduler outlive it. Its memory is free when it is dropped, whatever became of the document.
class ArrivingIds : public std::enable_shared_from_this<ArrivingIds> {
 public:
  // Ids of one piece of memory, and how many are worth a copy.
  static constexpr int64_t kPieceIds = 1 << 16;
  static constexpr int64_t kCopiedAtOnce = 512;

  ArrivingIds(Backend& backend, Scheduler& scheduler) : backend_(backend), scheduler_(scheduler) {}
  ArrivingIds(const ArrivingIds&) = delete;
  ArrivingIds& operator=(const ArrivingIds&) = delete;

  // The document's next ids. Takes a copy.
  void Append(absl::Span<const int32_t> ids);
  // So far.
  int64_t appended() const;
  int64_t copied() const;

  // Copies what is there to `device`, which has room for `limit` ids, and frees it: the first ids
  // of the document, as many as the answer says. By a worker; nothing is copied from then on.
  int64_t MoveTo(int32_t* device, int64_t limit);

 private:
  struct Piece {
    ByteReservation reservation;  // outlives the memory
    Buffer memory;
  };
  void Copy();
  bool Grow();

  Backend& backend_;
  Scheduler& scheduler_;

  mutable std::mutex mutex_;
  std::vector<int32_t> pending_;
  int64_t appended_ = 0;
  bool asked_ = false;   // a worker will come
  bool closed_ = false;  // no more is copied

  // Of the worker that copies; taken before the other one.
  mutable std::mutex device_mutex_;
  std::vector<Piece> pieces_;  // all full but the last
  int64_t copied_ = 0;
};

// The ids of a pass where its ops can read them.
absl::StatusOr<Placed> PlaceIds(Backend& backend, const PassPacking& packing);

}  // namespace longdoc
