// The encoders with bf16 matrix products, on any CPU.
#include "engine/colt5_model.h"
#include "engine/encoder_model.h"
#include "tests/engine/bf16_products_backend.h"
#include "tests/engine/encode_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

std::vector<float> Passages(Backend& backend, const EncodingModel& model,
                            const std::vector<int32_t>& ids,
                            const std::vector<std::pair<int64_t, int64_t>>& ranges) {
  std::vector<TokenSpan> spans;
  for (const auto& [begin, end] : ranges) spans.push_back({begin, end});
  std::vector<PassSequence> sequences(1);
  sequences[0].ids = ids;
  sequences[0].spans = spans;
  sequences[0].token_vectors = true;
  sequences[0].cross_kv = model.info().can_score_likelihood;
  auto pass = model.MakePass(backend, {}, sequences);
  EXPECT_TRUE(pass.ok()) << pass.status();
  testing::RunPass(**pass);
  EncodeResult result = (*pass)->TakeResult(0);

  // Token vectors are of the same kind as the document's vector, their mean.
  const Buffer tokens = (*pass)->TakeTokenVectors();
  std::vector<float> mean(result.document.size());
  for (size_t i = 0; i < ids.size() * mean.size(); ++i) {
    mean[i % mean.size()] += tokens.as<float>()[i] / static_cast<float>(ids.size());
  }
  EXPECT_GE(testing::Cosine(mean, result.document), 0.9999);
  return result.passages;
}

TEST(Bf16Products, AgreeWithPyTorch) {
  for (const std::string name : {"a_h12_c384", "b_h12_c192"}) {
    const testing::GoldenModel golden = testing::LoadGoldenModel(name);
    const std::string dir = testing::MakeTempDir(name);
    testing::WriteGoldenModel(name, dir);
    testing::Bf16ProductsBackend backend;
    backend.InitWorkerThread();
    auto model = EncoderModel::Load(name, dir, backend);
    ASSERT_TRUE(model.ok()) << model.status();
    const size_t dim = static_cast<size_t>(golden.config.hidden_size);
    for (const testing::GoldenCase& c : golden.cases) {
      if (c.ids.size() > 300) continue;
      const std::vector<float> got = Passages(backend, **model, c.ids, c.ranges);
      for (size_t i = 0; i < c.ranges.size(); ++i) {
        EXPECT_GE(testing::Cosine({got.data() + i * dim, dim}, c.vectors[i]), 0.9995)
            << name << ", " << c.ids.size() << " tokens, range " << i;
      }
    }
  }
}

TEST(Bf16Products, OfColt5AgreeWithPyTorch) {
  for (const std::string& name : testing::GoldenColt5Names()) {
    const testing::GoldenColt5 golden = testing::LoadGoldenColt5(name);
    const std::string dir = testing::MakeTempDir(name);
    testing::WriteGoldenColt5(name, dir);
    testing::Bf16ProductsBackend backend;
    backend.InitWorkerThread();
    auto model = Colt5Model::Load(name, dir, backend);
    ASSERT_TRUE(model.ok()) << model.status();
    const size_t dim = static_cast<size_t>(golden.config.vector_size());
    for (const testing::GoldenColt5Case& c : golden.cases) {
      const std::vector<float> got = Passages(backend, **model, c.ids, c.ranges);
      for (size_t i = 0; i < c.ranges.size(); ++i) {
        EXPECT_GE(testing::Cosine({got.data() + i * dim, dim}, c.vectors[i]), 0.999)
            << name << ", " << c.ids.size() << " tokens, range " << i;
      }
    }
  }
}

}  // namespace
}  // namespace longdoc
