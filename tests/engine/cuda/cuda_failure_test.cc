// What happens when the device fails: a bad call ends its step, a lost device everything.
#include <cuda_runtime_api.h>

#include <atomic>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "tests/engine/cuda/cuda_helpers.h"

namespace longdoc {
namespace {

using testing::LoadGolden;
using testing::MakeTask;
using testing::SomeIds;

TEST(CudaFailure, ABadCallEndsItsStepAlone) {
  int lost = 0;
  CudaOptions options;
  options.on_lost = [&lost](const absl::Status&) { ++lost; };
  const absl::StatusOr<std::unique_ptr<Backend>> backend = MakeCudaBackend(options);
  ASSERT_TRUE(backend.ok()) << backend.status();
  (*backend)->InitWorkerThread();
  kernels::GatedGeluArgs bad;
  bad.rows = -1;
  (*backend)->GatedGelu(bad);
  kernels::ScatterAddArgs also_bad;
  also_bad.rows = -1;
  (*backend)->ScatterAddWithin(also_bad, 0, 1);
  const absl::Status status = (*backend)->EndStep();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StartsWith(status.message(), "cuda: gated gelu: ")) << status;
  EXPECT_TRUE((*backend)->EndStep().ok());
  // Of another thread it is none of the worker's business.
  std::thread([&] { (*backend)->GatedGelu(bad); }).join();
  EXPECT_TRUE((*backend)->EndStep().ok());
  EXPECT_TRUE((*backend)->Synchronize().ok());
  EXPECT_EQ(lost, 0);
}

TEST(CudaFailure, ALostDeviceFailsEverythingAndSaysSoOnce) {
  std::atomic<int> lost{0};
  std::string told;
  EngineOptions options = testing::CudaOptions();
  options.on_device_lost = [&](const absl::Status& status) {
    told = std::string(status.message());
    ++lost;
  };
  const std::unique_ptr<Engine> engine = testing::MakeEngine(options);
  const auto model = LoadGolden(*engine, "b_h12_c192");
  EXPECT_TRUE(EncodeAndWait(*engine, MakeTask(model, SomeIds(20, 1))).ok());
  kernels::cuda::emulation::FailLater(cudaErrorIllegalAddress);
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = EncodeAndWait(*engine, MakeTask(model, SomeIds(20, 1))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_TRUE(absl::StartsWith(status.message(), "cuda: ")) << status;
  }
  EXPECT_EQ(lost, 1);
  EXPECT_TRUE(absl::StartsWith(told, "cuda: ")) << told;
  EXPECT_EQ(engine->stats().reserved_bytes, 0);
  // Nor can it load another model.
  const std::string dir = testing::MakeTempDir("late");
  testing::WriteGoldenModel("b_h12_c192", dir);
  EXPECT_EQ(engine->LoadModel("late", dir).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace longdoc
