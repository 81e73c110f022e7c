// The strand of a StreamSession: tokenization, submission and answers.

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"
#include "service/item_status.h"
#include "service/response_frames.h"
#include "service/stream_session.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;

}  // namespace

// Runs jobs worth one slice, then queues behind the other streams' work.
void StreamSession::RunStrand() {
  std::unique_ptr<Document> garbage;  // destroyed without the mutex
  int64_t budget = DocumentIntake::kSliceBytes;
  while (true) {
    Job job;
    {
      std::lock_guard lock(mutex_);
      if (released_) garbage = std::move(document_);
      if (released_ || jobs_.empty()) {
        strand_active_ = false;
        return;
      }
      if (budget <= 0) {
        executor_([self = shared_from_this()] { self->RunStrand(); });
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    budget -= RunJob(job);
    if (job.kind == Job::Kind::kContent && !job.content.done()) {
      std::lock_guard lock(mutex_);
      if (!released_) jobs_.push_front(std::move(job));
    }
  }
}

// Returns what it cost, in bytes of text.
int64_t StreamSession::RunJob(Job& job) {
  int64_t cost = 1;
  int64_t bytes = 0;
  absl::Status status;
  try {
    switch (job.kind) {
      case Job::Kind::kContent:
        status = Consume(job.content, &bytes);
        cost += bytes;
        break;
      case Job::Kind::kSeal:
        status = Seal();
        break;
      case Job::Kind::kFrame:
        cost = DocumentIntake::kSliceBytes;
        status = BuildFrame();
        break;
    }
  } catch (const std::bad_alloc&) {
    status = WithReason(absl::ResourceExhaustedError("out of memory while processing the document"),
                        "OUT_OF_MEMORY");
  }
  if (!status.ok()) {
    PostEvent({.kind = Kind::kFault, .status = std::move(status)});
  } else if (bytes > 0) {
    PostEvent({.kind = Kind::kConsumed, .size = bytes});
  }
  return cost;
}

absl::Status StreamSession::Consume(ContentPiece& content, int64_t* bytes) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = document_->intake->Consume(content, bytes);
  const double seconds = Seconds(std::chrono::steady_clock::now() - start);
  std::lock_guard lock(mutex_);
  tokenize_seconds_ += seconds;
  tokens_received_ = document_->intake->num_tokens();
  return status;
}

// Ends the document and, unless the call knows the answer already, hands it to the engine.
absl::Status StreamSession::Seal() {
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(document_->tokenized, document_->intake->Finish());
  {
    std::lock_guard lock(mutex_);
    tokenize_seconds_ += Seconds(std::chrono::steady_clock::now() - start);
    context_.metrics.StageSeconds(Stage::kTokenize, tokenize_seconds_);
    details_.tokens = tokens_received_ = document_->intake->num_tokens();
  }
  ASSIGN_OR_RETURN(document_->encoded, document_->call->Prepare(document_->tokenized,
                                                                document_->intake->content_key()));
  if (!document_->encoded) return Submit();
  {
    std::lock_guard lock(mutex_);
    encoded_at_ = timers_.Now();
  }
  PostEvent({.kind = Kind::kEncoded});
  return absl::OkStatus();
}

absl::Status StreamSession::Submit() {
  const TokenizedDocument& document = document_->tokenized;
  ASSIGN_OR_RETURN(const EncodePlan plan,
                   context_.engine.Plan(
                       *model_, options_.Shape(*model_, static_cast<int64_t>(document.ids.size()),
                                               static_cast<int64_t>(document.passages.size()))));
  EncodeTask task = MakeEncodeTask(model_, options_, document_->tokenized, token_);
  task.on_progress = [self = shared_from_this()](double fraction) { self->OnProgress(fraction); };
  task.on_done = [self = shared_from_this()](absl::StatusOr<EncodeResult> result) {
    self->OnEncoded(std::move(result));
  };
  {
    std::lock_guard lock(mutex_);
    expected_seconds_ = plan.expected_seconds;
  }
  // Without the mutex: the engine may take its own locks, and calls back while holding them.
  RETURN_IF_ERROR(context_.engine.Submit(std::move(task)));
  PostEvent({.kind = Kind::kSubmitted});
  return absl::OkStatus();
}

void StreamSession::OnProgress(double fraction) {
  std::lock_guard lock(mutex_);
  if (released_) return;
  if (encoding_since_ == TimePoint{}) {
    encoding_since_ = timers_.Now();
    StepLocked({.kind = Kind::kStarted});
  }
  fraction_ = std::clamp(fraction, fraction_, 1.0);  // never goes back
}

void StreamSession::OnEncoded(absl::StatusOr<EncodeResult> result) {
  if (!result.ok()) {
    return PostEvent({.kind = Kind::kFault, .status = WithDefaultReason(result.status())});
  }
  context_.metrics.StageSeconds(Stage::kQueue, result->stats.queue_seconds);
  context_.metrics.StageSeconds(Stage::kEncode, result->stats.compute_seconds);
  context_.metrics.Encoded(result->stats);
  auto held = std::make_unique<EncodeResult>(std::move(*result));
  std::lock_guard lock(mutex_);
  if (released_) return;  // `held` goes with it: it was declared before the lock
  encoded_at_ = timers_.Now();
  result_ = std::move(held);
  StepLocked({.kind = Kind::kEncoded});
}

v1::EncodeStats StreamSession::MakeStats(const EncodeResult* encoded) const {
  v1::EncodeStats stats;
  if (encoded != nullptr) FillEncodeStats(encoded->stats, &stats);
  const TokenizedDocument& document = document_->tokenized;
  stats.set_input_tokens(document.input_tokens);
  stats.set_truncated(document.truncated);
  if (!document_->intake->has_ids()) {
    stats.mutable_encoded_bytes()->set_begin(document.kept.begin);
    stats.mutable_encoded_bytes()->set_end(document.kept.end);
  }
  std::lock_guard lock(mutex_);
  stats.set_receive_seconds(Seconds(sealed_at_ - header_at_));
  stats.set_tokenize_seconds(tokenize_seconds_);
  return stats;
}

// Builds into next_frame_, which is the strand's until kFrameReady.
absl::Status StreamSession::BuildFrame() {
  if (!document_->answered) {
    std::unique_ptr<EncodeResult> encoded;
    {
      std::lock_guard lock(mutex_);
      encoded = std::move(result_);
    }
    if (encoded == nullptr && !document_->encoded) return absl::OkStatus();  // released meanwhile
    v1::EncodeStats stats = MakeStats(encoded.get());
    RETURN_IF_ERROR(document_->call->Answer(std::move(document_->tokenized), std::move(encoded),
                                            std::move(stats)));
    document_->answered = true;
  }
  next_frame_->Clear();
  const bool last = document_->call->NextFrame(next_frame_.get());
  PostEvent({.kind = Kind::kFrameReady, .last = last});
  return absl::OkStatus();
}

}  // namespace longdoc::service
