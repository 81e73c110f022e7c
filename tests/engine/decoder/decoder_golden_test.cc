// The decoder against its definition in PyTorch, in float64 (tests/golden).
#include <string>

#include "engine/generate_pass.h"
#include "gtest/gtest.h"
#include "tests/engine/bf16_products_backend.h"
#include "tests/engine/decoder/decoder_helpers.h"
#include "tests/engine/encode_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::GoldenColt5;
using testing::GoldenColt5Case;
using testing::RunPass;
using testing::ScoreAll;

// Checkpoint, backend and packed decoder of a golden model.
struct Loaded {
  Loaded(const std::string& name, std::unique_ptr<Backend> b) : backend(std::move(b)) {
    const std::string dir = testing::MakeTempDir(name);
    testing::WriteGoldenColt5(name, dir);
    auto opened = LoadColt5Checkpoint(dir);
    EXPECT_TRUE(opened.ok()) << opened.status();
    checkpoint = *std::move(opened);
    auto packed = DecoderWeights::Pack(checkpoint.weights, checkpoint.config, *backend);
    EXPECT_TRUE(packed.ok()) << packed.status();
    weights = *std::move(packed);
  }

  std::unique_ptr<Backend> backend;
  Colt5Checkpoint checkpoint;
  std::unique_ptr<DecoderWeights> weights;
};

// Documents so short that the goldens have the keys and values of all their tokens: what the
// decoder does does not depend on the encoder here.
std::shared_ptr<const CrossKv> WholeDocument(const Loaded& loaded, const GoldenColt5Case& c) {
  std::vector<std::vector<float>> keys, values;
  for (const testing::GoldenCrossKv& layer : c.cross) {
    keys.emplace_back();
    values.emplace_back();
    for (size_t r = 0; r < c.rows.size(); ++r) {
      keys.back().insert(keys.back().end(), layer.keys[r].begin(), layer.keys[r].end());
      values.back().insert(values.back().end(), layer.values[r].begin(), layer.values[r].end());
    }
  }
  return testing::MakeDocument(*loaded.backend,
                               static_cast<int32_t>(loaded.checkpoint.config.head_dim),
                               loaded.backend->info().storage_type, keys, values);
}

std::vector<int32_t> Continue(const Loaded& loaded, const GoldenColt5& golden,
                              const GoldenColt5Case& c, const CrossKv& document) {
  KvPagePool pages(loaded.backend->memory(), int64_t{1} << 40);
  GeneratePass::Setup s;
  s.backend = loaded.backend.get();
  s.pages = &pages;
  s.weights = loaded.weights.get();
  s.document = &document;
  s.cls = golden.cls;
  s.sep = -1;  // the golden continuations run on
  s.prompt = c.prompt;
  s.max_new_tokens = static_cast<int64_t>(c.continuation.size());
  auto pass = GeneratePass::Create(std::move(s));
  EXPECT_TRUE(pass.ok());
  EXPECT_TRUE(RunPass(*loaded.backend, **pass).ok());
  return (*pass)->TakeTokens();
}

void Check(const GoldenColt5& golden, std::unique_ptr<Backend> backend, double bound) {
  const Loaded loaded(golden.name, std::move(backend));
  for (const GoldenColt5Case& c : golden.cases) {
    if (c.rows.size() != c.ids.size()) continue;
    SCOPED_TRACE(golden.name + ", " + loaded.backend->info().isa + ", " +
                 std::to_string(c.ids.size()) + " tokens");
    const std::shared_ptr<const CrossKv> document = WholeDocument(loaded, c);
    std::vector<std::vector<int32_t>> candidates;
    for (const testing::GoldenCandidate& candidate : c.candidates) {
      candidates.push_back(candidate.ids);
    }
    ASSERT_GE(candidates.size(), 3u);
    const auto scores = ScoreAll(
        {loaded.backend.get(), loaded.weights.get(), document, golden.cls, golden.sep}, candidates);
    for (size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_LE(testing::MaxAbsDifference(scores[i], c.candidates[i].log_probs), bound) << i;
      EXPECT_GE(testing::Cosine(scores[i], c.candidates[i].log_probs), 0.999) << i;
    }
    if (bound > 1e-3) continue;  // a token's lead may be smaller
    EXPECT_EQ(Continue(loaded, golden, c, *document), c.continuation);
  }
}

TEST(DecoderGolden, AgreesWithPyTorchOnGivenKeysAndValues) {
  for (const std::string name : {"routed", "all", "none"}) {
    const GoldenColt5 golden = testing::LoadGoldenColt5(name);
    Check(golden, MakeReferenceBackend(1), 1e-5);
    Check(golden, MakeCpuBackend(DType::kF32, 2), 1e-4);
    Check(golden, MakeCpuBackend(DType::kBF16, 2), 0.15);
    Check(golden, std::make_unique<testing::Bf16ProductsBackend>(), 0.15);
  }
}

}  // namespace
}  // namespace longdoc
