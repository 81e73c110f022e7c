#include "engine/spill.h"

#include <vector>

#include "engine/backend.h"
#include "engine/base/status_macros.h"

namespace longdoc {

KeptMemory::~KeptMemory() {
  if (spill != nullptr) spill->Forget(*this);
}

CrossKvUse::~CrossKvUse() {
  if (spill_ != nullptr) spill_->EndUse(*document_);
}

void CrossKvSpill::Add(const KeptMemory& document) {
  document.added_bytes = document.bytes();
  document.spill = this;
  std::lock_guard lock(mutex_);
  document.idle = idle_.insert(idle_.end(), &document);
  stats_.device_bytes += document.bytes();
}

void CrossKvSpill::Forget(const KeptMemory& document) {
  std::lock_guard lock(mutex_);
  if (document.spilled) {
    stats_.host_bytes -= document.bytes();
  } else {
    idle_.erase(document.idle);
    stats_.device_bytes -= document.bytes();
  }
}

// The device's memory is asked for without the mutex, because that may spill others.
absl::StatusOr<CrossKvUse> CrossKvSpill::Use(const KeptMemory& document) {
  CrossKvUse use;
  std::lock_guard moving(document.moving);
  {
    std::lock_guard lock(mutex_);
    if (document.spill != this) return use;  // never added: stays where it is
    if (document.uses == 0 && !document.spilled) idle_.erase(document.idle);
    if (!document.spilled) {
      ++document.uses;
      use.spill_ = this;
      use.document_ = &document;
      return use;
    }
  }
  // While it is spilled nobody else touches it: uses begin here, one after the other.
  RETURN_IF_ERROR(BringBack(document));
  std::lock_guard lock(mutex_);
  document.spilled = false;
  document.uses = 1;
  stats_.host_bytes -= document.bytes();
  stats_.device_bytes += document.bytes();
  ++stats_.returned;
  use.spill_ = this;
  use.document_ = &document;
  return use;
}

absl::Status CrossKvSpill::BringBack(const KeptMemory& document) {
  std::vector<Buffer> layers(document.layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    const Buffer& from = document.layers[l];
    ASSIGN_OR_RETURN(layers[l], device_.Allocate(from.bytes(), /*zeroed=*/false));
    backend_.CopyToDevice(layers[l].data(), from.data(), from.bytes());
  }
  // The host's copies may go: CopyToDevice has taken what was in them.
  document.layers.swap(layers);
  return absl::OkStatus();
}

void CrossKvSpill::EndUse(const KeptMemory& document) {
  std::lock_guard lock(mutex_);
  if (--document.uses == 0) document.idle = idle_.insert(idle_.end(), &document);
}

bool CrossKvSpill::SpillOne() {
  std::lock_guard lock(mutex_);
  if (idle_.empty()) return false;
  const KeptMemory& document = *idle_.front();
  std::vector<Buffer> layers(document.layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    const Buffer& from = document.layers[l];
    absl::StatusOr<Buffer> to = host_.Allocate(from.bytes(), /*zeroed=*/false);
    if (!to.ok() || !backend_.CopyToHost(to->data(), from.data(), from.bytes()).ok()) return false;
    layers[l] = *std::move(to);
  }
  document.layers.swap(layers);
  document.spilled = true;
  idle_.pop_front();
  stats_.device_bytes -= document.bytes();
  stats_.host_bytes += document.bytes();
  ++stats_.spilled;
  return true;
}

SpillStats CrossKvSpill::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace longdoc
