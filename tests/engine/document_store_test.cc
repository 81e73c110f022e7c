#include "engine/document_store.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/document_store_helpers.h"

namespace longdoc::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(DocumentStore, KeepsFindsAndDeletes) {
  FakeClock clock;
  DocumentStore store(Options(clock));
  auto pin = AddSized(store, 1, 4000);
  EXPECT_EQ(pin.name(), "documents/me1-" + std::string("31303031") + "6b6b6b6b6b6b6b6b6b6b6b6b");
  EXPECT_EQ(pin->bytes(), 4000);
  clock.Advance(absl::Seconds(5));
  auto found = store.Find(pin.name());
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->document()->ids.data(), pin->ids.data()) << "the same memory";
  EXPECT_TRUE(store.FindByContent(Key(1)));
  EXPECT_FALSE(store.FindByContent(Key(2)));
  const std::string name = pin.name();
  pin = {};
  *found = {};
  const auto record = store.Describe(name);
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->last_used - record->created, absl::Seconds(5));
  EXPECT_EQ(record->expires - record->last_used, absl::Seconds(100));
  EXPECT_EQ(*store.Delete(name), 4000);
  EXPECT_EQ(ReasonOf(store.Find(name).status()), "DOCUMENT_DELETED");
  const DocumentStoreStats stats = store.stats();
  EXPECT_EQ(stats.held.total(), 0);
  EXPECT_EQ(stats.added, 1);
  EXPECT_EQ(stats.reused, 1);
  EXPECT_EQ(stats.deleted, 1);
  EXPECT_EQ(stats.lookups_found, 1);
  EXPECT_EQ(stats.lookups_missed, 1);
}

TEST(DocumentStore, CountsEveryKindOfByteAsAllocated) {
  MemoryPool pool(0);  // outlives what it gave out
  KeptDocument document;
  const DocumentBytes empty = document.bytes_by_kind();
  document.ids.reserve(100);
  document.vector.reserve(64);
  document.passages.reserve(3);
  document.passage_vectors.reserve(3 * 64);
  document.token_vectors = *TokenVectors::Allocate(pool, 100, 64);
  auto kv = std::make_shared<CrossKv>();
  kv->layers.push_back(*pool.Allocate(5000, true));
  kv->layers.push_back(*pool.Allocate(7000, true));
  document.cross_kv = std::move(kv);
  const DocumentBytes bytes = document.bytes_by_kind();
  EXPECT_EQ(bytes.ids, 400);
  EXPECT_EQ(bytes.other - empty.other, 256);
  EXPECT_EQ(bytes.passages, static_cast<int64_t>(3 * sizeof(Passage)) + 3 * 64 * 2);
  EXPECT_EQ(bytes.token_vectors, 100 * 64 * 2);
  EXPECT_EQ(bytes.cross_kv, 12000);
  EXPECT_EQ(document.bytes(), bytes.total());
  EXPECT_GE(empty.other, static_cast<int64_t>(sizeof(KeptDocument)));
}

TEST(DocumentStore, EvictsForADeviceWhatHasKeysAndValues) {
  MemoryPool pool(0);
  FakeClock clock;
  DocumentStore store(Options(clock));
  const auto add = [&](int key, bool with_keys) {
    KeptDocument document = Sized(2000);
    auto kv = std::make_shared<CrossKv>();
    kv->layers.push_back(*pool.Allocate(4096, true));
    if (with_keys) document.cross_kv = std::move(kv);
    return *store.Add(Key(key), std::move(document), absl::ZeroDuration(), nullptr);
  };
  DocumentStore::Pin in_use = add(0, true);
  const std::string plain = add(1, false).name(), a = add(2, true).name(), b = add(3, true).name();
  EXPECT_EQ(pool.allocated_bytes(), 3 * 4096);
  ASSERT_TRUE(store.Find(a).ok());  // b is the one to go, then a
  EXPECT_TRUE(store.EvictOne());
  EXPECT_EQ(ReasonOf(store.Describe(b).status()), "DOCUMENT_EVICTED");
  EXPECT_TRUE(store.Describe(a).ok());
  EXPECT_EQ(pool.allocated_bytes(), 2 * 4096);
  EXPECT_TRUE(store.EvictOne());
  EXPECT_EQ(ReasonOf(store.Describe(a).status()), "DOCUMENT_EVICTED");
  EXPECT_FALSE(store.EvictOne()) << "one is in use, the other one would free nothing";
  EXPECT_TRUE(store.Describe(plain).ok());
  EXPECT_EQ(store.stats().evicted, 2);
  in_use = DocumentStore::Pin();
  EXPECT_TRUE(store.EvictOne());
  EXPECT_EQ(pool.allocated_bytes(), 0);
}

TEST(DocumentStore, EvictsTheLeastRecentlyUsed) {
  FakeClock clock;
  DocumentStore store(Options(clock, 10'000));
  std::vector<std::string> names;
  for (int i = 0; i < 3; ++i) names.push_back(AddSized(store, i, 3000).name());
  ASSERT_TRUE(store.Find(names[0]).ok());  // now the second one is the oldest
  ASSERT_TRUE(store.Describe(names[1]).ok()) << "a look is no use";
  names.push_back(AddSized(store, 3, 3000).name());
  EXPECT_EQ(ReasonOf(store.Find(names[1]).status()), "DOCUMENT_EVICTED");
  EXPECT_THAT(Names(store), ElementsAre(names[0], names[2], names[3]));
  EXPECT_EQ(store.stats().evicted, 1);
  // A document may come back, and then it is there.
  const std::string again = AddSized(store, 1, 3000).name();
  EXPECT_EQ(again, names[1]);
  EXPECT_TRUE(store.Find(again).ok());
}

TEST(DocumentStore, WhatIsPinnedIsNeitherEvictedNorExpired) {
  FakeClock clock;
  DocumentStore store(Options(clock, 10'000));
  auto pin = AddSized(store, 1, 6000);
  clock.Advance(absl::Hours(10));
  store.Sweep();
  EXPECT_TRUE(store.Find(pin.name()).ok());
  auto refused = store.Reserve(5000);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused.status()), "DOCUMENT_BUDGET_EXCEEDED");
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("needs 5000 bytes, 4000 of"));
  EXPECT_GT(RetryDelaySecondsOf(refused.status()), 0);
  auto never = store.Reserve(10'001);
  EXPECT_LT(RetryDelaySecondsOf(never.status()), 0) << "trying again would not help";
  EXPECT_EQ(store.CheckRoom(5000).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store.CheckRoom(4000).ok());

  // The time to live begins when the use ends.
  const std::string name = pin.name();
  pin = {};
  clock.Advance(absl::Seconds(99));
  EXPECT_TRUE(store.Describe(name).ok());
  clock.Advance(absl::Seconds(1));
  EXPECT_EQ(ReasonOf(store.Describe(name).status()), "DOCUMENT_EXPIRED");
  EXPECT_EQ(store.stats().expired, 1);
  EXPECT_TRUE(store.Reserve(10'000).ok());
}

TEST(DocumentStore, PromisesCountAndAreGivenBack) {
  FakeClock clock;
  DocumentStore store(Options(clock, 10'000));
  const std::string name = AddSized(store, 1, 4000).name();
  {
    auto first = store.Reserve(5000);
    ASSERT_TRUE(first.ok());
    EXPECT_EQ((*first)->bytes(), 5000);
    EXPECT_EQ(store.stats().reserved_bytes, 5000);
    EXPECT_FALSE(store.Reserve(6000).ok());
    EXPECT_TRUE(store.Describe(name).ok()) << "nothing is evicted for a reservation that fails";
    EXPECT_TRUE(store.CheckRoom(5000).ok());
    EXPECT_TRUE(store.Describe(name).ok()) << "nor for a question";
    auto second = store.Reserve(5000);
    EXPECT_TRUE(second.ok());
    EXPECT_EQ(ReasonOf(store.Describe(name).status()), "DOCUMENT_EVICTED");
  }
  EXPECT_EQ(store.stats().reserved_bytes, 0);
}

TEST(DocumentStore, TheFirstOfTwoWithTheSameContentWins) {
  FakeClock clock;
  DocumentStore store(Options(clock));
  const auto first = AddSized(store, 1, 4000, absl::Seconds(10));
  const auto second = AddSized(store, 1, 8000, absl::Seconds(500));
  EXPECT_EQ(first.document()->ids.data(), second.document()->ids.data());
  EXPECT_EQ(store.stats().held.total(), 4000);
  EXPECT_EQ(store.stats().reused, 1);
  // The longer time to live counts.
  const auto record = store.Describe(second);
  EXPECT_EQ(record.expires - record.last_used, absl::Seconds(500));
  store.FindByContent(Key(1), absl::Seconds(20));
  EXPECT_EQ(store.Describe(first).expires - clock.now(), absl::Seconds(500));
}

TEST(DocumentStore, DeletedWhilePinnedGoesWithTheLastPin) {
  FakeClock clock;
  std::weak_ptr<const KeptDocument> alive;
  DocumentStore store(Options(clock, 10'000));
  auto pin = AddSized(store, 1, 6000);
  auto copy = pin;
  const std::string name = pin.name();
  EXPECT_EQ(*store.Delete(name), 6000);
  EXPECT_EQ(ReasonOf(store.Delete(name).status()), "DOCUMENT_DELETED");
  EXPECT_FALSE(store.FindByContent(Key(1)));
  EXPECT_EQ(store.stats().documents, 0);
  EXPECT_EQ(store.stats().held.total(), 6000);
  EXPECT_FALSE(store.Reserve(5000).ok()) << "its memory is still used";
  EXPECT_EQ(store.Describe(pin).name, name);
  // The same content may come again meanwhile.
  const auto again = AddSized(store, 1, 1000);
  EXPECT_EQ(again.name(), name);
  pin = {};
  EXPECT_EQ(copy->bytes(), 6000);
  EXPECT_EQ(store.stats().held.total(), 7000);
  copy = {};
  EXPECT_EQ(store.stats().held.total(), 1000);
  EXPECT_TRUE(store.Find(name).ok());
}

TEST(DocumentStore, SaysWhyADocumentIsNotThere) {
  FakeClock clock;
  DocumentStore store(Options(clock));
  const std::string hex(32, 'a');
  for (const auto& [name, reason] : std::map<std::string, std::string>{
           {"documents/me1-" + hex, "DOCUMENT_NOT_FOUND"},
           {"documents/you-" + hex, "DOCUMENT_FOREIGN"},
           {"", "INVALID_DOCUMENT_NAME"},
           {"documents/", "INVALID_DOCUMENT_NAME"},
           {"documents/me1", "INVALID_DOCUMENT_NAME"},
           {"documents/me1-", "INVALID_DOCUMENT_NAME"},
           {"documents/-" + hex, "INVALID_DOCUMENT_NAME"},
           {"documents/me1-" + hex + "a", "INVALID_DOCUMENT_NAME"},
           {"documents/me1-" + hex.substr(1), "INVALID_DOCUMENT_NAME"},
           {"documents/me1-" + hex.substr(1) + "A", "INVALID_DOCUMENT_NAME"},
           {"documents/m/1-" + hex, "INVALID_DOCUMENT_NAME"},
           {"documents/" + std::string(33, 'i') + "-" + hex, "INVALID_DOCUMENT_NAME"},
           {"Documents/me1-" + hex, "INVALID_DOCUMENT_NAME"},
           {std::string("documents/me1-\0", 15) + hex, "INVALID_DOCUMENT_NAME"},
           {std::string(1'000'000, 'x'), "INVALID_DOCUMENT_NAME"}}) {
    for (const absl::Status& status :
         {store.Find(name).status(), store.Describe(name).status(), store.Delete(name).status()}) {
      EXPECT_EQ(ReasonOf(status), reason) << name.substr(0, 100);
      EXPECT_EQ(status.code(), reason == "INVALID_DOCUMENT_NAME"
                                   ? absl::StatusCode::kInvalidArgument
                                   : absl::StatusCode::kNotFound);
      EXPECT_LT(status.message().size(), 1000u);
    }
  }
}

TEST(DocumentStore, RemembersABoundedNumberOfNames) {
  FakeClock clock;
  DocumentStore store(Options(clock));
  std::vector<std::string> names;
  for (int i = 0; i < 5000; ++i) {
    names.push_back(AddSized(store, i, 1000).name());
    ASSERT_TRUE(store.Delete(names.back()).ok());
  }
  EXPECT_EQ(ReasonOf(store.Find(names.back()).status()), "DOCUMENT_DELETED");
  EXPECT_EQ(ReasonOf(store.Find(names.front()).status()), "DOCUMENT_NOT_FOUND");
}

TEST(DocumentStore, ListsInOrderOfCreationPageByPage) {
  FakeClock clock;
  DocumentStore store(Options(clock));
  std::vector<std::string> names;
  for (int i = 0; i < 7; ++i) names.push_back(AddSized(store, 7 - i, 1000).name());
  EXPECT_EQ(Names(store), names);
  std::vector<std::string> seen;
  std::string token;
  do {
    std::string next;
    const auto page = store.List(3, token, &next);
    ASSERT_TRUE(page.ok()) << page.status();
    for (const DocumentRecord& record : *page) seen.push_back(record.name);
    if (seen.size() == 3) {
      ASSERT_TRUE(store.Delete(names[2]).ok());  // the last one of a page
      ASSERT_TRUE(store.Delete(names[3]).ok());  // the first one of the next
    }
    token = next;
  } while (!token.empty());
  names.erase(names.begin() + 3);
  EXPECT_EQ(seen, names);
  EXPECT_EQ(store.stats().pinned_documents, 0);

  std::string next;
  const auto exact = store.List(5, "", &next);
  EXPECT_EQ(exact->size(), 5u);
  EXPECT_EQ(next, "") << "nothing is left";
  for (const char* bad : {"x", "me1", "me1-", "me1-x", "me1--1", "me1- 1", "me1-8", "you-1",
                          "me1-99999999999999999999"}) {
    EXPECT_EQ(ReasonOf(store.List(5, bad, &next).status()), "INVALID_PAGE_TOKEN") << bad;
  }
}

TEST(DocumentStore, HoldsNoMoreDocumentsThanAllowed) {
  FakeClock clock;
  DocumentStoreOptions options = Options(clock);
  options.max_documents = 3;
  DocumentStore store(options);
  auto pin = AddSized(store, 0, 1000);
  for (int i = 1; i < 6; ++i) AddSized(store, i, 1000);
  EXPECT_EQ(store.stats().documents, 3);
  EXPECT_EQ(Names(store).front(), pin.name());
  auto first = store.Reserve(0), second = store.Reserve(0);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_THAT(Names(store), ElementsAre(pin.name()));
  EXPECT_EQ(ReasonOf(store.Reserve(0).status()), "DOCUMENT_BUDGET_EXCEEDED");
}

TEST(DocumentStore, ChecksTimesToLive) {
  FakeClock clock;
  const DocumentStore store(Options(clock));
  EXPECT_EQ(*store.CheckTtl(absl::Seconds(3)), absl::Seconds(3));
  EXPECT_TRUE(store.CheckTtl(absl::Seconds(1000)).ok());
  for (const absl::Duration bad : {absl::Seconds(1001), absl::ZeroDuration(), absl::Seconds(-1),
                                   absl::InfiniteDuration(), absl::Seconds(std::nan(""))}) {
    EXPECT_EQ(ReasonOf(store.CheckTtl(bad).status()), "INVALID_TTL") << bad;
  }
}

TEST(DocumentStore, PinsAndReservationsMayOutliveIt) {
  FakeClock clock;
  auto store = std::make_unique<DocumentStore>(Options(clock));
  auto pin = AddSized(*store, 1, 4000);
  AddSized(*store, 2, 4000);
  auto reservation = store->Reserve(10);
  store.reset();
  EXPECT_EQ(pin->bytes(), 4000);
  pin = {};
}

}  // namespace
}  // namespace longdoc::testing
