// Ids that are copied while their document arrives: they are the document's, counted, and freed.
#include "engine/arriving_ids.h"

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/document.h"
#include "engine/encode_pass.h"
#include "engine/scheduler.h"
#include "gtest/gtest.h"

namespace longdoc {
namespace {

constexpr int64_t kPiece = ArrivingIds::kPieceIds, kAtOnce = ArrivingIds::kCopiedAtOnce;

EngineOptions Options(int64_t budget) {
  EngineOptions options;
  options.num_threads = 2;
  options.memory_budget_bytes = budget;
  return options;
}

// Host memory stands for the device's.
class ArrivingIdsTest : public ::testing::Test {
 protected:
  static constexpr int64_t kBudget = int64_t{64} * 4 * 4 * kPiece;  // room for four pieces

  std::shared_ptr<ArrivingIds> New() {
    return std::make_shared<ArrivingIds>(*backend_, *scheduler_);
  }
  static std::vector<int32_t> Range(int64_t begin, int64_t end) {
    std::vector<int32_t> ids;
    for (int64_t i = begin; i < end; ++i) ids.push_back(static_cast<int32_t>(7 * i + 1));
    return ids;
  }
  static bool Wait(const std::function<bool()>& condition) {
    for (int i = 0; i < 10000 && !condition(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return condition();
  }
  int64_t reserved() const {
    EngineStats stats;
    scheduler_->AddTo(&stats);
    return stats.reserved_bytes;
  }
  // All that was asked of the workers so far has been done.
  void WaitForWorkers() {
    for (int i = 0; i < 2; ++i) {
      std::promise<void> done;
      scheduler_->RunSoon([&done] { done.set_value(); });
      done.get_future().get();
    }
  }

  std::unique_ptr<Backend> backend_ = MakeCpuBackend(DType::kF32, 2);
  std::unique_ptr<Scheduler> scheduler_ = std::make_unique<Scheduler>(*backend_, Options(kBudget));
};

TEST_F(ArrivingIdsTest, AreCopiedInPiecesAndMovedOnce) {
  auto ids = New();
  const std::vector<int32_t> all = Range(0, 2 * kPiece + 5000);
  for (int64_t begin = 0; begin < static_cast<int64_t>(all.size()); begin += 3000) {
    ids->Append(absl::MakeConstSpan(all).subspan(begin, 3000));
  }
  const int64_t size = static_cast<int64_t>(all.size());
  EXPECT_EQ(ids->appended(), size);
  ASSERT_TRUE(Wait([&] { return ids->copied() > size - kAtOnce; })) << ids->copied();
  EXPECT_EQ(reserved(), 3 * 4 * kPiece);
  std::vector<int32_t> device(all.size(), -1);
  const int64_t moved = ids->MoveTo(device.data(), size);
  ASSERT_GT(moved, size - kAtOnce);
  EXPECT_TRUE(std::equal(device.begin(), device.begin() + moved, all.begin()));
  EXPECT_TRUE(std::all_of(device.begin() + moved, device.end(), [](int32_t id) { return id < 0; }));
  EXPECT_EQ(reserved(), 0);
  EXPECT_EQ(backend_->memory().allocated_bytes(), 0);
  // It is over now.
  ids->Append(all);
  WaitForWorkers();
  EXPECT_EQ(ids->MoveTo(device.data(), size), 0);
}

TEST_F(ArrivingIdsTest, AFewAreNotWorthACopy) {
  auto ids = New();
  ids->Append(Range(0, kAtOnce - 1));
  WaitForWorkers();
  EXPECT_EQ(ids->copied(), 0);
  EXPECT_EQ(reserved(), 0);
  ids->Append(Range(0, 1));
  EXPECT_TRUE(Wait([&] { return ids->copied() == kAtOnce; }));
}

TEST_F(ArrivingIdsTest, ADocumentThatIsGivenUpFreesThem) {
  auto ids = New();
  ids->Append(Range(0, kPiece));
  ASSERT_TRUE(Wait([&] { return ids->copied() == kPiece; }));
  EXPECT_EQ(reserved(), 4 * kPiece);
  EXPECT_GT(backend_->memory().allocated_bytes(), 0);
  WaitForWorkers();
  ids.reset();
  EXPECT_EQ(reserved(), 0);
  EXPECT_EQ(backend_->memory().allocated_bytes(), 0);
}

TEST_F(ArrivingIdsTest, HoldNoMoreThanTheirShareOfTheBudget) {
  auto a = New(), b = New();
  a->Append(Range(0, 3 * kPiece));
  ASSERT_TRUE(Wait([&] { return a->copied() == 3 * kPiece; }));
  b->Append(Range(0, 2 * kPiece));
  ASSERT_TRUE(Wait([&] { return b->copied() == kPiece; }));
  WaitForWorkers();
  EXPECT_EQ(b->copied(), kPiece) << "the fifth piece is beyond the share";
  EXPECT_EQ(reserved(), 4 * 4 * kPiece);
  a.reset();
  b->Append(Range(0, kPiece));
  WaitForWorkers();
  std::vector<int32_t> device(3 * kPiece);
  EXPECT_EQ(b->MoveTo(device.data(), 3 * kPiece), kPiece)
      << "ids beyond a gap are not the document's first";
}

TEST_F(ArrivingIdsTest, TheEndOfTheEngineDropsWhatIsAsked) {
  auto ids = New();
  scheduler_->Stop();
  ids->Append(Range(0, kPiece));
  EXPECT_EQ(ids->copied(), 0);
  EXPECT_EQ(ids.use_count(), 1);
}

TEST_F(ArrivingIdsTest, APassHasThemInTheirPlaces) {
  // In the middle and at the end of a batch; the second one has all its ids there already.
  const std::vector<int32_t> a = Range(0, 10), b = Range(100, 100 + kAtOnce),
                             c = Range(9000, 15000);
  auto first_of_b = New(), first_of_c = New();
  first_of_b->Append(b);
  first_of_c->Append(absl::MakeConstSpan(c).first(5000));
  ASSERT_TRUE(
      Wait([&] { return first_of_b->copied() == kAtOnce && first_of_c->copied() == 5000; }));
  std::vector<PassSequence> sequences(3);
  sequences[0].ids = a;
  sequences[1].ids = b;
  sequences[1].arrived = first_of_b.get();
  sequences[2].ids = c;
  sequences[2].arrived = first_of_c.get();
  const PassPacking packing(sequences);
  const absl::StatusOr<Placed> placed = PlaceIds(*backend_, packing);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ(std::vector<int32_t>(placed->as<int32_t>(), placed->as<int32_t>() + packing.tokens()),
            packing.ids);
  EXPECT_EQ(placed->copy.bytes(), 4 * packing.tokens());
}

// Whatever way the text is cut, and however much of it is left out.
TEST_F(ArrivingIdsTest, AreWhatTheBuilderEndsWith) {
  std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (char letter = 'a'; letter <= 'z'; ++letter) vocab += std::string(1, letter) + "\n";
  const auto tokenizer = ParseVocabTxt(vocab);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::mt19937 random(3);
  int with_ids = 0, without = 0;
  for (int round = 0; round < 60; ++round) {
    const bool text = round % 3 > 0;
    const auto overflow = round % 2 == 0 ? Overflow::kTruncateEnd : Overflow::kTruncateStart;
    DocumentLimits limits;
    limits.max_tokens = 15000;
    auto builder = DocumentBuilder::Create(**tokenizer, {}, overflow, limits);
    ASSERT_TRUE(builder.ok()) << builder.status();
    (*builder)->SendIdsTo(New());
    const int64_t tokens = std::uniform_int_distribution<int64_t>(5000, 25000)(random);
    for (int64_t sent = 0; sent < tokens;) {
      const int64_t part =
          std::min(tokens - sent, std::uniform_int_distribution<int64_t>(1, 4000)(random));
      std::string letters;
      for (int64_t i = sent; i < sent + part; ++i) {
        letters += {static_cast<char>('a' + i * i % 26), ' '};
      }
      ASSERT_TRUE(
          (text ? (*builder)->AppendText(letters) : (*builder)->AppendIds(Range(sent, sent + part)))
              .ok());
      sent += part;
    }
    const auto document = (*builder)->Finish();
    ASSERT_TRUE(document.ok()) << document.status();
    if (document->arrived == nullptr) {
      ++without;
      EXPECT_TRUE(overflow == Overflow::kTruncateStart && document->truncated);
      continue;
    }
    ++with_ids;
    ArrivingIds& arrived = *document->arrived;
    WaitForWorkers();
    const int64_t size = static_cast<int64_t>(document->ids.size());
    ASSERT_LE(arrived.appended(), size);
    std::vector<int32_t> first(document->ids.size());
    first.resize(static_cast<size_t>(arrived.MoveTo(first.data(), size)));
    // All but what is not worth a copy; of a cut document all that was certain before the cut.
    EXPECT_GT(static_cast<int64_t>(first.size()), document->truncated ? 0 : size - 2 * kAtOnce);
    EXPECT_TRUE(std::equal(first.begin(), first.end(), document->ids.begin()));
  }
  EXPECT_GT(with_ids, 20);
  EXPECT_GT(without, 5);
}

}  // namespace
}  // namespace longdoc
