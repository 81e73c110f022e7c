// What a DocumentStore, its pins and its reservations share. Private to the store.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/document_store.h"

namespace longdoc {

struct DocumentStore::Entry {
  std::string name;
  std::shared_ptr<const KeptDocument> document;
  DocumentBytes bytes;
  int64_t serial = 0;  // in order of creation, from 1
  absl::Time created;

  // Guarded by the store's mutex.
  absl::Time last_used;
  absl::Duration ttl;
  int64_t pins = 0;
  bool listed = true;                  // false once it left, while pins keep it
  std::list<Entry*>::iterator idle{};  // its place there, while it is listed and has no pin
};

// Functions need the mutex unless they say otherwise. What leaves is put into `garbage`, for the
// caller to destroy without the mutex.
struct DocumentStore::State {
  using Garbage = std::vector<std::shared_ptr<Entry>>;
  enum class Why { kExpired, kEvicted, kDeleted };
  using Departed = std::list<std::pair<std::string, Why>>;

  explicit State(DocumentStoreOptions o);

  // Needs no mutex.
  std::string NameOf(const std::string& content_key) const;
  // Those in use count as used until now.
  absl::Time Expiry(const Entry& entry, absl::Time now) const {
    return (entry.pins > 0 ? now : entry.last_used) + entry.ttl;
  }
  DocumentRecord Record(const Entry& entry, absl::Time now) const {
    return {entry.name, entry.document, entry.created, entry.pins > 0 ? now : entry.last_used,
            Expiry(entry, now)};
  }

  void Remove(std::shared_ptr<Entry> entry, Why why, Garbage& garbage);
  void DropExpired(Garbage& garbage);
  std::shared_ptr<Entry> Listed(const std::string& name, Garbage& garbage);
  absl::StatusOr<std::shared_ptr<Entry>> Find(const std::string& name, Garbage& garbage);
  void Pin(Entry& entry);
  void Unpin(Entry& entry);  // takes the mutex
  int64_t Available() const {
    const int64_t in_use = stats.held.total() - idle_bytes + stats.reserved_bytes;
    return std::max<int64_t>(0, stats.budget_bytes - in_use);
  }
  absl::Status CheckRoom(int64_t bytes) const;
  void EvictDownTo(int64_t bytes, int64_t documents, Garbage& garbage);
  void Remember(const std::string& name, Why why);
  void Forget(const std::string& name);

  DocumentStoreOptions options;
  mutable std::mutex mutex;
  std::unordered_map<std::string, std::shared_ptr<Entry>> by_name;
  std::map<int64_t, Entry*> by_serial;
  std::list<Entry*> idle;  // listed and not pinned, least recently used first
  int64_t idle_bytes = 0;
  int64_t reservations = 0;
  int64_t next_serial = 1;
  DocumentStoreStats stats;  // without documents and pinned_documents
  // The last documents that left, oldest first.
  Departed departed;
  std::unordered_map<std::string, Departed::iterator> departed_by_name;
};

}  // namespace longdoc
