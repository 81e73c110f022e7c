#include "engine/document_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/check.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/document_store_state.h"

namespace longdoc {
namespace {

constexpr size_t kShownTokenChars = 40;  // of a page token that a client made up
const absl::Duration kShortestTtl = absl::Milliseconds(1);

}  // namespace

DocumentStore::DocumentStore(DocumentStoreOptions options)
    : state_(std::make_shared<State>(std::move(options))) {}

DocumentStore::~DocumentStore() {
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  while (!state_->by_name.empty()) {
    state_->Remove(state_->by_name.begin()->second, State::Why::kEvicted, garbage);
  }
}

DocumentStore::Reservation::Reservation(std::shared_ptr<State> state, int64_t bytes)
    : state_(std::move(state)), bytes_(bytes) {}

DocumentStore::Reservation::~Reservation() {
  if (used_) return;
  std::lock_guard lock(state_->mutex);
  state_->stats.reserved_bytes -= bytes_;
  --state_->reservations;
}

absl::Status DocumentStore::CheckRoom(int64_t bytes) const {
  std::lock_guard lock(state_->mutex);
  return state_->CheckRoom(bytes);
}

absl::StatusOr<std::unique_ptr<DocumentStore::Reservation>> DocumentStore::Reserve(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 0);
  std::unique_ptr<Reservation> reservation(new Reservation(state_, bytes));
  reservation->used_ = true;  // of nothing, so far
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  state_->DropExpired(garbage);
  RETURN_IF_ERROR(state_->CheckRoom(bytes));
  DocumentStoreStats& stats = state_->stats;
  state_->EvictDownTo(stats.budget_bytes - stats.reserved_bytes - bytes,
                      state_->options.max_documents - state_->reservations - 1, garbage);
  stats.reserved_bytes += bytes;
  ++state_->reservations;
  reservation->used_ = false;
  return reservation;
}

// Without the mutex: should the allocation fail, the deleter runs.
DocumentStore::Pin DocumentStore::MakePin(std::shared_ptr<Entry> entry) const {
  Pin pin;
  pin.name_ = entry->name;
  const KeptDocument* document = entry->document.get();
  pin.entry_ = entry;
  pin.document_ = std::shared_ptr<const KeptDocument>(
      document, [state = state_, held = std::move(entry)](const KeptDocument*) mutable {
        state->Unpin(*held);
      });
  return pin;
}

DocumentStore::Pin DocumentStore::FindByContent(const std::string& content_key,
                                                absl::Duration ttl) {
  State::Garbage garbage;
  std::shared_ptr<Entry> entry;
  {
    std::lock_guard lock(state_->mutex);
    entry = state_->Listed(state_->NameOf(content_key), garbage);
    if (entry == nullptr) return Pin();
    ++state_->stats.reused;
    entry->ttl = std::max(entry->ttl, ttl);
    state_->Pin(*entry);
  }
  return MakePin(std::move(entry));
}

absl::StatusOr<DocumentStore::Pin> DocumentStore::Add(const std::string& content_key,
                                                      KeptDocument&& document, absl::Duration ttl,
                                                      std::unique_ptr<Reservation> reservation) {
  auto entry = std::make_shared<Entry>();
  entry->name = state_->NameOf(content_key);
  entry->ttl = ttl > absl::ZeroDuration() ? ttl : state_->options.default_ttl;
  entry->document = std::make_shared<const KeptDocument>(std::move(document));
  entry->bytes = entry->document->bytes_by_kind();
  if (reservation == nullptr) {
    ASSIGN_OR_RETURN(reservation, Reserve(entry->bytes.total()));
  }
  State::Garbage garbage;
  {
    std::lock_guard lock(state_->mutex);
    DocumentStoreStats& stats = state_->stats;
    stats.reserved_bytes -= reservation->bytes_;
    --state_->reservations;
    reservation->used_ = true;
    if (std::shared_ptr<Entry> first = state_->Listed(entry->name, garbage)) {
      ++stats.reused;
      first->ttl = std::max(first->ttl, ttl);
      state_->Pin(*first);
      garbage.push_back(std::exchange(entry, std::move(first)));
    } else {
      ++stats.added;
      entry->serial = state_->next_serial++;
      entry->created = entry->last_used = state_->options.now();
      entry->pins = 1;
      stats.held += entry->bytes;
      state_->by_serial.emplace(entry->serial, entry.get());
      state_->by_name.emplace(entry->name, entry);
      state_->Forget(entry->name);
      // Nothing to do when the reservation was right.
      state_->EvictDownTo(stats.budget_bytes - stats.reserved_bytes, state_->options.max_documents,
                          garbage);
    }
  }
  return MakePin(std::move(entry));
}

absl::StatusOr<DocumentStore::Pin> DocumentStore::Find(const std::string& name) {
  State::Garbage garbage;
  std::shared_ptr<Entry> entry;
  {
    std::lock_guard lock(state_->mutex);
    auto found = state_->Find(name, garbage);
    ++(found.ok() ? state_->stats.lookups_found : state_->stats.lookups_missed);
    if (!found.ok()) return std::move(found).status();
    entry = *std::move(found);
    state_->Pin(*entry);
  }
  return MakePin(std::move(entry));
}

absl::StatusOr<DocumentRecord> DocumentStore::Describe(const std::string& name) {
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  ASSIGN_OR_RETURN(const std::shared_ptr<Entry> entry, state_->Find(name, garbage));
  return state_->Record(*entry, state_->options.now());
}

DocumentRecord DocumentStore::Describe(const Pin& pin) const {
  LD_CHECK(pin);
  std::lock_guard lock(state_->mutex);
  return state_->Record(*pin.entry_, state_->options.now());
}

absl::StatusOr<std::vector<DocumentRecord>> DocumentStore::List(int64_t page_size,
                                                                const std::string& page_token,
                                                                std::string* next_page_token) {
  LD_CHECK(page_size >= 1);
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  const std::string prefix = state_->options.instance + "-";
  int64_t last = 0;
  if (!page_token.empty()) {
    const std::string digits = page_token.substr(std::min(prefix.size(), page_token.size()));
    if (page_token.compare(0, prefix.size(), prefix) != 0 || digits.size() > 18 ||
        digits.find_first_not_of("0123456789") != std::string::npos ||
        !absl::SimpleAtoi(digits, &last) || last >= state_->next_serial) {
      return WithReason(absl::InvalidArgumentError(absl::StrFormat(
                            "page_token \"%s\" is none of this server's",
                            absl::CHexEscape(page_token.substr(0, kShownTokenChars)))),
                        "INVALID_PAGE_TOKEN");
    }
  }
  state_->DropExpired(garbage);
  const absl::Time now = state_->options.now();
  std::vector<DocumentRecord> records;
  auto it = state_->by_serial.upper_bound(last);
  for (; it != state_->by_serial.end() && page_size > 0; ++it, --page_size) {
    last = it->first;
    records.push_back(state_->Record(*it->second, now));
  }
  next_page_token->clear();
  if (it != state_->by_serial.end()) *next_page_token = absl::StrCat(prefix, last);
  return records;
}

absl::StatusOr<int64_t> DocumentStore::Delete(const std::string& name) {
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  ASSIGN_OR_RETURN(std::shared_ptr<Entry> entry, state_->Find(name, garbage));
  const int64_t bytes = entry->bytes.total();
  state_->Remove(std::move(entry), State::Why::kDeleted, garbage);
  return bytes;
}

bool DocumentStore::EvictOne() {
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  for (const Entry* entry : state_->idle) {
    if (entry->bytes.cross_kv + entry->bytes.token_vectors == 0) continue;
    state_->Remove(state_->by_name.at(entry->name), State::Why::kEvicted, garbage);
    return true;
  }
  return false;
}

void DocumentStore::Sweep() {
  State::Garbage garbage;
  std::lock_guard lock(state_->mutex);
  state_->DropExpired(garbage);
}

absl::StatusOr<absl::Duration> DocumentStore::CheckTtl(absl::Duration asked) const {
  if (asked >= kShortestTtl && asked <= state_->options.max_ttl) return asked;
  return WithReason(
      absl::InvalidArgumentError(absl::StrFormat(
          "time to live is %g seconds, it must be in [%g, %g]", absl::ToDoubleSeconds(asked),
          absl::ToDoubleSeconds(kShortestTtl), absl::ToDoubleSeconds(state_->options.max_ttl))),
      "INVALID_TTL");
}

DocumentStoreStats DocumentStore::stats() const {
  std::lock_guard lock(state_->mutex);
  DocumentStoreStats stats = state_->stats;
  stats.documents = static_cast<int64_t>(state_->by_name.size());
  stats.pinned_documents = stats.documents - static_cast<int64_t>(state_->idle.size());
  return stats;
}

}  // namespace longdoc
