// Documents move to host memory when the device is full, and come back as they were.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/error_reason.h"
#include "engine/document_store.h"
#include "engine/spill.h"
#include "kernels/cuda/gemm.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/document_store_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::RandomTokens;
using testing::ScoreAll;

class CudaSpill : public ::testing::Test {
 protected:
  CudaSpill() : CudaSpill(0, nullptr) {}
  CudaSpill(int64_t spill_bytes, std::function<bool()> make_room) {
    CudaOptions options;
    options.spill_bytes = spill_bytes;
    options.make_room = std::move(make_room);
    options.token_tile = 64;
    options.memory_bytes = kernels::cuda::kGemmWorkspaceBytes + (int64_t{24} << 20);
    backend_ = *MakeCudaBackend(options);
    backend_->InitWorkerThread();
    decoder_ = std::make_unique<testing::RandomDecoder>(*backend_, config_, 5);
  }
  std::shared_ptr<const CrossKv> AddDocument(uint64_t seed, int64_t tokens = 200) {
    auto document = testing::RandomDocument(*backend_, config_, tokens, DType::kBF16, seed);
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
  absl::StatusOr<KeptMemoryUse> use = backend_->spill()->Use(*a);
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
  use = KeptMemoryUse();
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

// Host memory for one document of 200 tokens and a half.
class CudaSpillLimit : public CudaSpill {
 protected:
  CudaSpillLimit()
      : CudaSpill(kSpillBytes, [this] { return store_ != nullptr && store_->EvictOne(); }) {}
  DocumentStore::Pin Keep(uint64_t seed) {
    KeptDocument document;
    document.cross_kv = AddDocument(seed);
    return *store_->Add(testing::Key(static_cast<int>(seed)), std::move(document),
                        absl::ZeroDuration(), nullptr);
  }

  static constexpr int64_t kKeys = 256;  // in whole blocks
  const int64_t document_bytes_ = config_.decoder_layers * kKeys * config_.head_dim * 2 * 2;
  static const int64_t kSpillBytes;
  testing::FakeClock clock_;
  std::unique_ptr<DocumentStore> store_;
};
const int64_t CudaSpillLimit::kSpillBytes = [] {
  const Colt5Config config = testing::SmallDecoderConfig();
  return config.decoder_layers * kKeys * config.head_dim * 2 * 2 * 3 / 2;
}();

TEST_F(CudaSpillLimit, RefusesWhatNeitherMemoryHasRoomFor) {
  auto a = AddDocument(1), b = AddDocument(2), small = AddDocument(3, 30);
  ASSERT_EQ(a->bytes(), document_bytes_);
  const std::vector<float> of_a = Score(a), of_b = Score(b), of_small = Score(small);
  EXPECT_EQ(stats().host_limit_bytes, kSpillBytes);
  std::vector<Buffer> filler;
  const absl::Status full = Fill(&filler, [] { return false; });
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  EXPECT_EQ(ReasonOf(full), "OUT_OF_MEMORY");
  // After the first one there was room for the small one only.
  EXPECT_EQ(stats().spilled, 2);
  EXPECT_EQ(stats().host_bytes, a->bytes() + small->bytes());
  EXPECT_EQ(stats().device_bytes, b->bytes());
  filler.clear();
  EXPECT_EQ(Score(small), of_small);
  EXPECT_EQ(Score(b), of_b);
  EXPECT_EQ(Score(a), of_a);
}

TEST_F(CudaSpillLimit, AFullHostEvictsDocumentsThatNobodyUses) {
  store_ = std::make_unique<DocumentStore>(testing::Options(clock_));
  std::vector<std::string> names;
  for (const uint64_t seed : {1, 2, 3, 4}) names.push_back(Keep(seed).name());
  std::vector<Buffer> filler;
  ASSERT_TRUE(Fill(&filler, [this] { return store_->stats().evicted == 2; }).ok());
  EXPECT_EQ(ReasonOf(store_->Find(names[0]).status()), "DOCUMENT_EVICTED");
  EXPECT_EQ(ReasonOf(store_->Find(names[1]).status()), "DOCUMENT_EVICTED");
  EXPECT_EQ(stats().spilled, 3) << "each went to the host first, and the next one to its place";
  EXPECT_EQ(stats().host_bytes, document_bytes_);
  EXPECT_EQ(stats().device_bytes, document_bytes_);

  // Those that are in use stay, wherever they are.
  const absl::StatusOr<DocumentStore::Pin> c = store_->Find(names[2]), d = store_->Find(names[3]);
  ASSERT_TRUE(c.ok() && d.ok());
  const absl::Status full = Fill(&filler, [] { return false; });
  EXPECT_EQ(ReasonOf(full), "OUT_OF_MEMORY") << full;
  EXPECT_EQ(store_->stats().evicted, 2);
  EXPECT_EQ(stats().host_bytes, document_bytes_);
  filler.clear();
  EXPECT_NE(Score((*c)->cross_kv), Score((*d)->cross_kv));
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
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.decode.spill.device_bytes, result.cross_kv->bytes());
  EXPECT_GT(engine->options().spill_memory_bytes, 0);
  EXPECT_EQ(stats.decode.spill.host_limit_bytes, engine->options().spill_memory_bytes);
  EXPECT_GT(stats.device_memory.allocated_bytes, (*model)->weight_bytes());
  EXPECT_GE(stats.device_memory.peak_bytes, stats.device_memory.allocated_bytes);
  EXPECT_LE(stats.device_memory.peak_bytes, stats.device_memory.limit_bytes);
  result = EncodeResult();
  EXPECT_EQ(engine->stats().decode.spill.device_bytes, 0);
}

}  // namespace
}  // namespace longdoc
