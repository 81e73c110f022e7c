#include "engine/memory_pool.h"

#include <cstring>

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

}  // namespace
}  // namespace longdoc
