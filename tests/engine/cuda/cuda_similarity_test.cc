// Late interaction on the device: token vectors that were never on the host, scores as the CPU has
// them.
#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <utility>
#include <vector>

#include "engine/max_sim.h"
#include "engine/spill.h"
#include "kernels/cuda/gemm.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::CpuEngine;
using testing::EncodeOn;

std::vector<float> UnitFloats(uint64_t seed, int64_t rows, int64_t dim) {
  std::vector<float> values = testing::RandomFloats(seed, rows * dim, 1);
  for (int64_t r = 0; r < rows; ++r) {
    double norm = 0;
    for (int64_t c = 0; c < dim; ++c) norm += values[r * dim + c] * values[r * dim + c];
    for (int64_t c = 0; c < dim; ++c) values[r * dim + c] /= static_cast<float>(std::sqrt(norm));
  }
  return values;
}

// Token vectors on a backend, from the host's.
std::shared_ptr<const TokenVectors> Place(Backend& backend, std::vector<float> rows, int64_t dim) {
  const int64_t tokens = static_cast<int64_t>(rows.size()) / dim;
  auto vectors = TokenVectors::Allocate(backend.memory(), tokens, dim);
  const auto placed = backend.Place(rows.data(), static_cast<int64_t>(rows.size()) * 4);
  EXPECT_TRUE(vectors.ok() && placed.ok());
  kernels::UnitRowsArgs args;
  args.rows = tokens;
  args.dim = dim;
  args.in = placed->as<float>();
  args.out = (*vectors)->data();
  backend.UnitRows(args);
  return *vectors;
}

std::vector<Passage> SomePassages(int64_t tokens) {
  std::vector<Passage> passages;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    passages.emplace_back();
    passages.back().tokens = {begin, end};
  };
  for (int64_t at = 0; at < tokens; at += 50) add(at, std::min(at + 50, tokens));
  add(0, tokens);
  add(tokens - 1, tokens);
  add(5, std::min<int64_t>(200, tokens));
  add(5, std::min<int64_t>(200, tokens));  // ties with the one before, which comes first
  return passages;
}

using Results = std::vector<MaxSimResult>;

// All candidates in one pass, its steps in the order of their numbers or in the other one.
Results Score(Backend& backend, const std::shared_ptr<const TokenVectors>& document,
              const std::vector<Passage>& passages,
              const std::vector<std::vector<float>>& candidates, bool backwards = false) {
  std::vector<absl::StatusOr<MaxSimResult>> results(candidates.size());
  std::vector<std::unique_ptr<Work>> batch;
  for (size_t i = 0; i < candidates.size(); ++i) {
    MaxSimTask task;
    task.document = document;
    task.passages = passages;
    task.candidate = candidates[i];
    task.best_passages = static_cast<int64_t>(passages.size());
    task.cancellation = std::make_shared<CancellationToken>();
    task.on_done = [&results, i](absl::StatusOr<MaxSimResult> r) { results[i] = std::move(r); };
    auto work = MakeMaxSimWork(backend, std::move(task));
    EXPECT_TRUE(work.ok()) << work.status();
    batch.push_back(*std::move(work));
  }
  auto pass = batch[0]->MakePass(batch);
  EXPECT_TRUE(pass.ok()) << pass.status();
  WorkerScratch scratch(backend.scratch_memory());
  for (; !(*pass)->finished(); (*pass)->NextPhase()) {
    const int64_t steps = (*pass)->num_steps();
    for (int64_t i = 0; i < steps; ++i) {
      EXPECT_TRUE((*pass)->RunStep(backwards ? steps - 1 - i : i, scratch).ok());
    }
  }
  ByteReservation reservation;
  batch[0]->Collect(batch, **pass, absl::OkStatus(), reservation);
  Results out;
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i]->Done(absl::OkStatus(), {});
    EXPECT_TRUE(results[i].ok()) << results[i].status();
    out.push_back(results[i].ok() ? *results[i] : MaxSimResult());
  }
  return out;
}

bool Same(const MaxSimResult& a, const MaxSimResult& b) {
  return a.score == b.score &&
         std::equal(a.passages.begin(), a.passages.end(), b.passages.begin(), b.passages.end(),
                    [](const PassageSimilarity& x, const PassageSimilarity& y) {
                      return x.passage == y.passage && x.score == y.score;
                    });
}

// By passage.
std::vector<double> Scores(const MaxSimResult& result) {
  std::vector<double> scores(result.passages.size());
  for (const PassageSimilarity& p : result.passages) scores[p.passage] = p.score;
  return scores;
}

std::unique_ptr<Backend> Cuda(int64_t token_tile, int64_t memory_bytes = 0) {
  CudaOptions options;
  options.token_tile = token_tile;
  options.memory_bytes = memory_bytes;
  auto backend = MakeCudaBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  (*backend)->InitWorkerThread();
  return *std::move(backend);
}

struct Shape {
  int64_t tokens, dim;
  std::vector<int64_t> candidates;
};

TEST(CudaMaxSim, AgreesWithTheCpu) {
  const auto cpu = MakeCpuBackend(DType::kF32, 1);
  for (const Shape& shape :
       {Shape{1, 16, {1}}, Shape{64, 48, {3, 65}}, Shape{300, 64, {7, 1, 40}},
        Shape{129, 16, {1000, 24, 2}}}) {  // the last: more columns than one product takes
    const std::vector<float> document = UnitFloats(1, shape.tokens, shape.dim);
    std::vector<std::vector<float>> candidates;
    for (const int64_t rows : shape.candidates) {
      candidates.push_back(UnitFloats(2 + candidates.size(), rows, shape.dim));
    }
    const std::vector<Passage> passages = SomePassages(shape.tokens);
    const Results expected = Score(*cpu, Place(*cpu, document, shape.dim), passages, candidates);
    Results first;
    for (const int64_t tile : {int64_t{64}, int64_t{100}, int64_t{8192}}) {
      SCOPED_TRACE(tile);
      const auto cuda = Cuda(tile);
      const auto vectors = Place(*cuda, document, shape.dim);
      const Results results = Score(*cuda, vectors, passages, candidates);
      for (size_t i = 0; i < results.size(); ++i) {
        // Candidates are rounded to bf16, here alone.
        EXPECT_NEAR(results[i].score, expected[i].score, 0.004);
        const std::vector<double> a = Scores(results[i]), b = Scores(expected[i]);
        ASSERT_EQ(a.size(), b.size());
        for (size_t p = 0; p < a.size(); ++p) EXPECT_NEAR(a[p], b[p], 0.004) << p;
        EXPECT_EQ(results[i].score, a[(shape.tokens + 49) / 50]);
        // Alone, and with steps the other way round.
        EXPECT_TRUE(Same(Score(*cuda, vectors, passages, {candidates[i]})[0], results[i]));
      }
      const Results backwards = Score(*cuda, vectors, passages, candidates, true);
      for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(Same(backwards[i], results[i]));
      if (first.empty()) first = results;
      for (size_t i = 0; i < results.size(); ++i) {
        EXPECT_TRUE(Same(first[i], results[i])) << "tiles do not change maxima";
      }
    }
  }
}

TEST(CudaMaxSim, TiesGoToTheFirstPassage) {
  const auto cuda = Cuda(64);
  const std::vector<Passage> passages = SomePassages(300);
  const MaxSimResult result =
      Score(*cuda, Place(*cuda, UnitFloats(1, 300, 32), 32), passages, {UnitFloats(2, 9, 32)})[0];
  const auto at = [&](size_t passage) {
    return std::find_if(
        result.passages.begin(), result.passages.end(),
        [&](const PassageSimilarity& p) { return p.passage == static_cast<int32_t>(passage); });
  };
  const size_t n = passages.size();
  ASSERT_NE(at(n - 1), result.passages.end());
  EXPECT_EQ(at(n - 2)->score, at(n - 1)->score);
  EXPECT_LT(at(n - 2), at(n - 1));
}

// They move to the host with other documents, and score the same when they are back.
TEST(CudaMaxSim, TokenVectorsSpillAndReturn) {
  const auto cuda = Cuda(64, kernels::cuda::kGemmWorkspaceBytes + (int64_t{24} << 20));
  const auto document = Place(*cuda, UnitFloats(1, 200, 64), 64);
  cuda->spill()->Add(*document);
  const std::vector<Passage> passages = SomePassages(200);
  const auto score = [&] { return Score(*cuda, document, passages, {UnitFloats(2, 5, 64)})[0]; };
  const MaxSimResult before = score();
  EXPECT_EQ(cuda->spill()->stats().device_bytes, 200 * 64 * 2);
  ASSERT_TRUE(cuda->spill()->SpillOne());
  EXPECT_EQ(cuda->spill()->stats().host_bytes, 200 * 64 * 2);
  EXPECT_TRUE(Same(score(), before));
  EXPECT_EQ(cuda->spill()->stats().returned, 1);
  const auto use = cuda->spill()->Use(*document);
  ASSERT_TRUE(use.ok());
  EXPECT_FALSE(cuda->spill()->SpillOne()) << "what is in use stays";
}

// An encode leaves them on the device, of unit length, as the CPU has them.
TEST(CudaMaxSim, EncodesKeepTokenVectors) {
  const std::unique_ptr<Engine> cuda = testing::MakeEngine(testing::CudaOptions());
  const std::unique_ptr<Engine> cpu = CpuEngine();
  const auto encode = [](Engine& engine, const std::string& name) {
    const auto model = testing::LoadGolden(engine, name);
    EncodeTask task = testing::MakeTask(model, testing::SomeIds(150, 7));
    task.keep_token_vectors = true;
    EncodeResult result = EncodeOn(engine, std::move(task));
    EXPECT_EQ(result.token_vectors, nullptr);
    EXPECT_LE(result.stats.peak_bytes, result.stats.planned_bytes);
    return result;
  };
  const EncodeResult on_cuda = encode(*cuda, "b_h12_c192"), on_cpu = encode(*cpu, "b_h12_c192");
  ASSERT_NE(on_cuda.kept_token_vectors, nullptr);
  const TokenVectors &a = *on_cuda.kept_token_vectors, &b = *on_cpu.kept_token_vectors;
  ASSERT_EQ(a.tokens, 150);
  ASSERT_EQ(a.dimensions, b.dimensions);
  EXPECT_EQ(cuda->stats().decode.spill.device_bytes, a.bytes());
  EXPECT_EQ(cuda->stats().reserved_bytes, a.bytes()) << "counted while it is held";
  std::vector<float> wide[2];
  for (int i = 0; i < 2; ++i) {  // the emulated device's memory can be read here
    const uint16_t* bits = (i == 0 ? a : b).data();
    for (int64_t j = 0; j < a.tokens * a.dimensions; ++j) {
      const uint32_t word = static_cast<uint32_t>(bits[j]) << 16;
      wide[i].emplace_back();
      std::memcpy(&wide[i].back(), &word, sizeof(word));
    }
  }
  testing::ExpectSameDirections(wide[0].data(), wide[1].data(), a.tokens, a.dimensions, "token");
  for (int64_t t = 0; t < a.tokens; ++t) {
    double norm = 0;
    for (int64_t c = 0; c < a.dimensions; ++c) norm += std::pow(wide[0][t * a.dimensions + c], 2);
    EXPECT_NEAR(norm, 1, 0.01);
  }
}

}  // namespace
}  // namespace longdoc
