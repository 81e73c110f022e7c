// Documents move to host memory when the device is full, and come back as they were.
#include <memory>
#include <string>
#include <vector>

#include "engine/spill.h"
#include "kernels/cuda/gemm.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::RandomTokens;
using testing::ScoreAll;

class CudaSpill : public ::testing::Test {
 protected:
  CudaSpill() {
    CudaOptions options;
    options.token_tile = 64;
    options.memory_bytes = kernels::cuda::kGemmWorkspaceBytes + (int64_t{24} << 20);
    backend_ = *MakeCudaBackend(options);
    backend_->InitWorkerThread();
    decoder_ = std::make_unique<testing::RandomDecoder>(*backend_, config_, 5);
  }
  std::shared_ptr<const CrossKv> AddDocument(uint64_t seed) {
    auto document = testing::RandomDocument(*backend_, config_, 200, DType::kBF16, seed);
    backend_->spill()->Add(*document);
    return document;
  }
  std::vector<float> Score(const std::shared_ptr<const CrossKv>& document) {
    testing::ScoringSetup setup;
    setup.backend = backend_.get();
    setup.weights = decoder_->weights.get();
    setup.document = document;
    return ScoreAll(setup, {RandomTokens(4, 9, config_.vocab_size)})[0];
  }
  // Takes memory until `enough` or none is left; what was taken, and the last answer.
  template <typename Enough>
  absl::Status Fill(std::vector<Buffer>* filler, Enough enough) {
    while (!enough()) {
      absl::StatusOr<Buffer> more =
          backend_->memory().Allocate(8 << 10, false);  // less than a document
      if (!more.ok()) return more.status();
      filler->push_back(*std::move(more));
    }
    return absl::OkStatus();
  }
  SpillStats stats() { return backend_->spill()->stats(); }

  const Colt5Config config_ = testing::SmallDecoderConfig();
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<testing::RandomDecoder> decoder_;
};

TEST_F(CudaSpill, TheLeastRecentlyUsedGoesAndComesBackAsItWas) {
  auto a = AddDocument(1), b = AddDocument(2);
  EXPECT_EQ(stats().device_bytes, a->bytes() + b->bytes());
  const std::vector<float> of_b = Score(b), of_a = Score(a);  // b is the one to go
  EXPECT_NE(of_a, of_b);
  std::vector<Buffer> filler;
  ASSERT_TRUE(Fill(&filler, [&] { return stats().spilled > 0; }).ok());
  EXPECT_EQ(stats().device_bytes, a->bytes());
  EXPECT_EQ(stats().host_bytes, b->bytes());
  filler.clear();
  EXPECT_EQ(Score(b), of_b);
  EXPECT_EQ(stats().returned, 1);
  EXPECT_EQ(stats().host_bytes, 0);

  // Now a is the one; but what is in use stays, and then there is no more memory.
  absl::StatusOr<CrossKvUse> use = backend_->spill()->Use(*a);
  ASSERT_TRUE(use.ok()) << use.status();
  const absl::Status full = Fill(&filler, [] { return false; });
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(stats().spilled, 2);
  EXPECT_EQ(stats().device_bytes, a->bytes());
  // With nothing to be had, a document that is used must wait outside.
  absl::StatusOr<Buffer> rest = backend_->memory().Allocate(1024, false);
  std::vector<Buffer> crumbs;
  while (rest.ok()) {
    crumbs.push_back(*std::move(rest));
    rest = backend_->memory().Allocate(1024, false);
  }
  EXPECT_EQ(backend_->spill()->Use(*b).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(stats().host_bytes, b->bytes());
  crumbs.clear();
  filler.clear();
  EXPECT_EQ(Score(b), of_b);
  use = CrossKvUse();
  EXPECT_EQ(Score(a), of_a);
  a.reset();
  EXPECT_EQ(stats().device_bytes, b->bytes());
  EXPECT_TRUE(backend_->spill()->SpillOne());
  EXPECT_FALSE(backend_->spill()->SpillOne()) << "there is no other";
  EXPECT_EQ(stats().host_bytes, b->bytes());
  b.reset();
  EXPECT_EQ(stats().host_bytes, 0);
  EXPECT_EQ(stats().device_bytes, 0);
}

// What an encode leaves can move, and is counted for as long as somebody keeps it.
TEST(CudaSpillEngine, CountsWhatEncodesLeave) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  const std::string dir = testing::MakeTempDir("routed");
  testing::WriteGoldenColt5("routed", dir);
  const auto model = engine->LoadModel("routed", dir);
  ASSERT_TRUE(model.ok()) << model.status();
  EncodeTask task = testing::MakeTask(*model, testing::LoadGoldenColt5("routed").cases[0].ids);
  task.want_cross_kv = true;
  EncodeResult result = testing::EncodeOn(*engine, std::move(task));
  ASSERT_NE(result.cross_kv, nullptr);
  EXPECT_GT(result.cross_kv->bytes(), 0);
  EXPECT_EQ(engine->stats().decode.spill.device_bytes, result.cross_kv->bytes());
  result = EncodeResult();
  EXPECT_EQ(engine->stats().decode.spill.device_bytes, 0);
}

}  // namespace
}  // namespace longdoc
