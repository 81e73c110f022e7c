#include "engine/spill.h"

#include <vector>

#include "engine/backend.h"
#include "engine/base/status_macros.h"

namespace longdoc {

KeptMemory::~KeptMemory() {
  if (spill != nullptr) spill->Forget(*this);
}

KeptMemoryUse::~KeptMemoryUse() {
  if (spill_ != nullptr) spill_->EndUse(*document_);
}

void MemorySpill::Add(const KeptMemory& document) {
  document.added_bytes = document.bytes();
  document.spill = this;
  std::lock_guard lock(mutex_);
  document.idle = idle_.insert(idle_.end(), &document);
  stats_.device_bytes += document.bytes();
}

void MemorySpill::Forget(const KeptMemory& document) {
  std::lock_guard lock(mutex_);
  if (document.spilled) {
    stats_.host_bytes -= document.bytes();
  } else {
    idle_.erase(document.idle);
    stats_.device_bytes -= document.bytes();
  }
}

// The device's memory is asked for without the mutex, because that may spill others.
absl::StatusOr<KeptMemoryUse> MemorySpill::Use(const KeptMemory& document) {
  KeptMemoryUse use;
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

absl::Status MemorySpill::BringBack(const KeptMemory& document) {
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

void MemorySpill::EndUse(const KeptMemory& document) {
  std::lock_guard lock(mutex_);
  if (--document.uses == 0) document.idle = idle_.insert(idle_.end(), &document);
}

bool MemorySpill::SpillOne() {
  std::lock_guard lock(mutex_);
  for (auto it = idle_.begin(); it != idle_.end(); ++it) {
    const KeptMemory& document = **it;
    if (!MoveToHost(document).ok()) continue;
    document.spilled = true;
    idle_.erase(it);
    stats_.device_bytes -= document.bytes();
    stats_.host_bytes += document.bytes();
    ++stats_.spilled;
    return true;
  }
  return false;
}

absl::Status MemorySpill::MoveToHost(const KeptMemory& document) {
  std::vector<Buffer> layers(document.layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {  // all memory first: copies are dear
    ASSIGN_OR_RETURN(layers[l], host_.Allocate(document.layers[l].bytes(), /*zeroed=*/false));
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    const Buffer& from = document.layers[l];
    RETURN_IF_ERROR(backend_.CopyToHost(layers[l].data(), from.data(), from.bytes()));
  }
  document.layers.swap(layers);
  return absl::OkStatus();
}

SpillStats MemorySpill::stats() const {
  std::lock_guard lock(mutex_);
  SpillStats stats = stats_;
  stats.host_limit_bytes = host_.limit_bytes();
  return stats;
}

}  // namespace longdoc
