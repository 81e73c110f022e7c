// The encoder with bf16 matrix products, on any CPU.
#include "engine/forward_pass.h"
#include "tests/engine/bf16_products_backend.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

std::vector<float> Passages(Backend& backend, const EncoderModel& model,
                            const std::vector<int32_t>& ids, const std::vector<TokenSpan>& spans) {
  std::vector<PassSequence> sequences(1);
  sequences[0].ids = ids;
  sequences[0].spans = spans;
  auto pass = ForwardPass::Create(backend, model, {}, sequences);
  EXPECT_TRUE(pass.ok()) << pass.status();
  testing::RunPass(**pass);
  return (*pass)->TakeResult(0).passages;
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
      std::vector<TokenSpan> spans;
      for (const auto& [begin, end] : c.ranges) spans.push_back({begin, end});
      const std::vector<float> got = Passages(backend, **model, c.ids, spans);
      for (size_t i = 0; i < spans.size(); ++i) {
        EXPECT_GE(testing::Cosine({got.data() + i * dim, dim}, c.vectors[i]), 0.9995)
            << name << ", " << c.ids.size() << " tokens, range " << i;
      }
    }
  }
}

}  // namespace
}  // namespace longdoc
