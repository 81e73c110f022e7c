#include "service/generate_job.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"
#include "service/invalid.h"
#include "service/item_status.h"

namespace longdoc::service {
namespace {

constexpr int64_t kDefaultNewTokens = 64;
constexpr float kMaxTemperature = 100;

// Absent: greedy. Comparisons are written so that NaN fails.
absl::StatusOr<SamplingOptions> ParseSampling(const v1::GenerateTextRequest& request) {
  SamplingOptions options;
  if (!request.has_sampling()) return options;
  const v1::Sampling& sampling = request.sampling();
  options.temperature = sampling.has_temperature() ? sampling.temperature() : 1;
  options.top_k = sampling.top_k();
  options.top_p = sampling.has_top_p() ? sampling.top_p() : 1;
  options.seed = sampling.seed();
  if (!(options.temperature >= 0 && options.temperature <= kMaxTemperature)) {
    return Invalid(absl::StrFormat("sampling.temperature must be in [0, %g], got %g",
                                   kMaxTemperature, options.temperature),
                   "INVALID_SAMPLING");
  }
  if (options.top_k < 0) {
    return Invalid(absl::StrFormat("sampling.top_k must be at least 0, got %d", options.top_k),
                   "INVALID_SAMPLING");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return Invalid(absl::StrFormat("sampling.top_p must be in (0, 1], got %g", options.top_p),
                   "INVALID_SAMPLING");
  }
  return options;
}

}  // namespace

std::shared_ptr<GenerateJob> GenerateJob::Create(ServiceContext& context, Executor executor,
                                                 TimePoint deadline,
                                                 const v1::GenerateTextRequest& request) {
  deadline = CutDeadline(deadline, context.timers.Now(), context.limits);
  return std::shared_ptr<GenerateJob>(
      new GenerateJob(context, std::move(executor), deadline, request));
}

GenerateJob::GenerateJob(ServiceContext& context, Executor executor, TimePoint deadline,
                         const v1::GenerateTextRequest& request)
    : context_(context),
      executor_(std::move(executor)),
      deadline_(deadline),
      token_(std::make_shared<CancellationToken>(deadline)),
      request_(request) {}

void GenerateJob::Start(GenerateTransport* transport, const absl::Status& admission) {
  absl::Status status = admission.ok() ? Open() : admission;
  {
    std::lock_guard lock(mutex_);
    transport_ = transport;
    if (!status.ok()) return FailLocked(std::move(status));
    ArmTimerLocked();
  }
  executor_([self = shared_from_this()] {
    absl::Status submitted = self->Submit();
    if (!submitted.ok()) self->Fail(std::move(submitted));
  });
}

absl::Status GenerateJob::Open() {
  RETURN_IF_ERROR(context_.CheckServing());
  ASSIGN_OR_RETURN(sampling_, ParseSampling(request_));
  if (request_.max_new_tokens() < 0) {
    return Invalid(
        absl::StrFormat("max_new_tokens must be at least 0, got %d", request_.max_new_tokens()),
        "INVALID_OPTION");
  }
  ASSIGN_OR_RETURN(DocumentStore::Pin pin, context_.documents.Find(request_.document()));
  const Model& model = *pin->model;
  if (pin->cross_kv == nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrFormat(
            "model \"%s\" of the document has no decoder to generate text with", model.name())),
        "METHOD_NOT_SUPPORTED");
  }
  std::lock_guard lock(mutex_);
  details_.model = model.name();
  details_.document_id = pin->document_id;
  document_ = PinnedDocument(std::move(pin));
  return absl::OkStatus();
}

absl::Status GenerateJob::Submit() {
  std::shared_ptr<const KeptDocument> document;
  {
    std::lock_guard lock(mutex_);
    document = document_;
  }
  if (document == nullptr) return absl::OkStatus();  // ended meanwhile
  const std::shared_ptr<const Model>& model = document->model;
  GenerateTask task;
  ASSIGN_OR_RETURN(task.prompt, TokenizeInput(context_, *model, request_.prompt()));
  prompt_tokens_ = static_cast<int64_t>(task.prompt.size());
  detokenizer_ = std::make_unique<Detokenizer>(model->tokenizer(), !task.prompt.empty());
  task.model = model;
  task.document = {document, document->cross_kv.get()};
  const int64_t room = model->info().max_target_tokens - prompt_tokens_;
  if (request_.max_new_tokens() > room || room < 1) {
    return Invalid(
        absl::StrFormat("%d prompt tokens and %d new ones are more than the model's limit of %d",
                        prompt_tokens_, std::max(request_.max_new_tokens(), 1),
                        model->info().max_target_tokens),
        "TOO_MANY_TOKENS");
  }
  task.max_new_tokens =
      request_.max_new_tokens() > 0 ? request_.max_new_tokens() : std::min(kDefaultNewTokens, room);
  task.sampling = sampling_;
  task.cancellation = token_;
  task.on_token = [self = shared_from_this()](int32_t id, float log_prob) {
    self->OnToken(id, log_prob);
  };
  task.on_done = [self = shared_from_this()](absl::StatusOr<GenerateResult> result) {
    self->OnDone(std::move(result));
  };
  {
    std::lock_guard lock(mutex_);
    started_at_ = context_.timers.Now();
    details_.tokens = prompt_tokens_;
  }
  return context_.engine.Submit(std::move(task));
}

void GenerateJob::OnToken(int32_t id, float log_prob) {
  v1::GenerateTextResponse response;
  v1::GeneratedToken& token = *response.mutable_token();
  token.set_id(id);
  token.set_text(detokenizer_->Next(id));
  token.set_log_probability(log_prob);
  std::lock_guard lock(mutex_);
  if (final_) return;
  last_token_at_ = context_.timers.Now();
  if (first_token_at_ == TimePoint{}) {
    first_token_at_ = last_token_at_;
    context_.metrics.TimeToFirstResult(Seconds(first_token_at_ - started_at_));
  }
  ++details_.tokens;
  waiting_.push_back(std::move(response));
  PumpLocked();
}

void GenerateJob::OnDone(absl::StatusOr<GenerateResult> result) {
  if (!result.ok()) return Fail(WithDefaultReason(result.status()));
  v1::GenerateTextResponse response;
  v1::GenerateSummary& summary = *response.mutable_summary();
  summary.set_finish_reason(result->stopped ? v1::GenerateSummary::FINISH_REASON_END
                                            : v1::GenerateSummary::FINISH_REASON_MAX_TOKENS);
  summary.set_prompt_tokens(prompt_tokens_);
  summary.set_generated_tokens(static_cast<int64_t>(result->tokens.size()));
  std::lock_guard lock(mutex_);
  RecordStage(context_, Stage::kQueue, result->stats.queue_seconds, &details_);
  details_.score_seconds = result->stats.compute_seconds;
  if (final_) return;
  const double decoding = Seconds(last_token_at_ - first_token_at_);
  summary.set_decode_seconds(decoding);
  summary.set_prefill_seconds(std::max(0.0, result->stats.compute_seconds - decoding));
  summary.set_model(document_->model->name());
  summary.set_model_revision(document_->model->revision());
  waiting_.push_back(std::move(response));
  document_ = nullptr;  // the engine held it too
  final_ = absl::OkStatus();
  PumpLocked();
}

void GenerateJob::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  if (!write_outstanding_) return;
  write_outstanding_ = false;
  if (!ok && (!final_ || final_->ok())) {
    context_.metrics.Stream(StreamEvent::kClientGone);
    return FailLocked(
        WithReason(absl::CancelledError("client went away while tokens were sent"), "CANCELLED"));
  }
  PumpLocked();
}

void GenerateJob::OnCancel() {
  absl::Status status = token_->Check();  // gRPC cancels a call whose deadline passed
  if (status.ok()) status = absl::CancelledError("call was cancelled");
  Fail(WithDefaultReason(std::move(status)));
}

void GenerateJob::Fail(absl::Status status) {
  std::lock_guard lock(mutex_);
  FailLocked(std::move(status));
}

void GenerateJob::FailLocked(absl::Status status) {
  if (final_ && !final_->ok()) return;
  token_->Cancel();
  details_.reached = first_token_at_ == TimePoint{} ? Stage::kQueue : Stage::kSend;
  waiting_.clear();
  document_ = nullptr;
  final_ = std::move(status);
  PumpLocked();
}

void GenerateJob::PumpLocked() {
  if (write_outstanding_ || transport_ == nullptr) return;
  if (!waiting_.empty()) {
    writing_ = std::move(waiting_.front());
    waiting_.pop_front();
    write_outstanding_ = true;
    write_since_ = context_.timers.Now();
    return transport_->StartWrite(writing_);
  }
  if (!final_) return;
  if (timer_.serial != 0) context_.timers.Cancel(timer_);
  timer_ = {};
  std::exchange(transport_, nullptr)->Finish(*final_);
}

void GenerateJob::ArmTimerLocked() {
  timer_ = {};
  if (transport_ == nullptr) return;
  const auto idle = ToChrono(context_.limits.idle_timeout);
  TimePoint next = context_.timers.Now() + idle;  // watches a write that starts later, too
  if (write_outstanding_ && !aborted_) next = std::min(next, write_since_ + idle);
  timer_ = context_.timers.Schedule(next, [weak = weak_from_this()] {
    if (std::shared_ptr<GenerateJob> self = weak.lock()) self->OnTimer();
  });
}

void GenerateJob::OnTimer() {
  std::lock_guard lock(mutex_);
  timer_ = {};
  if (transport_ == nullptr) return;
  const auto idle = ToChrono(context_.limits.idle_timeout);
  if (write_outstanding_ && !aborted_ && context_.timers.Now() >= write_since_ + idle) {
    aborted_ = true;
    FailLocked(WithReason(absl::DeadlineExceededError("client does not read its responses"),
                          "READ_STALLED"));
    transport_->Abort();
  }
  ArmTimerLocked();
}

RpcDetails GenerateJob::details() const {
  std::lock_guard lock(mutex_);
  return details_;
}

}  // namespace longdoc::service
