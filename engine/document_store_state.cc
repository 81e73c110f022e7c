// The rules of the store; everything under its mutex.
#include "engine/document_store_state.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/check.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

constexpr char kCollection[] = "documents/";
constexpr size_t kNameKeyBytes = 16;  // of the content key that a name shows, as hex
constexpr size_t kMaxInstanceChars = 32;
constexpr size_t kShownChars = 120;           // of a name or token that a client made up
constexpr size_t kRememberedNames = 4096;     // of documents that left
constexpr double kBusyRetryDelaySeconds = 1;  // what is in use now may be free then

bool IsAlnum(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); });
}
bool IsHex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}
std::string Shown(const std::string& text) { return absl::CHexEscape(text.substr(0, kShownChars)); }

// The instance in "documents/<instance>-<32 hex digits>".
absl::StatusOr<std::string> InstanceOf(const std::string& name) {
  const size_t prefix = sizeof(kCollection) - 1;
  if (name.compare(0, prefix, kCollection) == 0 && name.size() <= kShownChars) {
    const size_t dash = name.find('-', prefix);
    if (dash != std::string::npos) {
      std::string instance = name.substr(prefix, dash - prefix);
      const std::string key = name.substr(dash + 1);
      if (!instance.empty() && instance.size() <= kMaxInstanceChars && IsAlnum(instance) &&
          key.size() == 2 * kNameKeyBytes && IsHex(key)) {
        return instance;
      }
    }
  }
  return WithReason(
      absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not the name of a document, which "
                                                 "looks like documents/INSTANCE-32_HEX_DIGITS",
                                                 Shown(name))),
      "INVALID_DOCUMENT_NAME");
}

}  // namespace

DocumentStore::State::State(DocumentStoreOptions o) : options(std::move(o)) {
  if (!options.now) options.now = absl::Now;
  LD_CHECK(!options.instance.empty() && options.instance.size() <= kMaxInstanceChars &&
           IsAlnum(options.instance));
  stats.budget_bytes = options.budget_bytes;
}

std::string DocumentStore::State::NameOf(const std::string& content_key) const {
  LD_CHECK(content_key.size() >= kNameKeyBytes);
  return absl::StrCat(kCollection, options.instance, "-",
                      absl::BytesToHexString(content_key.substr(0, kNameKeyBytes)));
}

void DocumentStore::State::Remember(const std::string& name, Why why) {
  departed.emplace_back(name, why);
  departed_by_name[name] = std::prev(departed.end());
  if (departed.size() > kRememberedNames) Forget(departed.front().first);
}

void DocumentStore::State::Forget(const std::string& name) {
  auto it = departed_by_name.find(name);
  if (it == departed_by_name.end()) return;
  const auto place = it->second;
  departed_by_name.erase(it);  // before the name that `name` may refer to
  departed.erase(place);
}

void DocumentStore::State::Remove(std::shared_ptr<Entry> entry, Why why, Garbage& garbage) {
  ++(why == Why::kExpired ? stats.expired : why == Why::kEvicted ? stats.evicted : stats.deleted);
  entry->listed = false;
  by_name.erase(entry->name);
  by_serial.erase(entry->serial);
  Remember(entry->name, why);
  if (entry->pins > 0) return;  // the last pin takes the bytes along
  idle.erase(entry->idle);
  idle_bytes -= entry->bytes.total();
  stats.held -= entry->bytes;
  garbage.push_back(std::move(entry));
}

void DocumentStore::State::DropExpired(Garbage& garbage) {
  const absl::Time now = options.now();
  for (auto it = idle.begin(); it != idle.end();) {
    Entry& entry = **it++;  // before Remove takes its place away
    if (now >= Expiry(entry, now)) Remove(by_name.at(entry.name), Why::kExpired, garbage);
  }
}

// The document of this name, unless its time is over; null when there is none.
std::shared_ptr<DocumentStore::Entry> DocumentStore::State::Listed(const std::string& name,
                                                                   Garbage& garbage) {
  auto it = by_name.find(name);
  if (it == by_name.end()) return nullptr;
  const absl::Time now = options.now();
  if (now < Expiry(*it->second, now)) return it->second;
  Remove(it->second, Why::kExpired, garbage);
  return nullptr;
}

absl::StatusOr<std::shared_ptr<DocumentStore::Entry>> DocumentStore::State::Find(
    const std::string& name, Garbage& garbage) {
  ASSIGN_OR_RETURN(const std::string instance, InstanceOf(name));
  const auto missing = [&](const char* what, const char* reason) {
    return WithReason(absl::NotFoundError(absl::StrCat(name, " ", what)), reason);
  };
  if (instance != options.instance) {
    return missing("is of another server, or of this one before it was started anew",
                   "DOCUMENT_FOREIGN");
  }
  if (std::shared_ptr<Entry> entry = Listed(name, garbage)) return entry;
  auto gone = departed_by_name.find(name);
  if (gone == departed_by_name.end()) return missing("is not here", "DOCUMENT_NOT_FOUND");
  switch (gone->second->second) {
    case Why::kExpired:
      return missing("was not used for its time to live", "DOCUMENT_EXPIRED");
    case Why::kEvicted:
      return missing("made room for newer documents", "DOCUMENT_EVICTED");
    case Why::kDeleted:
      break;
  }
  return missing("was deleted", "DOCUMENT_DELETED");
}

void DocumentStore::State::Pin(Entry& entry) {
  entry.last_used = options.now();
  if (entry.pins++ > 0) return;
  idle.erase(entry.idle);
  idle_bytes -= entry.bytes.total();
}

void DocumentStore::State::Unpin(Entry& entry) {
  std::lock_guard lock(mutex);
  if (--entry.pins > 0) return;
  if (!entry.listed) {
    stats.held -= entry.bytes;
    return;
  }
  entry.last_used = options.now();
  entry.idle = idle.insert(idle.end(), &entry);
  idle_bytes += entry.bytes.total();
}

absl::Status DocumentStore::State::CheckRoom(int64_t bytes) const {
  constexpr char kReason[] = "DOCUMENT_BUDGET_EXCEEDED";
  const int64_t available = Available();
  if (bytes > available) {
    absl::Status status = WithReason(
        absl::ResourceExhaustedError(absl::StrFormat(
            "keeping the document needs %d bytes, %d of the %d bytes for documents are available",
            bytes, available, stats.budget_bytes)),
        kReason);
    if (bytes > stats.budget_bytes) return status;  // never here
    return WithRetryDelay(std::move(status), kBusyRetryDelaySeconds);
  }
  const int64_t in_use =
      static_cast<int64_t>(by_name.size()) - static_cast<int64_t>(idle.size()) + reservations;
  if (in_use < options.max_documents) return absl::OkStatus();
  return WithRetryDelay(
      WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                     "all %d documents that may be kept are in use", options.max_documents)),
                 kReason),
      kBusyRetryDelaySeconds);
}

// Evicts the least recently used until these many bytes, and documents, are held at most.
void DocumentStore::State::EvictDownTo(int64_t bytes, int64_t documents, Garbage& garbage) {
  while (!idle.empty() &&
         (stats.held.total() > bytes || static_cast<int64_t>(by_name.size()) > documents)) {
    Remove(by_name.at(idle.front()->name), Why::kEvicted, garbage);
  }
}

}  // namespace longdoc
