// The longdoc-CoLT5 encoder against its definition in PyTorch, in float64 (tests/golden).
#include "tests/support/colt5_golden.h"

#include <map>
#include <string>
#include <tuple>

#include "engine/colt5_model.h"
#include "engine/colt5_pass.h"
#include "tests/engine/encode_helpers.h"

namespace longdoc {
namespace {

using testing::GoldenColt5;
using testing::GoldenColt5Case;
using testing::GoldenRouting;

struct Variant {
  std::string name;
  bool reference;
  DType compute;
  AttentionMode mode;
};

std::unique_ptr<Backend> MakeBackend(const Variant& variant) {
  return variant.reference ? MakeReferenceBackend(1) : MakeCpuBackend(variant.compute, 1);
}

// What is left of a pass.
struct Run {
  EncodeResult result;
  std::vector<float> states;  // [n, C]
  std::vector<testing::GoldenColt5Layer> layers;
};

GoldenRouting Copy(const RoutedTokens& routed) {
  return {{routed.positions, routed.positions + routed.size()},
          {routed.weights, routed.weights + routed.size()}};
}

Run Encode(Backend& backend, const Colt5Model& model, const GoldenColt5Case& c,
           AttentionMode mode) {
  std::vector<TokenSpan> spans;
  for (const auto& [begin, end] : c.ranges) spans.push_back({begin, end});
  AttentionPolicy policy;
  policy.mode = mode;
  policy.epsilon = 1e-6f;
  std::vector<PassSequence> sequences(1);
  sequences[0].ids = c.ids;
  sequences[0].spans = spans;
  sequences[0].cross_kv = model.config().decoder_layers > 0;
  sequences[0].cross_kv_type = backend.info().storage_type;
  auto pass = Colt5Pass::Create(backend, model, policy, sequences);
  EXPECT_TRUE(pass.ok()) << pass.status();
  Run run;
  run.layers.resize(model.layers().size());
  testing::RunPass(**pass, [&] {
    testing::GoldenColt5Layer& layer = run.layers[(*pass)->layer()];
    if ((*pass)->phase() == Colt5Pass::Phase::kRouteAttention) {
      layer.query = Copy((*pass)->routed(RoutingStats::kQuery));
      layer.kv = Copy((*pass)->routed(RoutingStats::kKeyValue));
    } else if ((*pass)->phase() == Colt5Pass::Phase::kRouteFeedForward) {
      layer.ff = Copy((*pass)->routed(RoutingStats::kFeedForward));
    }
  });
  run.result = (*pass)->TakeResult(0);
  if (model.output() == nullptr) {
    const Buffer states = (*pass)->TakeTokenVectors();
    run.states.assign(states.as<float>(), states.as<float>() + states.bytes() / 4);
  }
  return run;
}

void CompareRouting(const char* router, const GoldenRouting& got, const GoldenRouting& want) {
  SCOPED_TRACE(router);
  EXPECT_EQ(got.indices, want.indices);
  EXPECT_LE(testing::MaxAbsDifference(got.weights, want.weights), 1e-4);
}

// fp32: every number close; bf16: every vector of one direction.
void CompareVector(const Variant& variant, absl::Span<const float> got,
                   absl::Span<const float> want) {
  if (variant.compute == DType::kBF16) {
    EXPECT_GE(testing::Cosine(got, want), 0.999);
  } else {
    EXPECT_LE(testing::MaxAbsDifference(got, want), 1e-4);
  }
}

// One key and value, whatever the layout: with a steep slope a query at its position sees it alone;
// the largest score of unit queries is then the key.
void CompareCrossKv(const Variant& variant, Backend& backend, const CrossKv& cross, size_t layer,
                    const GoldenColt5Case& c) {
  const int64_t dim = cross.head_dim;
  std::vector<float> units(dim * dim);
  for (int64_t d = 0; d < dim; ++d) units[d * dim + d] = 1;
  const std::vector<float> slopes(dim, 1e5f);
  std::vector<float> out(dim * dim), max(dim), sum(dim);
  MemoryPool pool(0);
  WorkerScratch scratch(pool);
  ASSERT_TRUE(
      scratch.Ensure(scratch.attention, backend.MqaScratchBytes(dim, static_cast<int32_t>(dim)))
          .ok());
  for (size_t i = 0; i < c.rows.size(); ++i) {
    SCOPED_TRACE("row " + std::to_string(c.rows[i]));
    const std::vector<int32_t> positions(dim, static_cast<int32_t>(c.rows[i]));
    kernels::MqaPartialArgs args;
    args.keys = cross.Keys(layer);
    args.block_begin = c.rows[i] / kernels::kKeyBlock;
    args.block_end = args.block_begin + 1;
    args.scale = 1;
    args.rows = dim;
    args.q = units.data();
    args.slopes = slopes.data();
    args.positions = positions.data();
    args.out = out.data();
    args.max = max.data();
    args.sum = sum.data();
    args.scratch = scratch.attention.data();
    backend.MqaPartial(args);
    CompareVector(variant, max, c.cross[layer].keys[i]);
    CompareVector(variant, absl::MakeConstSpan(out.data(), dim), c.cross[layer].values[i]);
  }
}

void Compare(const Variant& variant, Backend& backend, const GoldenColt5& golden,
             const GoldenColt5Case& c, const Run& run) {
  const size_t out_dim = static_cast<size_t>(golden.config.vector_size());
  for (size_t i = 0; i < c.ranges.size(); ++i) {
    CompareVector(variant, {run.result.passages.data() + i * out_dim, out_dim}, c.vectors[i]);
  }
  CompareVector(variant, run.result.document, c.vectors[0]);
  const size_t dim = static_cast<size_t>(golden.config.hidden_size);
  for (size_t i = 0; i < c.rows.size() && !run.states.empty(); ++i) {
    CompareVector(variant, {run.states.data() + c.rows[i] * dim, dim}, c.states[i]);
  }
  for (size_t layer = 0; layer < c.cross.size(); ++layer) {
    SCOPED_TRACE("decoder layer " + std::to_string(layer));
    CompareCrossKv(variant, backend, *run.result.cross_kv, layer, c);
  }
  if (variant.compute == DType::kBF16) return;  // near ties may fall otherwise
  for (size_t layer = 0; layer < c.layers.size(); ++layer) {
    SCOPED_TRACE("layer " + std::to_string(layer));
    CompareRouting("ff", run.layers[layer].ff, c.layers[layer].ff);
    if (golden.config.kv_rate == 0) continue;  // then there is no use for queries
    CompareRouting("query", run.layers[layer].query, c.layers[layer].query);
    CompareRouting("kv", run.layers[layer].kv, c.layers[layer].kv);
  }
}

class Colt5Golden : public ::testing::TestWithParam<std::tuple<std::string, Variant>> {};

TEST_P(Colt5Golden, AgreesWithPyTorch) {
  const auto& [name, variant] = GetParam();
  const GoldenColt5 golden = testing::LoadGoldenColt5(name);
  const std::string dir = testing::MakeTempDir(name);
  testing::WriteGoldenColt5(name, dir);
  const std::unique_ptr<Backend> backend = MakeBackend(variant);
  backend->InitWorkerThread();
  auto model = Colt5Model::Load(name, dir, *backend);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_FALSE(golden.cases.empty());
  for (const GoldenColt5Case& c : golden.cases) {
    // The reference is quadratic in plain loops.
    if (variant.reference && c.ids.size() > 300) continue;
    SCOPED_TRACE(std::to_string(c.ids.size()) + " tokens");
    Compare(variant, *backend, golden, c, Encode(*backend, **model, c, variant.mode));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Colt5Golden,
    ::testing::Combine(
        ::testing::ValuesIn(testing::GoldenColt5Names()),
        ::testing::Values(Variant{"reference", true, DType::kF32, AttentionMode::kDense},
                          Variant{"f32_dense", false, DType::kF32, AttentionMode::kDense},
                          Variant{"f32_exact", false, DType::kF32, AttentionMode::kExact},
                          Variant{"f32_tolerance", false, DType::kF32, AttentionMode::kTolerance},
                          Variant{"bf16", false, DType::kBF16, AttentionMode::kTolerance})),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param).name; });

}  // namespace
}  // namespace longdoc
