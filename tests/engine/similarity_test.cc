#include "engine/similarity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "engine/max_sim.h"

namespace longdoc {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FromBf16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

std::vector<float> UnitRows(int64_t rows, int64_t dim, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(rows * dim));
  for (int64_t r = 0; r < rows; ++r) {
    double norm = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const float v = out[r * dim + c] = normal(random);
      norm += static_cast<double>(v) * v;
    }
    for (int64_t c = 0; c < dim; ++c) out[r * dim + c] /= static_cast<float>(std::sqrt(norm));
  }
  return out;
}

std::vector<uint16_t> ToBf16(const std::vector<float>& in) {
  std::vector<uint16_t> out(in.size());
  for (size_t i = 0; i < in.size(); ++i) out[i] = ToBf16(in[i]);
  return out;
}

// Of the host; the memory lives as long as the program.
std::shared_ptr<const TokenVectors> Tokens(const std::vector<uint16_t>& bits, int64_t dim) {
  static MemoryPool& pool = *new MemoryPool(0);
  auto vectors = TokenVectors::Allocate(pool, static_cast<int64_t>(bits.size()) / dim, dim);
  EXPECT_TRUE(vectors.ok()) << vectors.status();
  std::copy(bits.begin(), bits.end(), (*vectors)->data());
  return *vectors;
}

// The definition: two loops.
double NaiveMaxSim(const std::vector<float>& candidate, const std::vector<uint16_t>& document,
                   int64_t dim, int64_t begin, int64_t end) {
  const int64_t tokens = static_cast<int64_t>(candidate.size()) / dim;
  double sum = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    double best = -std::numeric_limits<double>::infinity();
    for (int64_t j = begin; j < end; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < dim; ++c) {
        dot += static_cast<double>(candidate[i * dim + c]) * FromBf16(document[j * dim + c]);
      }
      best = std::max(best, dot);
    }
    sum += best;
  }
  return sum / static_cast<double>(tokens);
}

// What the scheduler does with a batch, on one thread.
void RunBatch(std::vector<std::unique_ptr<Work>>& batch, bool backwards) {
  auto pass = batch[0]->MakePass(batch);
  absl::Status status = pass.status();
  if (status.ok()) {
    MemoryPool pool(0);
    WorkerScratch scratch(pool);
    for (; !(*pass)->finished(); (*pass)->NextPhase()) {
      const int64_t steps = (*pass)->num_steps();
      EXPECT_GT(steps, 0);
      for (int64_t i = 0; i < steps; ++i) {
        status.Update((*pass)->RunStep(backwards ? steps - 1 - i : i, scratch));
      }
    }
    ByteReservation reservation;
    batch[0]->Collect(batch, **pass, status, reservation);
  }
  for (auto& work : batch) work->Done(status, {});
}

struct Case {
  int64_t tokens, dim;
  std::vector<int64_t> candidates;  // tokens of each
};

class MaxSim : public ::testing::TestWithParam<Case> {};

TEST_P(MaxSim, EqualsTheTwoLoops) {
  const Case& c = GetParam();
  std::mt19937_64 random(7);
  const std::vector<uint16_t> document = ToBf16(UnitRows(c.tokens, c.dim, random));
  std::vector<Passage> passages;
  for (int64_t at = 0; at < c.tokens; at += 100) {  // borders on no block's
    passages.push_back({0, 0, {at, std::min(at + 100, c.tokens)}, {}});
  }
  passages.push_back({1, 0, {0, c.tokens}, {}});  // overlaps all; whole blocks inside
  passages.push_back({1, 1, {c.tokens - 1, c.tokens}, {}});
  passages.push_back({1, 2, {0, std::min<int64_t>(256, c.tokens)}, {}});
  const auto tokens = Tokens(document, c.dim);
  for (auto make :
       {+[] { return MakeCpuBackend(DType::kF32, 1); }, +[] { return MakeReferenceBackend(1); }}) {
    auto backend = make();
    backend->InitWorkerThread();
    std::vector<std::vector<float>> candidates;
    std::vector<absl::StatusOr<MaxSimResult>> results(c.candidates.size());
    std::vector<std::unique_ptr<Work>> batch;
    for (size_t i = 0; i < c.candidates.size(); ++i) {
      candidates.push_back(UnitRows(c.candidates[i], c.dim, random));
      MaxSimTask task;
      task.document = tokens;
      task.passages = passages;
      task.candidate = candidates.back();
      task.best_passages = static_cast<int64_t>(passages.size());
      task.cancellation = std::make_shared<CancellationToken>();
      task.on_done = [&results, i](absl::StatusOr<MaxSimResult> result) {
        results[i] = std::move(result);
      };
      auto work = MakeMaxSimWork(*backend, std::move(task));
      ASSERT_TRUE(work.ok()) << work.status();
      batch.push_back(std::move(*work));
      EXPECT_TRUE(batch.back()->CanJoin(*batch[0]));
    }
    RunBatch(batch, /*backwards=*/backend->info().name == "cpu");
    for (size_t i = 0; i < results.size(); ++i) {
      ASSERT_TRUE(results[i].ok()) << results[i].status();
      EXPECT_NEAR(results[i]->score, NaiveMaxSim(candidates[i], document, c.dim, 0, c.tokens),
                  1e-5);
      ASSERT_EQ(results[i]->passages.size(), passages.size());
      double before = std::numeric_limits<double>::infinity();
      std::vector<bool> seen(passages.size());
      for (const PassageSimilarity& p : results[i]->passages) {
        const TokenSpan& span = passages[p.passage].tokens;
        EXPECT_NEAR(p.score, NaiveMaxSim(candidates[i], document, c.dim, span.begin, span.end),
                    1e-5);
        EXPECT_LE(p.score, before);
        before = p.score;
        EXPECT_FALSE(seen[p.passage]);
        seen[p.passage] = true;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MaxSim,
                         ::testing::Values(Case{1, 16, {1}}, Case{255, 32, {3, 1}},
                                           Case{256, 64, {5}}, Case{257, 64, {2, 7}},
                                           Case{1500, 48, {33, 1, 16}},
                                           // More columns than one product takes.
                                           Case{300, 16, {1000, 24, 1, 1100}}));

TEST(MaxSim, RefusesWhatDoesNotFit) {
  auto backend = MakeReferenceBackend(1);
  const std::vector<uint16_t> document(32);
  const std::vector<Passage> outside = {{0, 0, {1, 3}, {}}};
  const auto make = [&](std::vector<float> candidate, int64_t dim, bool passages) {
    MaxSimTask task;
    task.document = Tokens(document, dim);
    if (passages) task.passages = outside;
    task.candidate = std::move(candidate);
    return MakeMaxSimWork(*backend, std::move(task)).status().code();
  };
  EXPECT_EQ(make(std::vector<float>(16), 16, false), absl::StatusCode::kOk);
  EXPECT_EQ(make({}, 16, false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(make(std::vector<float>(17), 16, false), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(make(std::vector<float>(16), 16, true), absl::StatusCode::kInvalidArgument);
}

TEST(MaxSim, WhatIsNoNumberIsAnErrorOfItsCandidateAlone) {
  auto backend = MakeReferenceBackend(1);
  std::mt19937_64 random(1);
  const auto tokens = Tokens(ToBf16(UnitRows(3, 16, random)), 16);
  absl::StatusOr<MaxSimResult> results[2];
  std::vector<std::unique_ptr<Work>> batch;
  for (int i = 0; i < 2; ++i) {
    MaxSimTask task;
    task.document = tokens;
    task.candidate = UnitRows(2, 16, random);
    if (i == 0) task.candidate[3] = std::numeric_limits<float>::quiet_NaN();
    task.on_done = [&results, i](absl::StatusOr<MaxSimResult> r) { results[i] = std::move(r); };
    batch.push_back(std::move(*MakeMaxSimWork(*backend, std::move(task))));
  }
  RunBatch(batch, false);
  EXPECT_EQ(results[0].status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(results[1].ok());
}

TEST(MaxSim, AFailedPassIsEverybodysStatus) {
  auto backend = MakeReferenceBackend(1);
  std::mt19937_64 random(1);
  const auto tokens = Tokens(ToBf16(UnitRows(3, 16, random)), 16);
  absl::StatusOr<MaxSimResult> result;
  MaxSimTask task;
  task.document = tokens;
  task.candidate = UnitRows(2, 16, random);
  task.on_done = [&result](absl::StatusOr<MaxSimResult> r) { result = std::move(r); };
  auto work = MakeMaxSimWork(*backend, std::move(task));
  (*work)->Done(absl::CancelledError("gone"), {});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
}

TEST(MaxSim, MuchWorkGoesToTheLongLane) {
  auto backend = MakeReferenceBackend(1);
  const auto tokens = Tokens(std::vector<uint16_t>(50'000 * 256), 256);
  for (const auto& [rows, lane] : {std::pair(16, Lane::kShort), std::pair(4096, Lane::kLong)}) {
    MaxSimTask task;
    task.document = tokens;
    task.candidate.resize(static_cast<size_t>(rows) * 256);
    auto work = MakeMaxSimWork(*backend, std::move(task));
    ASSERT_TRUE(work.ok());
    EXPECT_EQ((*work)->needs().lane, lane);
    EXPECT_EQ((*work)->needs().tokens, rows);
    EXPECT_GT((*work)->needs().peak_bytes, 0);
  }
}

TEST(Cosine, OfKnownVectors) {
  const std::vector<float> x = {3, 4}, y = {4, -3}, z = {0, 0}, w = {6, 8};
  EXPECT_DOUBLE_EQ(CosineSimilarity(x, w), 1);
  EXPECT_DOUBLE_EQ(CosineSimilarity(x, y), 0);
  EXPECT_DOUBLE_EQ(CosineSimilarity(x, z), 0);
  EXPECT_TRUE(std::isnan(CosineSimilarity(x, std::vector<float>{1, NAN})));
}

TEST(SelectBest, TiesGoToTheLowerIndexAndNaNComesLast) {
  const std::vector<double> scores = {1, kNaN, 3, 1, 3, kNaN, 2};
  std::vector<int32_t> order;
  for (const PassageSimilarity& p : SelectBest(scores, 100)) order.push_back(p.passage);
  EXPECT_THAT(order, ::testing::ElementsAre(2, 4, 6, 0, 3, 1, 5));
  EXPECT_EQ(SelectBest(scores, 2).size(), 2u);
  EXPECT_EQ(SelectBest(scores, 2)[1].passage, 4);
  EXPECT_TRUE(SelectBest(scores, 0).empty());
  EXPECT_TRUE(SelectBest({}, 3).empty());
}

TEST(BestPassages, AreCosinesOfTheRows) {
  std::mt19937_64 random(3);
  const std::vector<float> rows = UnitRows(20, 24, random);
  std::vector<float> candidate = UnitRows(1, 24, random);
  for (float& v : candidate) v *= 17;  // of any length
  const auto best = BestPassages(candidate, ToBf16(rows), 20);
  ASSERT_EQ(best.size(), 20u);
  for (const PassageSimilarity& p : best) {
    const absl::Span<const float> row(&rows[p.passage * 24], 24);
    EXPECT_NEAR(p.score, CosineSimilarity(candidate, row), 4e-3);  // rounded to bf16
    EXPECT_GE(best[0].score, p.score);
  }
}

}  // namespace
}  // namespace longdoc
