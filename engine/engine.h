// The engine: models, and a scheduler that encodes documents on one device.
//
// Thread-safe. Knows nothing of gRPC or Prometheus; the service and the command line both stand on
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/cancellation.h"
#include "engine/model/encoder_config.h"
#include "engine/options.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

enum class ComputeType { kAuto, kF32, kBF16 };

struct EngineOptions {
  std::string device = "auto";                    // "auto", "cpu", "reference"
  ComputeType compute_type = ComputeType::kAuto;  // auto: bf16 where the CPU has bf16 dot products
  int num_threads = 0;                            // 0: one per core
  int64_t memory_budget_bytes = 0;  // for running documents; 0: 70 % of the machine's memory (or
                                    // of the cgroup's limit)
  int64_t max_queued_tokens = 4 << 20;
  int64_t max_queued_tasks = 4096;
  int64_t max_batch_tokens = 2048;   // of one packed batch of short texts
  int64_t short_text_tokens = 1024;  // longer ones run alone
};

// Of a memory budget, what long documents may hold together: the rest stays free for short texts.
constexpr int64_t LongTaskBudget(int64_t budget) { return budget - budget / 16; }

// A loaded model: weights packed for the device, tokenizer, configuration. Immutable, shared.
class Model {
 public:
  virtual ~Model() = default;
  virtual const std::string& name() const = 0;
  virtual const EncoderConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const std::string& revision() const = 0;
  virtual ComputeType compute_type() const = 0;  // kF32 or kBF16
  virtual int64_t weight_bytes() const = 0;
};

// What an encode of `tokens` tokens will take.
struct EncodePlan {
  int64_t tokens = 0;
  int64_t activation_bytes = 0;  // x, q/o, k/v: what grows with the document
  int64_t output_bytes = 0;      // vectors
  int64_t scratch_bytes = 0;     // per worker, kept; not charged to a document
  int64_t peak_bytes = 0;        // activation + output: what admission reserves
  double dense_flops = 0;        // projections and feed-forward
  double attention_flops = 0;    // with the policy's expected share of tiles
  double expected_tile_fraction = 1;
  double expected_seconds = 0;  // from the rate seen so far (a conservative guess before any)
};

// Of one text or document. What texts of one batch share (worker seconds, bytes) is divided among
// them by tokens; wall-clock times are the batch's.
struct EncodeStats {
  int64_t tokens = 0;
  double queue_seconds = 0;
  double compute_seconds = 0;    // from the first step to the last
  double attention_seconds = 0;  // worker time in attention, and in everything else
  double dense_seconds = 0;
  int64_t tiles_computed = 0;
  int64_t tiles_dense = 0;
  float max_logit_bound = 0;
  float epsilon = 0;  // the bound that was kept: output moved by at most 2·epsilon·max‖v‖
  int64_t planned_bytes = 0;
  int64_t peak_bytes = 0;       // really allocated for this document
  int64_t batch_sequences = 1;  // how many texts shared the pass
};

struct EncodeResult {
  std::vector<float> document;  // [C], mean over all tokens, not normalised
  std::vector<float> passages;  // [number of spans, C]
  // Token vectors if asked: [tokens, C], and what keeps them alive.
  const float* token_vectors = nullptr;
  std::shared_ptr<const void> token_owner;
  EncodeStats stats;
};

struct EncodeTask {
  std::shared_ptr<const Model> model;
  std::vector<int32_t> ids;
  std::vector<TokenSpan> spans;  // to pool besides the whole; within [0, ids.size()], not empty
  bool want_token_vectors = false;
  AttentionPolicy attention;
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called now and then from a worker: share of the work done in [0, 1]. Must be quick.
  std::function<void(double)> on_progress;
  // Called exactly once, from a worker or from Stop, iff Submit returned OK. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<EncodeResult>) &&> on_done;
};

// A reading of the scheduler for metrics; cheap.
struct EngineStats {
  int64_t queued_tasks = 0, queued_tokens = 0;
  int64_t running_tasks = 0, running_tokens = 0;
  int64_t reserved_bytes = 0, allocated_bytes = 0, peak_allocated_bytes = 0;
  int64_t memory_budget_bytes = 0;
  int64_t scratch_bytes = 0;
  int64_t batches = 0, batch_sequences = 0, batch_tokens = 0;  // counters
  int64_t tokens_encoded = 0;                                  // counter
  int64_t tiles_computed = 0, tiles_dense = 0;                 // counters
  double attention_seconds = 0, dense_seconds = 0;             // counters, worker time
};

class Engine {
 public:
  virtual ~Engine() = default;
  // INVALID_ARGUMENT for options out of range, FAILED_PRECONDITION for a device that is not there.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options);

  // Reads a model directory. Not fast; errors name the file.
  virtual absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& name,
                                                                 const std::string& dir) = 0;
  // What an encode would take; INVALID_ARGUMENT for tokens < 1 or a bad policy.
  virtual absl::StatusOr<EncodePlan> Plan(const Model& model, int64_t tokens, int64_t num_vectors,
                                          bool want_token_vectors,
                                          const AttentionPolicy& policy) const = 0;
  // Queues a task; never blocks. `task` is used up either way. INVALID_ARGUMENT (empty, id out of
  // range, bad span, bad policy); RESOURCE_EXHAUSTED (QUEUE_FULL with a retry delay; or
  // DOCUMENT_EXCEEDS_MEMORY: can never fit, naming needed and available bytes); UNAVAILABLE after
  // Stop. Callbacks of a task come in order; on_done gets CANCELLED or DEADLINE_EXCEEDED when the
  // token says so, within one step.
  virtual absl::Status Submit(EncodeTask&& task) = 0;
  virtual EngineStats stats() const = 0;
  virtual const EngineOptions& options() const = 0;   // with defaults filled in
  virtual std::string DeviceDescription() const = 0;  // "cpu avx2, 2 threads, f32"
  // Fails queued tasks with UNAVAILABLE, cancels running ones, joins the workers. Idempotent; the
  // destructor calls it.
  virtual void Stop() = 0;
};

// Submit and wait: for the command line, benchmarks and tests.
absl::StatusOr<EncodeResult> EncodeAndWait(Engine& engine, EncodeTask task);

// OK, or INVALID_ARGUMENT (INVALID_ATTENTION_POLICY) naming the field, its range and the value.
absl::Status CheckAttentionPolicy(const AttentionPolicy& policy);

}  // namespace longdoc
