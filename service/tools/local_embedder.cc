// Embedding in this process: document builder, engine, output encoding.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/cancellation.h"
#include "engine/base/status_macros.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "engine/vector_output.h"
#include "service/tools/embedder.h"

namespace longdoc::tools {
namespace {

constexpr size_t kChunkBytes = 64 << 10;
// Nobody else shares this process: only tokens are limited, and memory, by the engine's plan.
constexpr int64_t kMaxBytes = int64_t{1} << 40;
constexpr int64_t kMaxPassages = int64_t{1} << 24;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class LocalEmbedder final : public Embedder {
 public:
  LocalEmbedder(std::unique_ptr<Engine> engine, std::shared_ptr<const Model> model,
                int64_t max_tokens)
      : engine_(std::move(engine)),
        model_(std::move(model)),
        limits_{max_tokens, kMaxBytes, kMaxPassages} {}

  absl::StatusOr<EmbedSummary> Embed(const EmbedOptions& options, DocumentInput& document,
                                     EmbedSink& sink) override;
  absl::StatusOr<v1::EstimateDocumentResponse> Plan(int64_t tokens, int64_t num_passages,
                                                    bool token_vectors,
                                                    const AttentionPolicy& attention) override;

 private:
  absl::StatusOr<TokenizedDocument> Tokenize(const EmbedOptions& options, DocumentInput& document,
                                             EmbedSink& sink);
  absl::StatusOr<EncodeResult> Encode(const EmbedOptions& options,
                                      const TokenizedDocument& document, EmbedSink& sink);

  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const Model> model_;
  const DocumentLimits limits_;
};

absl::StatusOr<TokenizedDocument> LocalEmbedder::Tokenize(const EmbedOptions& options,
                                                          DocumentInput& document,
                                                          EmbedSink& sink) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<DocumentBuilder> builder,
      DocumentBuilder::Create(model_->tokenizer(), options.passages, options.overflow, limits_));
  if (document.source == nullptr) {
    RETURN_IF_ERROR(builder->AppendIds(document.ids));
    return builder->Finish();
  }
  const int64_t size = document.source->size().value_or(0);
  std::string chunk;
  while (true) {
    RETURN_IF_ERROR(document.source->Read(kChunkBytes, &chunk));
    if (chunk.empty()) return builder->Finish();
    RETURN_IF_ERROR(builder->AppendText(chunk));
    const double fraction =
        size > 0 ? static_cast<double>(builder->num_bytes()) / static_cast<double>(size) : -1;
    sink.OnProgress({"tokenizing", fraction, builder->num_tokens(), 0});
  }
}

absl::StatusOr<EncodeResult> LocalEmbedder::Encode(const EmbedOptions& options,
                                                   const TokenizedDocument& document,
                                                   EmbedSink& sink) {
  EncodeTask task;
  task.model = model_;
  task.ids = document.ids;
  for (const Passage& passage : document.passages) task.spans.push_back(passage.tokens);
  task.want_token_vectors = options.token_vectors;
  task.attention = options.attention;
  task.cancellation = std::make_shared<CancellationToken>();
  const int64_t tokens = static_cast<int64_t>(document.ids.size());
  const auto start = std::chrono::steady_clock::now();
  task.on_progress = [&sink, tokens, start](double fraction) {
    const double left = fraction > 0.02 ? SecondsSince(start) * (1 - fraction) / fraction : 0;
    sink.OnProgress({"encoding", fraction, tokens, left});
  };
  return EncodeAndWait(*engine_, std::move(task));
}

VectorRecord NewRecord(VectorKind kind, absl::Span<const float> vector,
                       const VectorOptions& options) {
  VectorRecord record;
  record.kind = kind;
  record.encoding = options.encoding;
  record.dimensions =
      options.dimensions > 0 ? options.dimensions : static_cast<int32_t>(vector.size());
  EncodeVector(vector, options, &record.data, &record.scale);
  return record;
}

// All vectors of a result, in the order in which the server sends them.
absl::Status Emit(const TokenizedDocument& document, const EncodeResult& result,
                  const EmbedOptions& options, EmbedSink& sink) {
  const size_t dim = result.document.size();
  const int64_t tokens = static_cast<int64_t>(document.ids.size());
  for (size_t i = 0; i < document.passages.size(); ++i) {
    const Passage& passage = document.passages[i];
    VectorRecord record =
        NewRecord(VectorKind::kPassage, {result.passages.data() + i * dim, dim}, options.vector);
    record.granularity = passage.granularity;
    record.index = passage.index;
    record.tokens = passage.tokens;
    record.bytes = passage.bytes;
    RETURN_IF_ERROR(sink.OnVector(record));
  }
  for (int64_t t = 0; options.token_vectors && t < tokens; ++t) {
    VectorRecord record =
        NewRecord(VectorKind::kToken, {result.token_vectors + static_cast<size_t>(t) * dim, dim},
                  options.vector);
    record.index = t;
    record.tokens = {t, t + 1};
    if (!document.bytes.empty()) record.bytes = document.bytes[static_cast<size_t>(t)];
    RETURN_IF_ERROR(sink.OnVector(record));
  }
  VectorRecord record = NewRecord(VectorKind::kDocument, result.document, options.vector);
  record.tokens = {0, tokens};
  record.bytes = document.kept;
  return sink.OnVector(record);
}

v1::EncodeStats ToStats(const TokenizedDocument& document, const EncodeStats& in) {
  v1::EncodeStats out;
  out.set_input_tokens(document.input_tokens);
  out.set_encoded_tokens(in.tokens);
  out.set_truncated(document.truncated);
  out.mutable_encoded_bytes()->set_begin(document.kept.begin);
  out.mutable_encoded_bytes()->set_end(document.kept.end);
  out.set_queue_seconds(in.queue_seconds);
  out.set_compute_seconds(in.compute_seconds);
  out.set_attention_tiles_computed(in.tiles_computed);
  out.set_attention_tiles_dense(in.tiles_dense);
  if (in.tiles_dense > 0) {
    out.set_tile_fraction(static_cast<float>(static_cast<double>(in.tiles_computed) /
                                             static_cast<double>(in.tiles_dense)));
  }
  out.set_epsilon(in.epsilon);
  out.set_max_logit_bound(in.max_logit_bound);
  out.set_planned_bytes(in.planned_bytes);
  out.set_peak_bytes(in.peak_bytes);
  out.set_batch_texts(in.batch_sequences);
  return out;
}

absl::StatusOr<EmbedSummary> LocalEmbedder::Embed(const EmbedOptions& options,
                                                  DocumentInput& document, EmbedSink& sink) {
  RETURN_IF_ERROR(CheckVectorOptions(options.vector, model_->info().dimensions));
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const TokenizedDocument tokenized, Tokenize(options, document, sink));
  const double tokenize_seconds = SecondsSince(start);
  ASSIGN_OR_RETURN(const EncodeResult result, Encode(options, tokenized, sink));
  RETURN_IF_ERROR(Emit(tokenized, result, options, sink));
  EmbedSummary summary;
  summary.model = model_->name();
  summary.model_revision = model_->revision();
  summary.num_passages = static_cast<int64_t>(tokenized.passages.size());
  summary.stats = ToStats(tokenized, result.stats);
  summary.stats.set_tokenize_seconds(tokenize_seconds);
  return summary;
}

absl::StatusOr<v1::EstimateDocumentResponse> LocalEmbedder::Plan(int64_t tokens,
                                                                 int64_t num_passages,
                                                                 bool token_vectors,
                                                                 const AttentionPolicy& attention) {
  ASSIGN_OR_RETURN(const EncodePlan plan, engine_->Plan(*model_, {.tokens = tokens,
                                                                  .num_vectors = num_passages + 1,
                                                                  .token_vectors = token_vectors,
                                                                  .attention = attention}));
  const absl::Status fits = engine_->CheckFits(plan);
  v1::EstimateDocumentResponse out;
  out.set_activation_bytes(plan.activation_bytes);
  out.set_output_bytes(plan.output_bytes);
  out.set_peak_bytes(plan.peak_bytes);
  out.set_memory_budget_bytes(engine_->memory_budget_bytes());
  out.set_admissible(fits.ok());
  if (!fits.ok()) out.set_refusal(std::string(fits.message()));
  out.set_dense_flops(plan.dense_flops);
  out.set_attention_flops(plan.attention_flops);
  out.set_expected_tile_fraction(plan.expected_tile_fraction);
  out.set_expected_seconds(plan.expected_seconds);
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Embedder>> NewLocalEmbedder(const LocalOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(options.engine));
  ASSIGN_OR_RETURN(std::shared_ptr<const Model> model,
                   engine->LoadModel("local", options.model_dir));
  return std::make_unique<LocalEmbedder>(std::move(engine), std::move(model), options.max_tokens);
}

}  // namespace longdoc::tools
