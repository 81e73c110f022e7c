// A document whose ids came to the device before it was whole is encoded as any other.
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/arriving_ids.h"
#include "tests/engine/cuda/cuda_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::EncodeOn;
using testing::MakeTask;

// The ids of a task, on the device before it is submitted.
std::shared_ptr<ArrivingIds> Arrive(Engine& engine, const std::vector<int32_t>& ids) {
  std::shared_ptr<ArrivingIds> arriving = engine.ReceiveIds();
  EXPECT_NE(arriving, nullptr);
  const size_t half = ids.size() / 2;
  arriving->Append(absl::MakeConstSpan(ids).first(half));
  arriving->Append(absl::MakeConstSpan(ids).subspan(half));
  for (int i = 0; i < 10000 && arriving->copied() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_GE(arriving->copied(), ArrivingIds::kCopiedAtOnce);
  return arriving;
}

void ExpectSame(const EncodeResult& a, const EncodeResult& b) {
  EXPECT_EQ(a.document, b.document);
  EXPECT_EQ(a.passages, b.passages);
}

TEST(CudaArrivingIds, AreTheOnesThatAreEncoded) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  const auto encoder = testing::LoadGolden(*engine, "b_h12_c192");
  const std::string dir = testing::MakeTempDir("routed");
  testing::WriteGoldenColt5("routed", dir);
  const auto colt5 = engine->LoadModel("routed", dir);
  ASSERT_TRUE(colt5.ok()) << colt5.status();
  for (const auto& model : {encoder, *colt5}) {
    SCOPED_TRACE(model->name());
    AttentionPolicy cheap;
    cheap.mode = AttentionMode::kWindow;
    cheap.window_radius = 8;
    std::vector<int32_t> ids = testing::SomeIds(ArrivingIds::kCopiedAtOnce + 300, 3);
    for (int32_t& id : ids) id %= static_cast<int32_t>(model->info().vocab_size);
    const auto task = [&](const std::vector<int32_t>& some) {
      EncodeTask t = MakeTask(model, some);
      t.attention = cheap;
      t.spans = {{0, 5}, {400, 796}};
      return t;
    };
    const EncodeResult whole = EncodeOn(*engine, task(ids));
    EncodeTask early = task(ids);
    early.arrived = Arrive(*engine, ids);
    const EncodeResult in_pieces = EncodeOn(*engine, std::move(early));
    ExpectSame(in_pieces, whole);
    EXPECT_EQ(in_pieces.stats.peak_bytes, whole.stats.peak_bytes);
    EXPECT_LE(in_pieces.stats.peak_bytes, in_pieces.stats.planned_bytes);

    // The device reads those, not the host's: others show.
    std::vector<int32_t> others = ids;
    others[1] = others[1] == 7 ? 8 : 7;
    EncodeTask wrong = task(ids);
    wrong.arrived = Arrive(*engine, others);
    ExpectSame(EncodeOn(*engine, std::move(wrong)), EncodeOn(*engine, task(others)));
    EXPECT_EQ(engine->stats().reserved_bytes, 0);
  }
}

TEST(CudaArrivingIds, MoreThanTheDocumentHasAreRefused) {
  const std::unique_ptr<Engine> engine = testing::MakeEngine(testing::CudaOptions());
  EncodeTask task = MakeTask(testing::LoadGolden(*engine, "b_h12_c192"), testing::SomeIds(20, 3));
  task.arrived = engine->ReceiveIds();
  task.arrived->Append(testing::SomeIds(21, 3));
  EXPECT_EQ(EncodeAndWait(*engine, std::move(task)).status().code(), absl::StatusCode::kInternal);
}

TEST(CudaArrivingIds, CpusHaveNothingToCopy) {
  EXPECT_EQ(testing::CpuEngine()->ReceiveIds(), nullptr);
}

}  // namespace
}  // namespace longdoc
