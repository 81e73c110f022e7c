// The store against a naive one, under random operations; and from many threads.
#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "engine/document_store.h"
#include "gtest/gtest.h"
#include "tests/engine/document_store_helpers.h"

namespace longdoc::testing {
namespace {

// What the store should do, by scanning everything each time.
class NaiveStore {
 public:
  struct Document {
    int key;
    int64_t bytes;
    absl::Time last_used;
    absl::Duration ttl;
    int pins;
  };
  NaiveStore(int64_t budget, size_t max_documents)
      : budget_(budget), max_documents_(max_documents) {}

  void Expire(absl::Time now) {
    for (size_t i = 0; i < listed.size();) {
      if (listed[i].pins == 0 && now >= listed[i].last_used + listed[i].ttl) {
        Leave(i, "DOCUMENT_EXPIRED");
      } else {
        ++i;
      }
    }
  }
  void Leave(size_t i, const std::string& why) {
    gone[listed[i].key] = why;
    ++count[why];
    if (listed[i].pins > 0) zombies.push_back(listed[i]);
    listed.erase(listed.begin() + static_cast<int64_t>(i));
  }
  Document* Find(int key) {
    for (Document& d : listed) {
      if (d.key == key) return &d;
    }
    return nullptr;
  }
  int64_t Held() const {
    int64_t sum = 0;
    for (const Document& d : listed) sum += d.bytes;
    for (const Document& d : zombies) sum += d.bytes;
    return sum;
  }
  // Room for one more; false: refused.
  bool Reserve(int64_t bytes) {
    int64_t pinned = 0;
    size_t num_pinned = 0;
    for (const Document& d : zombies) pinned += d.bytes;
    for (const Document& d : listed) {
      if (d.pins == 0) continue;
      pinned += d.bytes;
      ++num_pinned;
    }
    if (pinned + bytes > budget_ || num_pinned >= max_documents_) return false;
    while (Held() + bytes > budget_ || listed.size() >= max_documents_) {
      size_t oldest = listed.size();
      for (size_t i = 0; i < listed.size(); ++i) {
        if (listed[i].pins > 0) continue;
        if (oldest == listed.size() || listed[i].last_used < listed[oldest].last_used) oldest = i;
      }
      Leave(oldest, "DOCUMENT_EVICTED");
    }
    return true;
  }

  std::vector<Document> listed;   // in order of creation
  std::vector<Document> zombies;  // deleted, but pinned
  std::map<int, std::string> gone;
  std::map<std::string, int64_t> count;

 private:
  const int64_t budget_;
  const size_t max_documents_;
};

TEST(DocumentStore, DoesWhatTheNaiveStoreDoes) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const auto dice = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
    FakeClock clock;
    DocumentStoreOptions options = Options(clock, 20'000);
    options.max_documents = 6;
    DocumentStore store(options);
    NaiveStore naive(20'000, 6);
    struct Held {
      int key;
      int64_t bytes;  // tells a deleted document from its successor
      DocumentStore::Pin pin;
    };
    std::vector<Held> pins;
    std::map<int, std::string> names;
    for (int key = 0; key < 12; ++key) {
      names[key] = AddSized(store, key, 1000).name();
      ASSERT_TRUE(store.Delete(names[key]).ok());
      naive.gone[key] = "DOCUMENT_DELETED";
    }
    const auto pinned = [&](int key, DocumentStore::Pin pin) {
      ++naive.Find(key)->pins;
      naive.Find(key)->last_used = clock.now();
      EXPECT_EQ(pin->bytes(), naive.Find(key)->bytes);
      const int64_t bytes = pin->bytes();
      if (dice(3) == 0) {
        pins.push_back({key, bytes, std::move(pin)});
      } else {
        --naive.Find(key)->pins;
      }
    };
    for (int step = 0; step < 1500; ++step) {
      clock.Advance(absl::Milliseconds(1 + (dice(20) == 0 ? dice(60'000) : 0)));
      naive.Expire(clock.now());
      const int key = dice(12);
      switch (dice(6)) {
        case 0: {  // keep a document
          const int64_t bytes = 1000 + 4 * step;
          const auto ttl = absl::Seconds(10 + dice(100));
          auto reservation = store.Reserve(bytes);
          ASSERT_EQ(reservation.ok(), naive.Reserve(bytes)) << reservation.status();
          if (!reservation.ok()) break;
          auto pin = store.Add(Key(key), Sized(bytes), ttl, std::move(*reservation));
          ASSERT_TRUE(pin.ok());
          if (naive.Find(key) == nullptr) {
            naive.listed.push_back({key, bytes, clock.now(), ttl, 0});
            naive.gone.erase(key);
          }
          naive.Find(key)->ttl = std::max(naive.Find(key)->ttl, ttl);
          pinned(key, std::move(*pin));
          break;
        }
        case 1: {
          auto pin = store.FindByContent(Key(key));
          ASSERT_EQ(static_cast<bool>(pin), naive.Find(key) != nullptr);
          if (pin) pinned(key, std::move(pin));
          break;
        }
        case 2: {
          auto pin = store.Find(names[key]);
          ASSERT_EQ(pin.ok(), naive.Find(key) != nullptr);
          if (pin.ok()) {
            pinned(key, std::move(*pin));
          } else {
            ASSERT_EQ(ReasonOf(pin.status()), naive.gone[key]);
          }
          break;
        }
        case 3: {
          if (dice(3) > 0) break;
          auto bytes = store.Delete(names[key]);
          ASSERT_EQ(bytes.ok(), naive.Find(key) != nullptr);
          if (!bytes.ok()) break;
          EXPECT_EQ(*bytes, naive.Find(key)->bytes);
          naive.Leave(static_cast<size_t>(naive.Find(key) - naive.listed.data()),
                      "DOCUMENT_DELETED");
          break;
        }
        default: {  // end a use
          if (pins.empty()) break;
          const size_t i = static_cast<size_t>(dice(static_cast<int>(pins.size())));
          const Held held = std::move(pins[i]);
          pins.erase(pins.begin() + static_cast<int64_t>(i));
          EXPECT_EQ(held.pin->bytes(), held.bytes);
          NaiveStore::Document* d = naive.Find(held.key);
          if (d != nullptr && d->bytes == held.bytes) {
            if (--d->pins == 0) d->last_used = clock.now();
            break;
          }
          for (auto it = naive.zombies.begin(); it != naive.zombies.end(); ++it) {
            if (it->key != held.key || it->bytes != held.bytes) continue;
            if (--it->pins == 0) naive.zombies.erase(it);
            break;
          }
        }
      }
      if (dice(2) == 0) continue;  // so that the store finds expired documents by itself, too
      store.Sweep();
      const DocumentStoreStats stats = store.stats();
      ASSERT_EQ(stats.held.total(), naive.Held()) << "seed " << seed << " step " << step;
      ASSERT_LE(stats.held.total(), stats.budget_bytes);
      ASSERT_EQ(stats.reserved_bytes, 0);
      std::vector<std::string> expected;
      for (const auto& d : naive.listed) expected.push_back(names[d.key]);
      ASSERT_EQ(Names(store), expected);
    }
    EXPECT_EQ(store.stats().evicted, naive.count["DOCUMENT_EVICTED"]);
    EXPECT_EQ(store.stats().expired, naive.count["DOCUMENT_EXPIRED"]);
    EXPECT_GT(store.stats().evicted, 0);
    EXPECT_GT(store.stats().expired, 0);
    pins.clear();
    for (const std::string& name : Names(store)) ASSERT_TRUE(store.Delete(name).ok());
    EXPECT_EQ(store.stats().held.total(), 0);
  }
}

TEST(DocumentStore, ManyThreadsAtOnce) {
  DocumentStoreOptions options;
  options.budget_bytes = 50'000;
  options.instance = "me1";
  DocumentStore store(options);
  std::atomic<int64_t> refused{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      std::vector<DocumentStore::Pin> pins;
      std::string name, next;
      for (int i = 0; i < 2000; ++i) {
        const int key = static_cast<int>(random() % 20);
        const int64_t bytes = 1000 + 400 * key;
        DocumentStore::Pin pin = store.FindByContent(Key(key));
        if (!pin) {
          auto reservation = store.Reserve(bytes);
          if (reservation.ok()) {
            auto added = store.Add(Key(key), Sized(bytes),
                                   random() % 4 == 0 ? absl::Milliseconds(1) : absl::Seconds(5),
                                   std::move(*reservation));
            ASSERT_TRUE(added.ok());
            pin = std::move(*added);
          } else {
            refused.fetch_add(1);
          }
        }
        if (pin) {
          ASSERT_EQ(pin->bytes(), bytes) << "what is pinned is not freed";
          name = pin.name();
          pins.push_back(std::move(pin));
        }
        if (random() % 3 == 0) pins.clear();
        if (random() % 16 == 0) store.Delete(name).status().IgnoreError();
        if (random() % 16 == 0) store.Sweep();
        if (random() % 16 == 0) {
          ASSERT_TRUE(store.List(5, "", &next).ok());
        }
        const DocumentStoreStats stats = store.stats();
        ASSERT_LE(stats.held.total() + stats.reserved_bytes, stats.budget_bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& name : Names(store)) ASSERT_TRUE(store.Delete(name).ok());
  const DocumentStoreStats stats = store.stats();
  EXPECT_EQ(stats.held.total(), 0);
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_EQ(stats.documents, 0);
  EXPECT_EQ(stats.added, stats.evicted + stats.expired + stats.deleted);
}

}  // namespace
}  // namespace longdoc::testing
