// Documents of any size, without an engine, for tests of the store.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/document_store.h"
#include "gtest/gtest.h"

namespace longdoc::testing {

class FakeClock {
 public:
  std::function<absl::Time()> function() {
    return [this] { return now_; };
  }
  absl::Time now() const { return now_; }
  void Advance(absl::Duration d) { now_ += d; }

 private:
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
};

inline DocumentStoreOptions Options(FakeClock& clock, int64_t budget = 1 << 20) {
  DocumentStoreOptions options;
  options.budget_bytes = budget;
  options.default_ttl = absl::Seconds(100);
  options.max_ttl = absl::Seconds(1000);
  options.instance = "me1";
  options.now = clock.function();
  return options;
}

// A document of exactly `bytes` bytes, not much less than a kilobyte.
inline KeptDocument Sized(int64_t bytes) {
  KeptDocument document;
  const int64_t ids = (bytes - document.bytes()) / 4;
  document.ids.resize(ids);
  EXPECT_EQ(document.bytes(), bytes);
  return document;
}

// Content keys that differ in the part that names show.
inline std::string Key(int n) { return absl::StrCat(1000 + n, std::string(28, 'k')); }

inline DocumentStore::Pin AddSized(DocumentStore& store, int key, int64_t bytes,
                                   absl::Duration ttl = absl::ZeroDuration()) {
  auto reservation = store.Reserve(bytes);
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  auto pin = store.Add(Key(key), Sized(bytes), ttl, std::move(*reservation));
  EXPECT_TRUE(pin.ok()) << pin.status();
  return std::move(*pin);
}

inline std::vector<std::string> Names(DocumentStore& store) {
  std::string next;
  auto records = store.List(1000, "", &next);
  EXPECT_TRUE(records.ok());
  std::vector<std::string> names;
  for (const DocumentRecord& record : *records) names.push_back(record.name);
  return names;
}

}  // namespace longdoc::testing
