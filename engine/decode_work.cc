#include "engine/decode_work.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/encode_pass.h"
#include "engine/generate_pass.h"

namespace longdoc {
namespace {

// Before anything has run: a cautious guess per worker, in FLOP/s.
constexpr double kFirstRate = 2e10;
constexpr double kRateSmoothing = 0.3;
// A work that takes more goes into the long lane: a second or so of two workers.
constexpr double kShortFlops = 1e11;
// Targets against a long document cost far more than tokens of a text: a work counts in tokens of
// this size, so that a full batch (2,048 of them by default) is no more than one short work may be.
constexpr double kFlopsPerToken = kShortFlops / 2048;

// The parts of a task that both kinds have, checked.
struct DecodeTarget {
  std::shared_ptr<const EncodingModel> model;
  std::shared_ptr<const CrossKv> document;

  const DecoderWeights& weights() const { return *model->decoder(); }
  // Of one row through all layers and the vocabulary.
  double RowFlops() const {
    const Colt5Config& c = weights().config;
    return DecoderFlopsPerTarget(c) +
           4.0 * static_cast<double>(c.decoder_layers * c.decoder_heads * c.head_dim) *
               static_cast<double>(document->tokens);
  }
};

absl::StatusOr<DecodeTarget> CheckTarget(const std::shared_ptr<const Model>& model,
                                         const std::shared_ptr<const CrossKv>& document) {
  DecodeTarget target{std::dynamic_pointer_cast<const EncodingModel>(model), document};
  if (target.model == nullptr || document == nullptr) {
    return absl::InternalError("decode task without a model of this engine, or without document");
  }
  if (target.model->decoder() == nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrFormat(
            "model \"%s\" has no decoder, it cannot score likelihoods or generate", model->name())),
        "METHOD_NOT_SUPPORTED");
  }
  const Colt5Config& config = target.weights().config;
  if (document->tokens < 1 || document->head_dim != config.head_dim ||
      static_cast<int64_t>(document->layers.size()) != config.decoder_layers) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "the document was encoded for a decoder of %d layers and head size %d, model \"%s\" "
            "has %d and %d",
            document->layers.size(), document->head_dim, model->name(), config.decoder_layers,
            config.head_dim)),
        "DOCUMENT_OF_ANOTHER_MODEL");
  }
  return target;
}

// What a device must have of the document besides: it cannot move while it is used.
int64_t OnDeviceBytes(DecodeResources& resources, const CrossKv& document) {
  return resources.backend().spill() != nullptr ? document.bytes() : 0;
}

absl::Status CheckFits(const DecodeResources& resources, const WorkNeeds& needs) {
  if (needs.peak_bytes <= resources.task_limit()) return absl::OkStatus();
  return WithReason(absl::ResourceExhaustedError(absl::StrFormat(
                        "decoding needs %d bytes, this server can give %d to one request",
                        needs.peak_bytes, resources.task_limit())),
                    "DECODE_EXCEEDS_MEMORY");
}

absl::Status CheckCandidate(const Model& model, const std::vector<int32_t>& ids) {
  if (ids.empty()) {
    return WithReason(absl::InvalidArgumentError("the candidate has no tokens"), "EMPTY_CANDIDATE");
  }
  const int64_t limit = model.info().max_target_tokens;
  const int64_t targets = static_cast<int64_t>(ids.size()) + 1;
  if (targets > limit) {
    return WithReason(absl::InvalidArgumentError(absl::StrFormat(
                          "the candidate has %d tokens with [SEP], model \"%s\" takes at most %d",
                          targets, model.name(), limit)),
                      "CANDIDATE_TOO_LONG");
  }
  return CheckTokenIds(model, ids);
}

class ScoreWork final : public Work {
 public:
  ScoreWork(ScoreTask&& task, DecodeTarget target, std::vector<absl::Status> faults,
            WorkNeeds needs, DecodeResources& resources)
      : Work(std::move(needs)),
        task_(std::move(task)),
        target_(std::move(target)),
        faults_(std::move(faults)),
        resources_(resources) {}

  bool CanJoin(const Work& first) const override {
    const auto* other = dynamic_cast<const ScoreWork*>(&first);
    return other != nullptr && other->target_.model == target_.model &&
           other->target_.document == target_.document;
  }
  absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) override;
  void Collect(Batch batch, Pass& pass, const absl::Status& status,
               ByteReservation& reservation) override;
  void Done(const absl::Status& status, const WorkTimings& timings) override;

 private:
  static ScoreWork& As(const std::unique_ptr<Work>& work) { return static_cast<ScoreWork&>(*work); }
  void OnScored(size_t candidate, std::vector<float> log_probs);

  ScoreTask task_;
  DecodeTarget target_;
  const std::vector<absl::Status> faults_;  // [candidates]
  DecodeResources& resources_;
  DecodeStats stats_;
};

absl::StatusOr<std::unique_ptr<Pass>> ScoreWork::MakePass(Batch batch) {
  ScorePass::Setup setup;
  std::vector<std::pair<ScoreWork*, size_t>> owners;  // of each item: work and candidate
  for (const auto& entry : batch) {
    ScoreWork& work = As(entry);
    for (size_t i = 0; i < work.task_.candidates.size(); ++i) {
      if (work.faults_[i].ok()) {
        setup.items.push_back({work.task_.candidates[i], work.task_.cancellation.get()});
        owners.emplace_back(&work, i);
      } else if (!work.task_.cancellation->cancelled()) {
        work.task_.on_scored(i, work.faults_[i]);
      }
    }
  }
  setup.backend = &resources_.backend();
  setup.pages = &resources_.pages();
  setup.weights = &target_.weights();
  setup.document = target_.document.get();
  setup.cls = target_.model->tokenizer().special().cls;
  setup.sep = target_.model->tokenizer().special().sep;
  setup.on_scored = [owners = std::move(owners)](size_t item, std::vector<float> log_probs) {
    owners[item].first->OnScored(owners[item].second, std::move(log_probs));
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Pass> pass, ScorePass::Create(std::move(setup)));
  return pass;
}

void ScoreWork::OnScored(size_t candidate, std::vector<float> log_probs) {
  if (!task_.cancellation->Check().ok()) return;
  CandidateScore score;
  for (const float p : log_probs) score.sum += p;
  score.num_targets = static_cast<int64_t>(log_probs.size());
  score.mean = score.sum / static_cast<double>(score.num_targets);
  stats_.targets += score.num_targets;
  if (!std::isfinite(score.sum)) {
    task_.on_scored(candidate,
                    absl::InternalError("the candidate's log-probability is not finite"));
    return;
  }
  if (task_.want_log_probs) score.log_probs = std::move(log_probs);
  task_.on_scored(candidate, std::move(score));
}

void ScoreWork::Collect(Batch batch, Pass& pass, const absl::Status& status,
                        ByteReservation& /*reservation*/) {
  const DecodeCount count = static_cast<ScorePass&>(pass).count();
  resources_.CountScored(count, target_.RowFlops() * static_cast<double>(count.rows), status.ok());
  if (count.targets == 0) return;
  for (const auto& entry : batch) {
    DecodeStats& stats = As(entry).stats_;
    stats.worker_seconds = count.worker_seconds * static_cast<double>(stats.targets) /
                           static_cast<double>(count.targets);
  }
}

void ScoreWork::Done(const absl::Status& status, const WorkTimings& timings) {
  target_ = {};  // the document is free before anyone is told
  task_.document.reset();
  if (!status.ok()) return std::move(task_.on_done)(status);
  stats_.queue_seconds = timings.queue_seconds;
  stats_.compute_seconds = timings.compute_seconds;
  stats_.planned_bytes = needs().peak_bytes;
  std::move(task_.on_done)(stats_);
}

class GenerateWork final : public Work {
 public:
  GenerateWork(GenerateTask&& task, DecodeTarget target, WorkNeeds needs,
               DecodeResources& resources)
      : Work(std::move(needs)),
        task_(std::move(task)),
        target_(std::move(target)),
        resources_(resources) {}

  bool CanJoin(const Work& first) const override { return &first == this; }
  absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) override;
  void Collect(Batch batch, Pass& pass, const absl::Status& status,
               ByteReservation& reservation) override;
  void Done(const absl::Status& status, const WorkTimings& timings) override;

 private:
  GenerateTask task_;
  DecodeTarget target_;
  DecodeResources& resources_;
  GenerateResult result_;
};

absl::StatusOr<std::unique_ptr<Pass>> GenerateWork::MakePass(Batch /*batch*/) {
  GeneratePass::Setup setup;
  setup.backend = &resources_.backend();
  setup.pages = &resources_.pages();
  setup.weights = &target_.weights();
  setup.document = target_.document.get();
  setup.cls = target_.model->tokenizer().special().cls;
  setup.sep = target_.model->tokenizer().special().sep;
  setup.prompt = task_.prompt;
  setup.max_new_tokens = task_.max_new_tokens;
  setup.sampling = task_.sampling;
  setup.on_token = [this](int32_t token, float log_prob) {
    if (task_.on_token && task_.cancellation->Check().ok()) task_.on_token(token, log_prob);
  };
  ASSIGN_OR_RETURN(std::unique_ptr<Pass> pass, GeneratePass::Create(std::move(setup)));
  return pass;
}

void GenerateWork::Collect(Batch /*batch*/, Pass& pass, const absl::Status& status,
                           ByteReservation& /*reservation*/) {
  auto& generate = static_cast<GeneratePass&>(pass);
  const DecodeCount count = generate.count();
  resources_.CountGenerated(count);
  if (!status.ok()) return;
  result_.tokens = generate.TakeTokens();
  result_.log_probs = generate.TakeLogProbs();
  result_.stopped = generate.stopped();
  result_.stats.targets = count.targets;
  result_.stats.worker_seconds = count.worker_seconds;
}

void GenerateWork::Done(const absl::Status& status, const WorkTimings& timings) {
  target_ = {};
  task_.document.reset();
  if (!status.ok()) return std::move(task_.on_done)(status);
  result_.stats.queue_seconds = timings.queue_seconds;
  result_.stats.compute_seconds = timings.compute_seconds;
  result_.stats.planned_bytes = needs().peak_bytes;
  std::move(task_.on_done)(std::move(result_));
}

}  // namespace

DecodeResources::DecodeResources(Backend& backend, int64_t memory_budget)
    : backend_(backend),
      pages_(backend.memory(), memory_budget),
      rate_(kFirstRate * backend.info().num_workers) {}

void DecodeResources::CountScored(const DecodeCount& count, double flops, bool ok) {
  std::lock_guard lock(mutex_);
  counters_.candidates_scored += count.candidates;
  counters_.tokens_scored += count.targets;
  counters_.seconds += count.worker_seconds;
  if (!ok || count.worker_seconds < 1e-3) return;
  rate_ += kRateSmoothing * (flops / count.worker_seconds * backend_.info().num_workers - rate_);
}

void DecodeResources::CountGenerated(const DecodeCount& count) {
  std::lock_guard lock(mutex_);
  counters_.tokens_generated += count.targets;
  counters_.recorded_rounds += count.recorded_rounds;
  counters_.replayed_rounds += count.replayed_rounds;
  counters_.seconds += count.worker_seconds;
}

double DecodeResources::ExpectedSeconds(double flops) const {
  std::lock_guard lock(mutex_);
  return flops / rate_;
}

void DecodeResources::AddTo(EngineStats* stats) const {
  std::lock_guard lock(mutex_);
  stats->decode = counters_;
  stats->decode.cache_bytes = pages_.bytes();
  if (backend_.spill() != nullptr) stats->decode.spill = backend_.spill()->stats();
}

absl::StatusOr<std::unique_ptr<Work>> MakeScoreWork(DecodeResources& resources, ScoreTask&& task) {
  if (task.cancellation == nullptr || task.on_scored == nullptr || task.on_done == nullptr) {
    return absl::InternalError("score task without token or callbacks");
  }
  ASSIGN_OR_RETURN(DecodeTarget target, CheckTarget(task.model, task.document));
  if (task.candidates.empty()) {
    return WithReason(absl::InvalidArgumentError("there are no candidates to score"),
                      "NO_CANDIDATES");
  }
  WorkNeeds needs;
  std::vector<absl::Status> faults;
  std::vector<int64_t> lengths;
  int64_t targets = 0;
  for (const std::vector<int32_t>& candidate : task.candidates) {
    faults.push_back(CheckCandidate(*task.model, candidate));
    if (!faults.back().ok()) continue;
    lengths.push_back(static_cast<int64_t>(candidate.size()));
    targets += lengths.back() + 1;
  }
  if (!lengths.empty()) {
    needs.peak_bytes = ScorePass::PlanBytes(target.weights(), resources.backend().info(),
                                            task.document->tokens, lengths);
  }
  needs.peak_bytes += OnDeviceBytes(resources, *task.document);
  RETURN_IF_ERROR(CheckFits(resources, needs));
  const double flops = target.RowFlops() * static_cast<double>(targets);
  needs.tokens = std::max(targets, static_cast<int64_t>(flops / kFlopsPerToken));
  needs.expected_seconds = resources.ExpectedSeconds(flops);
  needs.lane = flops <= kShortFlops ? Lane::kShort : Lane::kLong;
  needs.cancellation = task.cancellation;
  return std::make_unique<ScoreWork>(std::move(task), std::move(target), std::move(faults),
                                     std::move(needs), resources);
}

absl::StatusOr<std::unique_ptr<Work>> MakeGenerateWork(DecodeResources& resources,
                                                       GenerateTask&& task) {
  if (task.cancellation == nullptr || task.on_done == nullptr) {
    return absl::InternalError("generate task without token or callback");
  }
  ASSIGN_OR_RETURN(DecodeTarget target, CheckTarget(task.model, task.document));
  RETURN_IF_ERROR(CheckTokenIds(*task.model, task.prompt));
  RETURN_IF_ERROR(CheckSamplingOptions(task.sampling));
  const int64_t limit = task.model->info().max_target_tokens;
  const int64_t prompt = static_cast<int64_t>(task.prompt.size());
  if (task.max_new_tokens < 1 || task.max_new_tokens > limit - prompt) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "a prompt of %d tokens and %d new ones were asked; at least 1 must be new, and model "
            "\"%s\" takes at most %d together",
            prompt, task.max_new_tokens, task.model->name(), limit)),
        "TOO_MANY_TOKENS");
  }
  WorkNeeds needs;
  needs.tokens = prompt + task.max_new_tokens;
  needs.peak_bytes = GeneratePass::PlanBytes(target.weights(), resources.backend().info(),
                                             task.document->tokens, prompt, task.max_new_tokens);
  needs.peak_bytes += OnDeviceBytes(resources, *task.document);
  RETURN_IF_ERROR(CheckFits(resources, needs));
  needs.expected_seconds =
      resources.ExpectedSeconds(target.RowFlops() * static_cast<double>(needs.tokens));
  needs.lane = Lane::kLong;
  needs.cancellation = task.cancellation;
  return std::make_unique<GenerateWork>(std::move(task), std::move(target), std::move(needs),
                                        resources);
}

}  // namespace longdoc
