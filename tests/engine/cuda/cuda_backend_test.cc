// The CUDA backend keeps the seam's promises: memory, limits, plans, cancellation.
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "engine/base/error_reason.h"
#include "engine/encoder_model.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::EncodeOn;
using testing::LoadGolden;
using testing::MakeTask;
using testing::SomeIds;

constexpr char kModel[] = "b_h12_c192";

std::unique_ptr<Backend> MakeBackend(int64_t memory_bytes = 0) {
  CudaOptions options;
  options.memory_bytes = memory_bytes;
  options.token_tile = 64;
  absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCudaBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  (*backend)->InitWorkerThread();
  return *std::move(backend);
}

TEST(CudaBackend, PlacesAndFetches) {
  const std::unique_ptr<Backend> backend = MakeBackend();
  const int64_t before = backend->memory().allocated_bytes();
  std::vector<int32_t> host(3 << 20);  // more than staging holds at once
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<int32_t>(i * 7);
  const int64_t bytes = static_cast<int64_t>(host.size() * 4);
  {
    absl::StatusOr<Placed> placed = backend->Place(host.data(), bytes);
    ASSERT_TRUE(placed.ok()) << placed.status();
    EXPECT_NE(placed->data, host.data());
    const std::vector<int32_t> expected = host;
    std::fill(host.begin(), host.end(), 0);  // it has been taken
    std::vector<int32_t> back(host.size());
    ASSERT_TRUE(backend->CopyToHost(back.data(), placed->data, bytes).ok());
    EXPECT_EQ(back, expected);
    absl::StatusOr<Buffer> fetched = backend->ToHost(std::move(placed->copy));
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    EXPECT_EQ(fetched->bytes(), bytes);
    EXPECT_EQ(std::memcmp(fetched->data(), expected.data(), static_cast<size_t>(bytes)), 0);
  }
  EXPECT_EQ(backend->memory().allocated_bytes(), before);
  // What was freed serves again, and is cleared where that is asked.
  absl::StatusOr<Buffer> zeroed = backend->memory().Allocate(bytes, true);
  ASSERT_TRUE(zeroed.ok());
  std::vector<int32_t> back(host.size(), 1);
  ASSERT_TRUE(backend->CopyToHost(back.data(), zeroed->data(), bytes).ok());
  EXPECT_EQ(back, host);
}

TEST(CudaBackend, TimersCountOnlyWhatRunsBetween) {
  const std::unique_ptr<Backend> backend = MakeBackend();
  const auto spent = std::make_shared<std::atomic<int64_t>>(0);
  absl::StatusOr<Buffer> buffer = backend->memory().Allocate(1 << 20, true);
  ASSERT_TRUE(buffer.ok());
  for (int i = 0; i < 5; ++i) {
    const int64_t timer = backend->StartTimer();
    backend->Bf16ToF32(buffer->as<uint16_t>(), 1 << 16, buffer->as<float>() + (1 << 15));
    backend->StopTimer(timer, spent);
    ASSERT_TRUE(backend->EndStep().ok());
  }
  ASSERT_TRUE(backend->Synchronize().ok());
  EXPECT_GT(spent->load(), 0);
}

TEST(CudaBackend, NoMoreThanItsMemory) {
  const std::unique_ptr<Backend> backend = MakeBackend(int64_t{64} << 20);
  const auto model = EncoderModel::Load(
      kModel,
      [] {
        const std::string dir = testing::MakeTempDir(kModel);
        testing::WriteGoldenModel(kModel, dir);
        return dir;
      }(),
      *backend);
  ASSERT_TRUE(model.ok()) << model.status();
  const int64_t before = backend->memory().allocated_bytes();
  const std::vector<int32_t> ids = SomeIds(60000, 1);  // 60,000 · 192 · 10 bytes
  PassSequence sequence;
  sequence.ids = ids;
  const auto pass = (*model)->MakePass(*backend, AttentionPolicy(), {sequence});
  EXPECT_EQ(pass.status().code(), absl::StatusCode::kResourceExhausted) << pass.status();
  EXPECT_TRUE(absl::StrContains(pass.status().message(), "device memory")) << pass.status();
  EXPECT_EQ(backend->memory().allocated_bytes(), before);
}

TEST(CudaEngine, PlansWhatItAllocates) {
  EngineOptions options = testing::CudaOptions();
  options.device_memory_bytes = int64_t{256} << 20;
  const std::unique_ptr<Engine> engine = testing::MakeEngine(options);
  EXPECT_EQ(engine->memory_budget_bytes(), options.device_memory_bytes);
  const auto model = LoadGolden(*engine, kModel);
  // Weights, scratch and the margin are gone from the budget.
  const int64_t budget = engine->memory_budget_bytes();
  EXPECT_LT(budget, (options.device_memory_bytes - model->weight_bytes()) / 9 * 8);
  EXPECT_GT(budget, options.device_memory_bytes / 4);
  EXPECT_EQ(engine->stats().memory_budget_bytes, budget);
  for (const int64_t tokens : {100, 400}) {
    EncodeShape shape;
    shape.tokens = tokens;
    const absl::StatusOr<EncodePlan> plan = engine->Plan(*model, shape);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const EncodeResult result = EncodeOn(*engine, MakeTask(model, SomeIds(tokens, 1)));
    EXPECT_GE(plan->peak_bytes, result.stats.peak_bytes);
    EXPECT_LE(plan->peak_bytes, 1.1 * result.stats.peak_bytes + 4096);
  }
  // The largest document that fits does; a larger one is refused at once, naming both numbers.
  int64_t fits = 1000;
  EncodeShape shape;
  for (shape.tokens = fits; engine->CheckFits(*engine->Plan(*model, shape)).ok();
       shape.tokens += 1000) {
    fits = shape.tokens;
  }
  EncodeTask task = MakeTask(model, SomeIds(fits + 1000, 1));
  task.on_done = [](absl::StatusOr<EncodeResult>) { ADD_FAILURE() << "was refused"; };
  const absl::Status too_large = engine->Submit(std::move(task));
  EXPECT_EQ(too_large.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(too_large), "DOCUMENT_EXCEEDS_MEMORY");
}

TEST(CudaEngine, CancelledItFreesItsMemory) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  const auto model = LoadGolden(*engine, kModel);
  EncodeOn(*engine, MakeTask(model, SomeIds(1100, 2)));  // scratch stays from here on
  const int64_t before = engine->stats().allocated_bytes;
  EncodeTask task = MakeTask(model, SomeIds(1100, 2));
  task.on_progress = [token = task.cancellation](double share) {
    if (share > 0.3) token->Cancel();
  };
  const absl::StatusOr<EncodeResult> result = EncodeAndWait(*engine, std::move(task));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled) << result.status();
  EXPECT_EQ(engine->stats().allocated_bytes, before);
  EXPECT_EQ(engine->stats().reserved_bytes, 0);
}

TEST(CudaEngine, TokenVectorsKeepTheirMemoryAndOnlyTheirs) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  const auto model = LoadGolden(*engine, kModel);
  EncodeOn(*engine, MakeTask(model, SomeIds(64, 2)));
  const int64_t before = engine->stats().allocated_bytes;
  EncodeTask task = MakeTask(model, SomeIds(64, 2));
  task.want_token_vectors = true;
  EncodeResult result = EncodeOn(*engine, std::move(task));
  EXPECT_EQ(engine->stats().allocated_bytes, before) << "the device holds nothing of it";
  EXPECT_EQ(engine->stats().reserved_bytes, 64 * model->info().dimensions * 4);
  result = EncodeResult();
  EXPECT_EQ(engine->stats().reserved_bytes, 0);
}

TEST(CudaEngine, RefusesWhatItsKernelsCannotDoBeforeAnythingRuns) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  // One head of 192 instead of twelve of 16: the tensors are the same.
  const std::string dir = testing::MakeTempDir("wide_head");
  testing::WriteGoldenModel(kModel, dir);
  std::stringstream config;
  config << std::ifstream(dir + "/config.json").rdbuf();
  std::ofstream(dir + "/config.json")
      << std::regex_replace(config.str(), std::regex("(\"num_attention_heads\": *)12"), "$011");
  const absl::Status refused = engine->LoadModel("wide", dir).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "size 192")) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "at most 128")) << refused;
  EXPECT_TRUE(testing::CpuEngine()->LoadModel("wide", dir).ok());

  const std::string routed_dir = testing::MakeTempDir("routed");
  testing::WriteGoldenColt5("routed", routed_dir);
  const auto routed = engine->LoadModel("routed", routed_dir);
  ASSERT_TRUE(routed.ok()) << routed.status();
  EncodeTask task = MakeTask(*routed, testing::LoadGoldenColt5("routed").cases[0].ids);
  task.want_cross_kv = true;
  task.cross_kv_type = DType::kF32;
  const absl::Status wide_keys = EncodeAndWait(*engine, std::move(task)).status();
  EXPECT_EQ(wide_keys.code(), absl::StatusCode::kFailedPrecondition) << wide_keys;
  EXPECT_TRUE(absl::StrContains(wide_keys.message(), "f32")) << wide_keys;
  EXPECT_EQ(engine->stats().batches, 0);
}

TEST(CudaEngine, DevicesByName) {
  EngineOptions options;
  options.device = "auto";
  EXPECT_TRUE(absl::StrContains((*Engine::Create(options))->DeviceDescription(), "cuda:0"));
  EXPECT_EQ((*Engine::Create(options))->DeviceNote(), "");
  // What it cannot do leaves auto with the CPU, and says so.
  options.compute_type = ComputeType::kF32;
  const absl::StatusOr<std::unique_ptr<Engine>> on_cpu = Engine::Create(options);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
  EXPECT_TRUE(absl::StrContains((*on_cpu)->DeviceDescription(), "cpu"));
  EXPECT_TRUE(absl::StrContains((*on_cpu)->DeviceNote(), "bf16")) << (*on_cpu)->DeviceNote();
  options.device = "cuda";
  EXPECT_EQ(Engine::Create(options).status().code(), absl::StatusCode::kInvalidArgument);

  options = {};
  options.device = "cuda:7";
  const absl::Status none = Engine::Create(options).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(none.message(), "number 7")) << none;
  options.device = "cuda:0";
  options.device_memory_bytes = int64_t{1} << 50;
  EXPECT_EQ(Engine::Create(options).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(IsDeviceName("cuda:"));
  EXPECT_FALSE(IsDeviceName("cuda:-1"));
  EXPECT_FALSE(IsDeviceName("cuda:1x"));
  EXPECT_TRUE(IsDeviceName("cuda:12"));
}

}  // namespace
}  // namespace longdoc
