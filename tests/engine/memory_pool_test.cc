#include "engine/memory_pool.h"

#include <cstring>
#include <memory>
#include <new>

#include "gtest/gtest.h"

namespace longdoc {
namespace {

TEST(MemoryPool, CountsAndReuses) {
  MemoryPool pool(1 << 20);
  void* first = nullptr;
  {
    absl::StatusOr<Buffer> a = pool.Allocate(100000, false);
    ASSERT_TRUE(a.ok());
    first = a->data();
    std::memset(first, 0xff, 100000);
    EXPECT_EQ(pool.allocated_bytes(), 100000);
  }
  EXPECT_EQ(pool.allocated_bytes(), 0);
  EXPECT_GE(pool.retained_bytes(), 100000);
  absl::StatusOr<Buffer> b = pool.Allocate(99000, true);
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->data(), first);
  for (int i = 0; i < 99000; ++i) ASSERT_EQ(b->as<char>()[i], 0);
  EXPECT_EQ(pool.peak_bytes(), 100000);
}

TEST(MemoryPool, RetainsNoMoreThanAllowed) {
  MemoryPool pool(1 << 20);
  { absl::StatusOr<Buffer> big = pool.Allocate(16 << 20, false); }
  EXPECT_EQ(pool.retained_bytes(), 0);
  EXPECT_TRUE(pool.Allocate(0, true).ok());
  EXPECT_EQ(pool.Allocate(int64_t{1} << 60, false).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.allocated_bytes(), 0);
}

TEST(MemoryPool, BuffersMove) {
  MemoryPool pool(0);
  Buffer a = *pool.Allocate(10, false);
  Buffer b = std::move(a);
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_NE(b.data(), nullptr);
  b = Buffer();
  EXPECT_EQ(pool.allocated_bytes(), 0);
}

// A device of 1,000 bytes in blocks of 100, whose memory is not zero at first.
class SmallDevice final : public MemorySource {
 public:
  explicit SmallDevice(int64_t* mapped) : mapped_(mapped) {}
  int64_t Capacity(int64_t bytes) const override { return (bytes + 99) / 100 * 100; }
  void* Map(int64_t capacity) override {
    if (*mapped_ + capacity > 1000) return nullptr;
    *mapped_ += capacity;
    return std::memset(::operator new(capacity), 0xff, capacity);
  }
  void Unmap(void* data, int64_t capacity) override {
    *mapped_ -= capacity;
    ::operator delete(data);
  }
  void Zero(void* data, int64_t bytes) override { std::memset(data, 0, bytes); }
  bool fresh_is_zero() const override { return false; }
  const char* name() const override { return "device memory"; }

 private:
  int64_t* mapped_;
};

TEST(MemoryPool, KeepsItsLimitAndGivesUpWhatItKept) {
  int64_t mapped = 0;
  {
    MemoryPool pool(std::make_unique<SmallDevice>(&mapped),
                    {.retained_bytes = 1000, .limit_bytes = 800});
    absl::StatusOr<Buffer> zeroed = pool.Allocate(50, true);
    ASSERT_TRUE(zeroed.ok());
    for (int i = 0; i < 50; ++i) ASSERT_EQ(zeroed->as<char>()[i], 0);
    { absl::StatusOr<Buffer> kept = pool.Allocate(300, false); }
    EXPECT_EQ(pool.retained_bytes(), 300);
    EXPECT_EQ(mapped, 400);
    // 600 fit the limit only without the 300 that are kept.
    absl::StatusOr<Buffer> large = pool.Allocate(600, false);
    ASSERT_TRUE(large.ok()) << large.status();
    EXPECT_EQ(pool.retained_bytes(), 0);
    EXPECT_EQ(mapped, 700);
    const absl::Status refused = pool.Allocate(150, false).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(refused.message(), "200 bytes of device memory do not fit beside 700 of 800 bytes");
    EXPECT_TRUE(pool.Allocate(100, false).ok());
  }
  EXPECT_EQ(mapped, 0);
}

TEST(MemoryPool, TellsWhenTheSourceRefuses) {
  int64_t mapped = 0;
  MemoryPool pool(std::make_unique<SmallDevice>(&mapped), {.retained_bytes = 1000});
  absl::StatusOr<Buffer> most = pool.Allocate(900, false);
  ASSERT_TRUE(most.ok());
  EXPECT_EQ(pool.Allocate(200, false).status().message(),
            "the system refused 200 bytes of device memory");
  most->Reset();
  EXPECT_TRUE(pool.Allocate(200, false).ok());  // the 900 that were kept are given up
  EXPECT_EQ(pool.allocated_bytes(), 0);
}

TEST(MemoryPool, SlackBoundsWhatAKeptBlockWastes) {
  int64_t mapped = 0;
  MemoryPool pool(std::make_unique<SmallDevice>(&mapped), {.retained_bytes = 1000, .slack = 1});
  { absl::StatusOr<Buffer> block = pool.Allocate(400, false); }
  { absl::StatusOr<Buffer> smaller = pool.Allocate(300, false); }
  EXPECT_EQ(pool.retained_bytes(), 700);
  { absl::StatusOr<Buffer> same = pool.Allocate(350, false); }
  EXPECT_EQ(pool.retained_bytes(), 700);
}

}  // namespace
}  // namespace longdoc
