// The engine: models, and a scheduler that encodes documents on one device.
//
// Thread-safe. Knows nothing of gRPC or Prometheus; the service and the command line both stand on
// it.
#pragma once

#include <array>
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
#include "engine/cross_kv.h"
#include "engine/decode_task.h"
#include "engine/options.h"
#include "engine/tensor.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

class ArrivingIds;
class CrossEncoderHead;
struct MaxSimTask;
struct TokenVectors;

enum class ComputeType { kAuto, kF32, kBF16 };

struct EngineOptions {
  // "auto", "cpu", "reference", "cuda" (the first one) or "cuda:N". auto: the first CUDA device,
  // and the CPU where none can be used.
  std::string device = "auto";
  // auto: bf16 on a CUDA device (which has nothing else), and where the CPU has bf16 dot products.
  ComputeType compute_type = ComputeType::kAuto;
  int num_threads = 0;  // 0: one per core. A CUDA device has one that launches, whatever is asked
  // For running documents; 0: 70 % of the machine's memory (or of the cgroup's limit). A CUDA
  // device gives what weights and scratch leave of its memory, and no more than is asked here.
  int64_t memory_budget_bytes = 0;
  int64_t device_memory_bytes = 0;  // most that is taken of a CUDA device; 0: nearly all of it
  // Most pinned host memory for documents that a CUDA device has no room for; 0: a quarter of the
  // machine's memory (or of the cgroup's limit).
  int64_t spill_memory_bytes = 0;
  // Asked when that is used up, too, from any worker: lets go of a document that nobody uses
  // (DocumentStore::EvictOne), or says false. Then what needs the memory is refused.
  std::function<bool()> make_room;
  // Called once, from any thread, when the device is lost. Every work fails from then on, and only
  // a new process can use the device again.
  std::function<void(const absl::Status&)> on_device_lost;
  int64_t max_queued_tokens = 4 << 20;
  int64_t max_queued_tasks = 4096;
  int64_t max_batch_tokens = 2048;   // of one packed batch of short texts
  int64_t short_text_tokens = 1024;  // longer ones run alone
};

// Whether EngineOptions::device may be this: "auto", "cpu", "reference", "cuda", "cuda:0" to
// "cuda:999".
bool IsDeviceName(const std::string& device);

// Of a memory budget, what long documents may hold together: the rest stays free for short texts.
constexpr int64_t LongTaskBudget(int64_t budget) { return budget - budget / 16; }

// What a model is, and what it can do.
struct ModelInfo {
  std::string family;      // "jina_bert_a", "jina_bert_b", "longdoc_colt5"
  int64_t vocab_size = 0;  // ids are in [0, vocab_size)
  int64_t dimensions = 0;  // of document, passage and token vectors
  int64_t hidden_size = 0;
  int64_t num_layers = 0;  // of the encoder, with its widest attention's heads
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t parameters = 0;
  bool can_embed = true;
  bool can_score_likelihood = false;  // has a decoder
  bool can_cross_encode = false;      // has a reranker's head
  int64_t max_target_tokens = 0;      // decoder positions of one candidate; 0 without a decoder
};

// A loaded model: weights packed for the device, tokenizer, configuration. Immutable, shared.
class Model {
 public:
  virtual ~Model() = default;
  virtual const std::string& name() const = 0;
  virtual const ModelInfo& info() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const std::string& revision() const = 0;
  virtual ComputeType compute_type() const = 0;  // kF32 or kBF16
  virtual int64_t weight_bytes() const = 0;
  // A reranker's head (cross_encoder.h), or null.
  virtual const CrossEncoderHead* cross_encoder() const { return nullptr; }
};

// What an encode is asked for, as far as its cost depends on it.
struct EncodeShape {
  int64_t tokens = 0;
  int64_t num_vectors = 1;  // of the document and of passages
  bool token_vectors = false;
  bool keep_token_vectors = false;
  bool cross_kv = false;
  DType cross_kv_type = DType::kBF16;
  AttentionPolicy attention = {};
};

// What such an encode will take.
struct EncodePlan {
  int64_t tokens = 0;
  int64_t activation_bytes = 0;  // x, q/o, k/v: what grows with the document
  int64_t output_bytes = 0;      // vectors, cross keys and values
  int64_t scratch_bytes = 0;     // per worker, kept; not charged to a document
  int64_t peak_bytes = 0;        // activation + output: what admission reserves
  double dense_flops = 0;        // projections and feed-forward
  double attention_flops = 0;    // with the policy's expected share of tiles
  double expected_tile_fraction = 1;
  double expected_seconds = 0;  // from the rate seen so far (a conservative guess before any)
};

// Conditional computation, summed over layers; zeros for models without.
struct RoutingStats {
  enum Router { kQuery, kKeyValue, kFeedForward, kNumRouters };
  std::array<int64_t, kNumRouters> tokens{};  // routed to the heavy branch
  std::array<double, kNumRouters> weight{};   // sum of their soft weights, each in (0, 1]
  // Of the routed queries of all layers but the first: how many there are, and how many of them
  // the layer before routed as well.
  int64_t follow_ups = 0, repeated = 0;

  int64_t tokens_routed() const {
    return tokens[kQuery] + tokens[kKeyValue] + tokens[kFeedForward];
  }
  RoutingStats& operator+=(const RoutingStats& more);
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
  double dense_flops = 0;  // really done
  double attention_flops = 0;
  RoutingStats routing;
  float max_logit_bound = 0;
  float epsilon = 0;  // the bound that was kept: output moved by at most 2·epsilon·max‖v‖
  int64_t planned_bytes = 0;
  int64_t peak_bytes = 0;       // really allocated for this document
  int64_t batch_sequences = 1;  // how many texts shared the pass
};

struct EncodeResult {
  std::vector<float> document;  // [dimensions], mean over all tokens, not normalised
  std::vector<float> passages;  // [number of spans, dimensions]
  // Token vectors if asked: [tokens, dimensions], and what keeps them alive.
  const float* token_vectors = nullptr;
  std::shared_ptr<const void> token_owner;
  // Token vectors for late interaction (token_vectors.h) and the decoder's keys and values, each if
  // asked. Their bytes stay reserved in the engine's budget until they are released, unless the
  // caller counts them.
  std::shared_ptr<const TokenVectors> kept_token_vectors;
  std::shared_ptr<const CrossKv> cross_kv;
  EncodeStats stats;
};

struct EncodeTask {
  std::shared_ptr<const Model> model;
  std::vector<int32_t> ids;
  // From this engine's ReceiveIds: the same ids, or the first of them, as they arrived. Or null.
  std::shared_ptr<ArrivingIds> arrived;
  std::vector<TokenSpan> spans;  // to pool besides the whole; within [0, ids.size()], not empty
  bool want_token_vectors = false;
  bool keep_token_vectors = false;  // as late interaction wants them; besides, or instead
  bool want_cross_kv = false;       // only of a model that can_score_likelihood
  DType cross_kv_type = DType::kBF16;
  // Of what is kept (token vectors, cross keys and values): once it is there the caller counts its
  // bytes in a budget of its own, and this engine's has them no more.
  bool caller_counts_kept = false;
  AttentionPolicy attention;
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called now and then from a worker: share of the work done in [0, 1]. Must be quick.
  std::function<void(double)> on_progress;
  // Called exactly once, from a worker or from Stop, iff Submit returned OK. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<EncodeResult>) &&> on_done;
};

// Of the decoder.
struct DecodeCounters {
  int64_t cache_bytes = 0;  // gauge: pages of self-attention keys and values
  int64_t candidates_scored = 0;
  int64_t tokens_scored = 0;  // targets, [SEP] included
  int64_t tokens_generated = 0;
  // On a device: how often the ops of a generation's round were recorded, and replayed.
  int64_t recorded_rounds = 0, replayed_rounds = 0;
  double seconds = 0;  // worker time
  SpillStats spill;
};

// Of a device's own memory: weights, scratch and documents. All 0 where memory is the host's.
struct DeviceMemoryStats {
  int64_t limit_bytes = 0;      // most that is ever taken
  int64_t allocated_bytes = 0;  // in use
  int64_t retained_bytes = 0;   // taken but free, for what comes next
  int64_t peak_bytes = 0;       // most in use at once so far
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
  RoutingStats routing;                                        // counters
  DecodeCounters decode;
  DeviceMemoryStats device_memory;
};

class Engine {
 public:
  virtual ~Engine() = default;
  // INVALID_ARGUMENT for options out of range, FAILED_PRECONDITION for a device that is not there.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options);

  // Reads a model directory. Not fast; errors name the file.
  virtual absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& name,
                                                                 const std::string& dir) = 0;
  // What an encode would take; INVALID_ARGUMENT for tokens < 1 or a bad policy,
  // FAILED_PRECONDITION for cross keys and values of a model without a decoder, or of a type that
  // the device does not keep.
  virtual absl::StatusOr<EncodePlan> Plan(const Model& model, const EncodeShape& shape) const = 0;
  // RESOURCE_EXHAUSTED (DOCUMENT_EXCEEDS_MEMORY), naming needed and available bytes, when such an
  // encode can never fit this engine's budget, however idle it is.
  absl::Status CheckFits(const EncodePlan& plan) const;
  // For a document that arrives in pieces: its ids, appended as they come (arriving_ids.h), are on
  // the device by the time the document is whole. Null where nothing has to be copied, and so where
  // there is nothing to do. The engine outlives it.
  virtual std::shared_ptr<ArrivingIds> ReceiveIds() { return nullptr; }
  // Queues a task; never blocks. `task` is used up either way. INVALID_ARGUMENT (empty, id out of
  // range, bad span, bad policy); FAILED_PRECONDITION as Plan; RESOURCE_EXHAUSTED (QUEUE_FULL with
  // a retry delay, or as CheckFits); UNAVAILABLE after Stop. Callbacks of a task come in order;
  // on_done gets CANCELLED or DEADLINE_EXCEEDED when the token says so, within one step.
  virtual absl::Status Submit(EncodeTask&& task) = 0;
  // Late interaction (similarity.h); errors and callbacks likewise.
  virtual absl::Status Submit(MaxSimTask&& task) = 0;
  // Likelihoods and text from the decoder (decode_task.h). Errors: decode_work.h, and as above from
  // the queue.
  virtual absl::Status Submit(ScoreTask&& task) = 0;
  virtual absl::Status Submit(GenerateTask&& task) = 0;
  virtual EngineStats stats() const = 0;
  virtual const EngineOptions& options() const = 0;   // with defaults filled in
  virtual std::string DeviceDescription() const = 0;  // "cpu avx2, 2 threads, f32"
  // Why "auto" is not a CUDA device, in one line; empty when it is, or was not asked.
  virtual std::string DeviceNote() const { return ""; }
  // options().memory_budget_bytes, less what models have taken of a device since.
  virtual int64_t memory_budget_bytes() const { return options().memory_budget_bytes; }
  // Fails queued tasks with UNAVAILABLE, cancels running ones, joins the workers. Idempotent; the
  // destructor calls it.
  virtual void Stop() = 0;
};

// Submit and wait: for the command line, benchmarks and tests.
absl::StatusOr<EncodeResult> EncodeAndWait(Engine& engine, EncodeTask task);

// OK, or INVALID_ARGUMENT (TOKEN_OUT_OF_VOCABULARY) naming the first bad id and its position;
// ids[0] is at `first_position`.
absl::Status CheckTokenIds(const Model& model, absl::Span<const int32_t> ids,
                           int64_t first_position = 0);

// OK, or INVALID_ARGUMENT (INVALID_ATTENTION_POLICY) naming the field, its range and the value.
absl::Status CheckAttentionPolicy(const AttentionPolicy& policy);

}  // namespace longdoc
