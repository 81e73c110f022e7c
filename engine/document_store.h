// Documents that stay encoded: found by name or by content, held within a byte budget.
//
// A document leaves when its time to live after the last use is over, when it is deleted, or when a
// newer one needs the room (least recently used first). One that is in use (a pin is held) is never
// evicted and never expires; deleted, it is found no more and its bytes go with the last pin.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/kept_document.h"

namespace longdoc {

struct DocumentRecord {
  std::string name;
  std::shared_ptr<const KeptDocument> document;  // of a listing: only for reading, soon released
  absl::Time created, last_used, expires;
};

struct DocumentStoreOptions {
  int64_t budget_bytes = 0;
  int64_t max_documents = 10'000;
  absl::Duration default_ttl = absl::Hours(1);
  absl::Duration max_ttl = absl::Hours(24);
  std::string instance;  // part of every name: tells this server's documents from others'; 1 to 32
                         // characters of a-z and 0-9
  std::function<absl::Time()> now;  // absl::Now when empty
};

// Gauges and counters, cheap.
struct DocumentStoreStats {
  int64_t documents = 0, pinned_documents = 0;
  DocumentBytes held;          // by deleted but pinned ones too
  int64_t reserved_bytes = 0;  // promised to documents that are being encoded
  int64_t budget_bytes = 0;
  int64_t added = 0, reused = 0, evicted = 0, expired = 0, deleted = 0;  // counters
  int64_t lookups_found = 0, lookups_missed = 0;                         // counters, of Find
};

// Thread-safe. Memory of documents is freed without the lock held.
class DocumentStore {
 private:
  struct Entry;
  struct State;  // shared with pins and reservations, which may outlive the store

 public:
  explicit DocumentStore(DocumentStoreOptions options);
  ~DocumentStore();
  DocumentStore(const DocumentStore&) = delete;
  DocumentStore& operator=(const DocumentStore&) = delete;

  // Keeps a document from being evicted while it, or a copy, lives. May outlive the store, but not
  // the engine that the document's memory is from.
  class Pin {
   public:
    Pin() = default;
    const KeptDocument& operator*() const { return *document_; }
    const KeptDocument* operator->() const { return document_.get(); }
    explicit operator bool() const { return document_ != nullptr; }
    const std::shared_ptr<const KeptDocument>& document() const { return document_; }
    const std::string& name() const { return name_; }

   private:
    friend class DocumentStore;
    std::shared_ptr<const KeptDocument> document_;  // unpins when the last copy goes
    std::shared_ptr<const Entry> entry_;
    std::string name_;
  };

  // Room for a document that is about to be encoded; evicts what it must, now. Given back when it
  // is destroyed unused.
  class Reservation {
   public:
    ~Reservation();
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    int64_t bytes() const { return bytes_; }

   private:
    friend class DocumentStore;
    Reservation(std::shared_ptr<State> state, int64_t bytes);
    const std::shared_ptr<State> state_;
    const int64_t bytes_;
    bool used_ = false;  // by Add
  };
  // RESOURCE_EXHAUSTED (DOCUMENT_BUDGET_EXCEEDED) naming bytes needed and available (the budget
  // less what is pinned or promised) when even evicting all others would not do; with a retry delay
  // when pins or promises are the reason.
  absl::StatusOr<std::unique_ptr<Reservation>> Reserve(int64_t bytes);
  // What Reserve would say now; evicts nothing.
  absl::Status CheckRoom(int64_t bytes) const;

  // `content_key`: a cryptographic hash of content, model revision and options, of 16 bytes at
  // least. The document with the same key that is there already (marked as used), or none. `ttl`
  // lengthens its time to live, never shortens it.
  Pin FindByContent(const std::string& content_key, absl::Duration ttl = absl::ZeroDuration());
  // Adds a document; the reservation is used up, whatever the true size. When another with the same
  // key came first, that one is returned (as by FindByContent) and this one dropped. `ttl`: as
  // asked, or zero for the default. Without a reservation: errors as Reserve.
  absl::StatusOr<Pin> Add(const std::string& content_key, KeptDocument&& document,
                          absl::Duration ttl, std::unique_ptr<Reservation> reservation);

  // By name, marked as used. NOT_FOUND with a reason: DOCUMENT_EXPIRED, DOCUMENT_EVICTED or
  // DOCUMENT_DELETED as far as is remembered, DOCUMENT_FOREIGN for a name of another server,
  // DOCUMENT_NOT_FOUND otherwise. INVALID_ARGUMENT (INVALID_DOCUMENT_NAME) for what is no name.
  absl::StatusOr<Pin> Find(const std::string& name);
  // Without marking it as used.
  absl::StatusOr<DocumentRecord> Describe(const std::string& name);
  // Of a pinned one, also after it was deleted.
  DocumentRecord Describe(const Pin& pin) const;
  // In order of creation, at most `page_size` (at least 1) after `page_token` ("": from the start).
  // INVALID_ARGUMENT (INVALID_PAGE_TOKEN) for one that we did not make. The next token is "" at the
  // end.
  absl::StatusOr<std::vector<DocumentRecord>> List(int64_t page_size, const std::string& page_token,
                                                   std::string* next_page_token);
  // Bytes that became (or, while pinned, will become) free. Errors as Find.
  absl::StatusOr<int64_t> Delete(const std::string& name);
  // Evicts the least recently used document that has token vectors or a decoder's keys and values,
  // for the room that they take of a device, whatever the budget says (EngineOptions::make_room).
  // False when there is none that is not in use.
  bool EvictOne();
  // Drops what has expired; to be called now and then.
  void Sweep();
  // A duration checked against the limits, one millisecond and max_ttl; INVALID_ARGUMENT
  // (INVALID_TTL).
  absl::StatusOr<absl::Duration> CheckTtl(absl::Duration asked) const;

  DocumentStoreStats stats() const;

 private:
  Pin MakePin(std::shared_ptr<Entry> entry) const;

  const std::shared_ptr<State> state_;
};

}  // namespace longdoc
