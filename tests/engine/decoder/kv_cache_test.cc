// Pages are shared, copied on write, counted and bounded.
#include "engine/kv_cache.h"

#include <cstring>
#include <optional>

#include "gtest/gtest.h"

namespace longdoc {
namespace {

using kernels::kKeyBlock;

class KvCacheTest : public ::testing::Test {
 protected:
  const KvShape shape_{2, 16, DType::kF32};
  MemoryPool memory_{0};
  KvPagePool pool_{memory_, 10 * shape_.page_bytes()};

  KvSequence Make(int64_t tokens) {
    KvSequence sequence(pool_, shape_);
    EXPECT_TRUE(sequence.Extend(tokens).ok());
    return sequence;
  }
  static char& First(const KvSequence& sequence, int64_t layer, int64_t position) {
    return *static_cast<char*>(sequence.Block(layer, position));
  }
};

TEST_F(KvCacheTest, PagesHoldEveryLayersBlocks) {
  EXPECT_EQ(kKvPageTokens, 128);
  EXPECT_EQ(shape_.page_bytes(), 2 * 2 * 2 * kKeyBlock * 16 * 4);
  KvSequence sequence = Make(kKvPageTokens + 1);
  EXPECT_EQ(sequence.pages(), 2);
  EXPECT_EQ(pool_.bytes(), 2 * shape_.page_bytes());
  EXPECT_EQ(memory_.allocated_bytes(), pool_.bytes());
  const int64_t block = kernels::MqaBlockBytes(16, DType::kF32);
  const char* base = &First(sequence, 0, 0);
  EXPECT_EQ(&First(sequence, 0, kKeyBlock - 1), base);
  EXPECT_EQ(&First(sequence, 0, kKeyBlock), base + block);
  EXPECT_EQ(&First(sequence, 1, 0), base + 2 * block);
  const kernels::MqaKeys keys = sequence.Keys(1);
  EXPECT_EQ(keys.keys, kKvPageTokens + 1);
  EXPECT_EQ(keys.page_blocks, 2);
  EXPECT_EQ(keys.pages[0], &First(sequence, 1, 0));
  EXPECT_EQ(keys.pages[1], &First(sequence, 1, kKvPageTokens));
}

TEST_F(KvCacheTest, ReusedPagesAreZeroAgain) {
  MemoryPool keeping(1 << 30);
  KvPagePool pool(keeping, 1 << 30);
  for (int round = 0; round < 2; ++round) {
    KvSequence sequence(pool, shape_);
    ASSERT_TRUE(sequence.Extend(1).ok());
    char* page = &First(sequence, 0, 0);
    for (int64_t i = 0; i < shape_.page_bytes(); ++i) ASSERT_EQ(page[i], 0) << round << " " << i;
    std::memset(page, 7, shape_.page_bytes());
  }
  EXPECT_GT(keeping.retained_bytes(), 0);
}

TEST_F(KvCacheTest, GrowsPageByPage) {
  KvSequence sequence(pool_, shape_);
  for (int64_t n = 1; n <= 3 * kKvPageTokens; ++n) {
    ASSERT_TRUE(sequence.Extend(1).ok());
    ASSERT_EQ(sequence.tokens(), n);
    ASSERT_EQ(sequence.pages(), KvPages(n));
    ASSERT_EQ(pool_.bytes(), KvPages(n) * shape_.page_bytes());
  }
  ASSERT_TRUE(sequence.Extend(0).ok());
  EXPECT_EQ(sequence.pages(), 3);
}

TEST_F(KvCacheTest, SharedPrefixCountsOnceAndLivesAsLongAsAnyHolder) {
  std::optional<KvSequence> owner = Make(3 * kKvPageTokens);
  KvSequence sharer(pool_, shape_);
  sharer.SharePrefix(*owner, 2);
  EXPECT_EQ(sharer.tokens(), 2 * kKvPageTokens);
  EXPECT_EQ(pool_.bytes(), 3 * shape_.page_bytes());
  EXPECT_EQ(&First(sharer, 1, kKvPageTokens), &First(*owner, 1, kKvPageTokens));
  // Full pages: growing needs no copy.
  ASSERT_TRUE(sharer.Extend(5).ok());
  EXPECT_EQ(pool_.bytes(), 4 * shape_.page_bytes());
  EXPECT_NE(&First(sharer, 0, 2 * kKvPageTokens), &First(*owner, 0, 2 * kKvPageTokens));
  First(*owner, 0, 0) = 42;
  owner.reset();
  EXPECT_EQ(pool_.bytes(), 3 * shape_.page_bytes());
  EXPECT_EQ(First(sharer, 0, 0), 42);
}

TEST_F(KvCacheTest, ForkCopiesThePartialPageOnWriteAndNothingElse) {
  KvSequence first = Make(kKvPageTokens + 10);
  First(first, 0, kKvPageTokens) = 1;
  KvSequence second = first.Fork();
  EXPECT_EQ(pool_.bytes(), 2 * shape_.page_bytes());
  ASSERT_TRUE(second.Extend(1).ok());
  EXPECT_EQ(pool_.bytes(), 3 * shape_.page_bytes());
  EXPECT_EQ(&First(second, 0, 0), &First(first, 0, 0));
  ASSERT_NE(&First(second, 0, kKvPageTokens), &First(first, 0, kKvPageTokens));
  EXPECT_EQ(First(second, 0, kKvPageTokens), 1);
  First(second, 0, kKvPageTokens) = 2;
  EXPECT_EQ(First(first, 0, kKvPageTokens), 1);
  // The page is the first one's alone now: no second copy.
  ASSERT_TRUE(first.Extend(1).ok());
  EXPECT_EQ(pool_.bytes(), 3 * shape_.page_bytes());
  EXPECT_EQ(second.Keys(1).pages[1], &First(second, 1, kKvPageTokens));
}

TEST_F(KvCacheTest, BeyondTheLimitNothingIsTaken) {
  KvSequence big = Make(9 * kKvPageTokens);
  KvSequence other = Make(1);
  const absl::Status full = other.Extend(kKvPageTokens);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(other.tokens(), 1);
  EXPECT_EQ(pool_.bytes(), pool_.limit_bytes());
  KvSequence fork = other.Fork();
  EXPECT_FALSE(fork.Extend(1).ok());  // the copy has no room
  EXPECT_EQ(fork.tokens(), 1);
  big = KvSequence(pool_, shape_);
  EXPECT_EQ(pool_.bytes(), shape_.page_bytes());
  EXPECT_TRUE(fork.Extend(1).ok());
}

}  // namespace
}  // namespace longdoc
