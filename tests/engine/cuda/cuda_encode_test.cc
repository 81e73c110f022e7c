// Whole models on the CUDA backend give what they give on the CPU, within bf16.
#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "engine/cross_encoder.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using kernels::cuda::emulation::SetEmulatedCapability;
using testing::CpuEngine;
using testing::EncodeOn;
using testing::ExpectSameDirections;
using testing::ExpectSameVectors;
using testing::LoadGolden;
using testing::MakeTask;
using testing::SomeIds;

// Both kernels of attention; the device is as it was afterwards.
class CudaEncode : public ::testing::TestWithParam<int> {
 protected:
  CudaEncode() { SetEmulatedCapability(GetParam()); }
  ~CudaEncode() override { SetEmulatedCapability(9); }
};
INSTANTIATE_TEST_SUITE_P(Capability, CudaEncode, ::testing::Values(8, 9));

EncodeTask Task(const std::shared_ptr<const Model>& model, int64_t tokens, AttentionPolicy policy) {
  EncodeTask task = MakeTask(model, SomeIds(tokens, 7));
  task.attention = policy;
  task.spans = {{0, 1}, {0, tokens / 2 + 1}, {tokens / 3, tokens}};
  task.want_token_vectors = true;
  return task;
}

AttentionPolicy Policy(AttentionMode mode) {
  AttentionPolicy policy;
  policy.mode = mode;
  if (mode == AttentionMode::kWindow) {
    policy.window_radius = 20;
    policy.num_global = 2;
  }
  return policy;
}

TEST_P(CudaEncode, EncodersAgreeWithTheCpu) {
  const std::unique_ptr<Engine> cuda = testing::MakeEngine(testing::CudaOptions());
  const std::unique_ptr<Engine> cpu = CpuEngine();
  for (const std::string& name : testing::GoldenModelNames()) {
    const auto on_cuda = LoadGolden(*cuda, name), on_cpu = LoadGolden(*cpu, name);
    EXPECT_EQ(on_cuda->compute_type(), ComputeType::kBF16);
    const int64_t dim = on_cuda->info().dimensions;
    for (const int64_t tokens : {1, 2, 150}) {
      SCOPED_TRACE(name + ", " + std::to_string(tokens) + " tokens");
      const EncodeResult a = EncodeOn(*cuda, Task(on_cuda, tokens, AttentionPolicy()));
      const EncodeResult b = EncodeOn(*cpu, Task(on_cpu, tokens, AttentionPolicy()));
      ExpectSameVectors(a, b);
      ASSERT_NE(a.token_vectors, nullptr);
      ExpectSameDirections(a.token_vectors, b.token_vectors, tokens, dim, "token");
      EXPECT_EQ(a.stats.tokens, tokens);
      EXPECT_GT(a.stats.tiles_computed, 0);
      EXPECT_LE(a.stats.tiles_computed, a.stats.tiles_dense);
      EXPECT_EQ(a.stats.dense_flops, b.stats.dense_flops);
      EXPECT_GT(a.stats.attention_seconds, 0);
      EXPECT_GT(a.stats.dense_seconds, 0);
    }
  }
}

TEST_P(CudaEncode, EveryPolicyAgreesWithTheCpu) {
  const std::unique_ptr<Engine> cuda = testing::MakeEngine(testing::CudaOptions());
  const std::unique_ptr<Engine> cpu = CpuEngine();
  const std::string name = "b_h12_c192";
  const auto on_cuda = LoadGolden(*cuda, name), on_cpu = LoadGolden(*cpu, name);
  for (const AttentionMode mode : {AttentionMode::kTolerance, AttentionMode::kExact,
                                   AttentionMode::kWindow, AttentionMode::kDense}) {
    SCOPED_TRACE(static_cast<int>(mode));
    const EncodeResult a = EncodeOn(*cuda, Task(on_cuda, 300, Policy(mode)));
    ExpectSameVectors(a, EncodeOn(*cpu, Task(on_cpu, 300, Policy(mode))));
    if (mode == AttentionMode::kDense) {
      EXPECT_EQ(a.stats.tiles_computed, a.stats.tiles_dense);
    }
  }
}

TEST(CudaEngine, PackedTextsAreEncodedAsTheyAreAlone) {
  const std::unique_ptr<Engine> cuda = testing::MakeEngine(testing::CudaOptions());
  const std::unique_ptr<Engine> cpu = CpuEngine();
  const std::string name = "b_h12_c192";
  const auto on_cuda = LoadGolden(*cuda, name), on_cpu = LoadGolden(*cpu, name);
  const std::vector<int64_t> lengths = {2, 3, 17, 64, 65, 9, 33};
  std::vector<EncodeTask> tasks;
  for (size_t i = 0; i < lengths.size(); ++i) {
    tasks.push_back(MakeTask(on_cuda, SomeIds(lengths[i], static_cast<uint32_t>(i))));
  }
  const std::vector<EncodeResult> together = testing::EncodeTogether(*cuda, std::move(tasks));
  int64_t largest_batch = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const EncodeResult& packed = together[i];
    largest_batch = std::max(largest_batch, packed.stats.batch_sequences);
    ExpectSameVectors(
        packed, EncodeOn(*cpu, MakeTask(on_cpu, SomeIds(lengths[i], static_cast<uint32_t>(i)))));
  }
  EXPECT_GT(largest_batch, 1) << "nothing was packed: the test shows nothing";
}

std::shared_ptr<const Model> LoadColt5(Engine& engine, const std::string& name) {
  const std::string dir = testing::MakeTempDir(name);
  testing::WriteGoldenColt5(name, dir);
  absl::StatusOr<std::shared_ptr<const Model>> model = engine.LoadModel(name, dir);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

float FromBf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Of the rows that are in the golden file. The emulated device's memory can be read here; a block
// is 64 keys, then 64 values.
void CheckCrossKv(const testing::GoldenColt5Case& c, const CrossKv& cross) {
  const int64_t dim = cross.head_dim;
  ASSERT_EQ(cross.layers.size(), c.cross.size());
  for (size_t layer = 0; layer < c.cross.size(); ++layer) {
    const uint16_t* blocks = cross.layers[layer].as<uint16_t>();
    for (size_t r = 0; r < c.rows.size(); ++r) {
      const int64_t block = c.rows[r] / kernels::kKeyBlock, row = c.rows[r] % kernels::kKeyBlock;
      const uint16_t* keys = blocks + block * 2 * kernels::kKeyBlock * dim + row * dim;
      const uint16_t* values = keys + kernels::kKeyBlock * dim;
      for (const auto& [stored, golden] : {std::pair(keys, &c.cross[layer].keys[r]),
                                           std::pair(values, &c.cross[layer].values[r])}) {
        std::vector<float> row_floats;
        for (int64_t d = 0; d < dim; ++d) row_floats.push_back(FromBf16(stored[d]));
        EXPECT_GE(testing::Cosine(row_floats, *golden), testing::kBf16Cosine) << c.rows[r];
      }
    }
  }
}

TEST_P(CudaEncode, Colt5AgreesWithTheCpu) {
  const std::unique_ptr<Engine> cuda = testing::MakeEngine(testing::CudaOptions());
  const std::unique_ptr<Engine> cpu = CpuEngine();
  for (const std::string name : {"routed", "all", "none", "no_keys"}) {
    const auto on_cuda = LoadColt5(*cuda, name), on_cpu = LoadColt5(*cpu, name);
    const bool decodes = on_cuda->info().can_score_likelihood;
    for (const testing::GoldenColt5Case& c : testing::LoadGoldenColt5(name).cases) {
      SCOPED_TRACE(name + ", " + std::to_string(c.ids.size()) + " tokens");
      const auto task = [&](const std::shared_ptr<const Model>& model) {
        EncodeTask t = MakeTask(model, c.ids);
        for (const auto& [begin, end] : c.ranges) t.spans.push_back({begin, end});
        t.want_token_vectors = true;
        t.want_cross_kv = decodes;
        return t;
      };
      const EncodeResult a = EncodeOn(*cuda, task(on_cuda)), b = EncodeOn(*cpu, task(on_cpu));
      ExpectSameVectors(a, b);
      ASSERT_NE(a.token_vectors, nullptr);
      // Scores that tie within bf16 may route another token: that one, the one it takes the place
      // of, and what attends to them differ.
      const int64_t tokens = static_cast<int64_t>(c.ids.size());
      EXPECT_LE(testing::CountOtherDirections(a.token_vectors, b.token_vectors, tokens,
                                              on_cuda->info().dimensions),
                name == "routed" || name == "no_keys" ? tokens * 3 / 100 : 0);
      EXPECT_EQ(a.stats.routing.tokens, b.stats.routing.tokens);
      EXPECT_EQ(a.stats.routing.follow_ups, b.stats.routing.follow_ups);
      for (int r = 0; r < RoutingStats::kNumRouters; ++r) {
        EXPECT_NEAR(a.stats.routing.weight[r], b.stats.routing.weight[r],
                    0.02 * static_cast<double>(b.stats.routing.tokens[r]) + 1e-9);
      }
      // Near ties may go the other way in bf16.
      EXPECT_NEAR(static_cast<double>(a.stats.routing.repeated),
                  static_cast<double>(b.stats.routing.repeated), 2);
      if (decodes) CheckCrossKv(c, *a.cross_kv);
    }
  }
}

TEST(CudaEngine, RerankersAgreeWithPyTorch) {
  const testing::GoldenModel golden = testing::LoadGoldenModel("a_h12_c384");
  ASSERT_EQ(golden.config.num_labels, 1);
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  const std::string dir = testing::MakeTempDir("reranker");
  testing::WriteGoldenModel(golden.name, dir, "bert.");
  const auto model = engine->LoadModel("reranker", dir);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const testing::GoldenCase& c : golden.cases) {
    if (c.ids.size() > 300) continue;
    EncodeTask task = MakeTask(*model, c.ids);
    task.spans = {{0, 1}};
    const EncodeResult result = EncodeOn(*engine, std::move(task));
    EXPECT_NEAR((*model)->cross_encoder()->Logit(result.passages), c.logit, 0.15);
  }
}

}  // namespace
}  // namespace longdoc
