// What must hold of the longdoc-CoLT5 encoder whatever its weights are.
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/base/error_reason.h"
#include "engine/colt5_model.h"
#include "engine/colt5_pass.h"
#include "engine/model/safetensors.h"
#include "tests/engine/encode_helpers.h"
#include "tests/support/colt5_golden.h"

namespace longdoc {
namespace {

using testing::MakeTask;
using testing::MaxAbsDifference;
using testing::SomeIds;

using Config = nlohmann::json;

// The golden model `name` with another configuration.
std::string ModelDir(const std::string& name,
                     const std::function<void(Config&)>& change = nullptr) {
  const std::string dir = testing::MakeTempDir(name);
  testing::WriteGoldenColt5(name, dir);
  if (!change) return dir;
  Config config = Config::parse(std::ifstream(dir + "/config.json"));
  change(config);
  std::ofstream(dir + "/config.json") << config.dump();
  return dir;
}

void SetRates(Config& config, double rate) {
  for (const char* key : {"query_rate", "kv_rate", "ff_rate"}) config[key] = rate;
}

// Overwrites the tensors whose names end so with zeros.
void ZeroTensors(const std::string& dir, const std::string& ending) {
  const std::string path = dir + "/model.safetensors";
  auto checkpoint = Checkpoint::Open(dir);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  int zeroed = 0;
  for (const std::string& name : (*checkpoint)->Names()) {
    if (name.size() < ending.size() || name.substr(name.size() - ending.size()) != ending) continue;
    const TensorEntry* entry = (*checkpoint)->Find(name);
    file.seekp(static_cast<std::streamoff>(8 + header) + entry->begin);
    file << std::string(entry->end - entry->begin, '\0');
    ++zeroed;
  }
  EXPECT_GT(zeroed, 0);
}

std::shared_ptr<const Model> Load(Engine& engine, const std::string& dir) {
  absl::StatusOr<std::shared_ptr<const Model>> model = engine.LoadModel("colt5", dir);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

EncodeResult Encode(Engine& engine, EncodeTask task) {
  absl::StatusOr<EncodeResult> result = EncodeAndWait(engine, std::move(task));
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

std::unique_ptr<Engine> F32Engine() {
  EngineOptions options;
  options.compute_type = ComputeType::kF32;
  return testing::MakeEngine(options);
}

TEST(Colt5, TellsWhatItIs) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = Load(*engine, ModelDir("routed"));
  EXPECT_EQ(model->info().family, "longdoc_colt5");
  EXPECT_EQ(model->info().dimensions, 48);
  EXPECT_EQ(model->info().hidden_size, 64);
  EXPECT_TRUE(model->info().can_score_likelihood);
  EXPECT_EQ(model->info().max_target_tokens, 64);
  const auto encoder = Load(*engine, ModelDir("no_keys"));
  EXPECT_FALSE(encoder->info().can_score_likelihood);
  EXPECT_EQ(encoder->info().max_target_tokens, 0);
}

TEST(Colt5, RoutingAllToHeavyBranchesOfZerosEqualsRoutingNone) {
  std::unique_ptr<Engine> engine = F32Engine();
  const auto light = Load(*engine, ModelDir("routed", [](Config& c) { SetRates(c, 0); }));
  const std::string dir = ModelDir("routed", [](Config& c) { SetRates(c, 1); });
  ZeroTensors(dir, "heavy_attention.output.weight");
  ZeroTensors(dir, "heavy_ff.down.weight");
  const auto all = Load(*engine, dir);
  for (int64_t n : {1, 7, 64, 301, 1500}) {
    const EncodeResult a = Encode(*engine, MakeTask(light, SomeIds(std::max<int64_t>(n, 2), 3)));
    const EncodeResult b = Encode(*engine, MakeTask(all, SomeIds(std::max<int64_t>(n, 2), 3)));
    EXPECT_LE(MaxAbsDifference(a.document, b.document), 1e-6) << n << " tokens";
    EXPECT_EQ(a.stats.routing.tokens_routed(), 0);
    EXPECT_EQ(b.stats.routing.tokens_routed(), 2 * 3 * std::max<int64_t>(n, 2));
  }
}

TEST(Colt5, BothBackendsAgree) {
  EngineOptions options;
  options.device = "reference";
  std::unique_ptr<Engine> reference = testing::MakeEngine(options), cpu = F32Engine();
  for (const std::string name : {"routed", "long"}) {
    const std::string dir = ModelDir(name);
    const auto a = Load(*reference, dir), b = Load(*cpu, dir);
    for (int64_t n : {2, 3, 33, 129, 400}) {
      EncodeTask task = MakeTask(a, SomeIds(n, 5));
      task.attention.mode = AttentionMode::kDense;
      EncodeTask other = MakeTask(b, SomeIds(n, 5));
      const EncodeResult x = Encode(*reference, std::move(task));
      const EncodeResult y = Encode(*cpu, std::move(other));
      EXPECT_LE(MaxAbsDifference(x.document, y.document), 1e-4) << name << ", " << n << " tokens";
    }
  }
}

TEST(Colt5, PackingChangesNoResult) {
  std::unique_ptr<Engine> engine = F32Engine();
  const auto model = Load(*engine, ModelDir("routed"));
  const std::vector<int64_t> lengths = {2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 200, 257, 511};
  const auto make_task = [&](size_t i) {
    const int64_t n = lengths[i];
    EncodeTask task = MakeTask(model, SomeIds(n, static_cast<uint32_t>(i + 1)));
    task.spans = {{0, n}, {n / 2, n}};
    task.want_cross_kv = true;
    task.cross_kv_type = DType::kF32;
    return task;
  };
  std::vector<EncodeTask> tasks;
  for (size_t i = 0; i < lengths.size(); ++i) tasks.push_back(make_task(i));
  const std::vector<EncodeResult> together = testing::EncodeTogether(*engine, std::move(tasks));
  int64_t largest_batch = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const EncodeResult& packed = together[i];
    const EncodeResult alone = Encode(*engine, make_task(i));
    SCOPED_TRACE(std::to_string(alone.stats.tokens) + " tokens");
    EXPECT_LE(MaxAbsDifference(packed.document, alone.document), 1e-5);
    EXPECT_LE(MaxAbsDifference(packed.passages, alone.passages), 1e-5);
    EXPECT_EQ(packed.stats.tiles_computed, alone.stats.tiles_computed);
    EXPECT_EQ(packed.stats.routing.tokens, alone.stats.routing.tokens);
    EXPECT_EQ(packed.stats.routing.repeated, alone.stats.routing.repeated);
    ASSERT_EQ(packed.cross_kv->layers.size(), alone.cross_kv->layers.size());
    for (size_t layer = 0; layer < alone.cross_kv->layers.size(); ++layer) {
      const Buffer &a = packed.cross_kv->layers[layer], &b = alone.cross_kv->layers[layer];
      EXPECT_LE(MaxAbsDifference({a.as<float>(), static_cast<size_t>(a.bytes() / 4)},
                                 {b.as<float>(), static_cast<size_t>(b.bytes() / 4)}),
                1e-4);
    }
    largest_batch = std::max(largest_batch, packed.stats.batch_sequences);
  }
  EXPECT_GT(largest_batch, 3) << "nothing was packed: the test shows nothing";
}

TEST(Colt5, ThreadCountChangesNoBit) {
  std::vector<float> first;
  const std::string dir = ModelDir("long");
  for (int threads : {1, 2, 3}) {
    EngineOptions options;
    options.num_threads = threads;
    std::unique_ptr<Engine> engine = testing::MakeEngine(options);
    const EncodeResult result = Encode(*engine, MakeTask(Load(*engine, dir), SomeIds(3000, 7)));
    if (first.empty()) first = result.document;
    EXPECT_EQ(first, result.document) << threads << " threads";
  }
}

TEST(Colt5, PoliciesOfHeavyAttention) {
  std::unique_ptr<Engine> engine = F32Engine();
  const auto model = Load(*engine, ModelDir("long"));
  auto encode = [&](AttentionMode mode) {
    EncodeTask task = MakeTask(model, SomeIds(6000, 9));
    task.attention.mode = mode;
    task.attention.window_radius = 64;
    return Encode(*engine, std::move(task));
  };
  const EncodeResult dense = encode(AttentionMode::kDense), exact = encode(AttentionMode::kExact);
  const EncodeResult tolerance = encode(AttentionMode::kTolerance);
  const EncodeResult window = encode(AttentionMode::kWindow);
  EXPECT_EQ(dense.document, exact.document);
  EXPECT_EQ(tolerance.document, window.document);
  EXPECT_EQ(window.stats.epsilon, tolerance.stats.epsilon);
  EXPECT_EQ(exact.stats.epsilon, 0);
  EXPECT_LE(MaxAbsDifference(dense.document, tolerance.document), 1e-3);
  EXPECT_LT(tolerance.stats.tiles_computed, dense.stats.tiles_computed);
}

TEST(Colt5, CountsWhatWasRouted) {
  std::unique_ptr<Engine> engine = F32Engine();
  const std::string dir = ModelDir("long");
  const auto model = Load(*engine, dir);
  const int64_t layers = model->info().num_layers, n = 1000;
  const RoutingStats stats = Encode(*engine, MakeTask(model, SomeIds(n, 1))).stats.routing;
  EXPECT_EQ(stats.tokens[RoutingStats::kQuery], layers * RoutedCount(n, 1.0 / 16));
  EXPECT_EQ(stats.tokens[RoutingStats::kKeyValue], layers * RoutedCount(n, 1.0 / 8));
  EXPECT_EQ(stats.tokens[RoutingStats::kFeedForward], layers * RoutedCount(n, 1.0 / 16));
  EXPECT_EQ(stats.follow_ups, (layers - 1) * RoutedCount(n, 1.0 / 16));
  EXPECT_LE(stats.repeated, stats.follow_ups);
  for (int r = 0; r < RoutingStats::kNumRouters; ++r) {
    EXPECT_GT(stats.weight[r], 0);
    EXPECT_LE(stats.weight[r], static_cast<double>(stats.tokens[r]));
  }
  EXPECT_EQ(engine->stats().routing.tokens, stats.tokens);

  // All tokens: every weight is 1, every query comes again.
  const auto all = Load(*engine, ModelDir("long", [](Config& c) { SetRates(c, 1); }));
  const RoutingStats full = Encode(*engine, MakeTask(all, SomeIds(n, 1))).stats.routing;
  EXPECT_EQ(full.tokens_routed(), 3 * layers * n);
  EXPECT_EQ(full.repeated, (layers - 1) * n);
  for (double weight : full.weight) EXPECT_NEAR(weight, static_cast<double>(layers * n), 1e-3);

  // Fewer tokens than 1 / rate: one of them is routed.
  const RoutingStats few = Encode(*engine, MakeTask(model, SomeIds(5, 1))).stats.routing;
  EXPECT_EQ(few.tokens_routed(), 3 * layers);
}

TEST(Colt5, PredictedBytesAreTheAllocatedOnes) {
  for (ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    EngineOptions options;
    options.compute_type = compute;
    for (const std::string name : {"routed", "none", "long"}) {
      std::unique_ptr<Engine> engine = testing::MakeEngine(options);
      const auto model = Load(*engine, ModelDir(name));
      for (int64_t n : {2, 63, 64, 65, 300, 1000, 2500}) {  // ascending: peaks are the engine's
        SCOPED_TRACE(name + ", " + std::to_string(n) + " tokens");
        EncodeTask task = MakeTask(model, SomeIds(n, 1));
        task.want_token_vectors = task.want_cross_kv = true;
        const EncodeResult result = Encode(*engine, std::move(task));
        EncodeShape shape;
        shape.tokens = n;
        shape.token_vectors = shape.cross_kv = true;
        const auto plan = engine->Plan(*model, shape);
        ASSERT_TRUE(plan.ok()) << plan.status();
        const int64_t vector_bytes = model->info().dimensions * 4;  // not of the pool
        EXPECT_EQ(result.stats.planned_bytes, plan->peak_bytes);
        EXPECT_EQ(result.stats.peak_bytes, plan->peak_bytes - vector_bytes);
        EXPECT_EQ(engine->stats().peak_allocated_bytes, plan->peak_bytes - vector_bytes);
      }
    }
  }
}

TEST(Colt5, ResultsKeepTheirMemoryAndOnlyTheirs) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = Load(*engine, ModelDir("routed"));
  const int64_t n = 1100, dim = model->info().dimensions;
  EncodeTask task = MakeTask(model, SomeIds(n, 3));
  task.want_token_vectors = task.want_cross_kv = true;
  EncodeResult result = Encode(*engine, std::move(task));

  // Projected token vectors pool to the projected document.
  std::vector<float> mean(dim);
  for (int64_t c = 0; c < dim; ++c) {
    double sum = 0;
    for (int64_t t = 0; t < n; ++t) sum += result.token_vectors[t * dim + c];
    mean[c] = static_cast<float>(sum / static_cast<double>(n));
  }
  EXPECT_LE(MaxAbsDifference(mean, result.document), 1e-5);

  const int64_t cross_bytes = result.cross_kv->bytes();
  EXPECT_EQ(cross_bytes, 2 * 18 * kernels::MqaBlockBytes(16, DType::kBF16));
  EXPECT_EQ(engine->stats().reserved_bytes, n * dim * 4 + cross_bytes);
  EXPECT_EQ(engine->stats().allocated_bytes, n * dim * 4 + cross_bytes);
  result.token_owner.reset();
  EXPECT_EQ(engine->stats().reserved_bytes, cross_bytes);
  EXPECT_EQ(engine->stats().allocated_bytes, cross_bytes);
  result.cross_kv.reset();
  EXPECT_EQ(engine->stats().reserved_bytes, 0);
  EXPECT_EQ(engine->stats().allocated_bytes, 0);
}

TEST(Colt5, CrossKeysNeedADecoder) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  for (const std::string name : {"no_keys"}) {
    EncodeTask task = MakeTask(Load(*engine, ModelDir(name)), SomeIds(20, 3));
    task.want_cross_kv = true;
    const absl::StatusOr<EncodeResult> result = EncodeAndWait(*engine, std::move(task));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ReasonOf(result.status()), "METHOD_NOT_SUPPORTED");
  }
}

TEST(Colt5, AbandonedInAnyPhaseItFreesItsMemory) {
  const std::unique_ptr<Backend> backend = MakeCpuBackend(DType::kF32, 1);
  backend->InitWorkerThread();
  const auto model = Colt5Model::Load("colt5", ModelDir("routed"), *backend);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<int32_t> ids = SomeIds(700, 1);
  std::vector<PassSequence> sequences(1);
  sequences[0].ids = ids;
  sequences[0].token_vectors = sequences[0].cross_kv = true;
  int phases = 0;
  bool finished = false;
  for (int stop = 0; !finished; ++stop) {
    auto pass = Colt5Pass::Create(*backend, **model, {}, sequences);
    ASSERT_TRUE(pass.ok()) << pass.status();
    MemoryPool pool(0);
    WorkerScratch scratch(pool);
    double progress = 0;
    for (phases = 0; phases < stop && !(*pass)->finished(); ++phases) {
      for (int64_t step = 0; step < (*pass)->num_steps(); ++step) {
        ASSERT_TRUE((*pass)->RunStep(step, scratch).ok());
        const double now = (*pass)->Progress(step + 1);
        EXPECT_GE(now, progress);
        progress = now;
      }
      (*pass)->NextPhase();
    }
    finished = (*pass)->finished();
    if (finished) {
      EXPECT_NEAR(progress, 1, 1e-9);
    }
    EXPECT_GT(backend->memory().allocated_bytes(), 0);
    pass->reset();
    EXPECT_EQ(backend->memory().allocated_bytes(), 0) << stop << " phases";
  }
  EXPECT_EQ(phases, 2 * 9 + 3);
}

TEST(Colt5, CancelledAtAnyTimeItFreesItsMemoryAtOnce) {
  std::unique_ptr<Engine> engine = testing::MakeEngine();
  const auto model = Load(*engine, ModelDir("long"));
  for (double at : {0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97}) {
    EncodeTask task = MakeTask(model, SomeIds(20000, 5));
    task.want_token_vectors = task.want_cross_kv = true;
    task.on_progress = [token = task.cancellation, at](double share) {
      if (share >= at) token->Cancel();
    };
    const absl::StatusOr<EncodeResult> result = EncodeAndWait(*engine, std::move(task));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled) << at;
    EXPECT_EQ(engine->stats().allocated_bytes, 0);
    EXPECT_EQ(engine->stats().reserved_bytes, 0);
  }
}

}  // namespace
}  // namespace longdoc
