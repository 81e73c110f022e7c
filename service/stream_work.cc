// The strand of a StreamSession: tokenization, submission and answers.

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "service/item_status.h"
#include "service/response_frames.h"
#include "service/stream_session.h"

namespace longdoc::service {

absl::Status StreamSession::Process(Job& job, int64_t* cost, int64_t* bytes) {
  *cost = 1;
  switch (job.kind) {
    case Job::Kind::kContent: {
      absl::Status status = Consume(*document_->intake, job.content, bytes);
      *cost += *bytes;
      return status;
    }
    case Job::Kind::kSeal:
      return Seal();
    case Job::Kind::kFrame:
      *cost = DocumentIntake::kSliceBytes;
      return BuildFrame();
  }
  return absl::OkStatus();
}

// Ends the document and, unless the call knows the answer already, hands it to the engine.
absl::Status StreamSession::Seal() {
  ASSIGN_OR_RETURN(document_->tokenized, FinishIntake(*document_->intake));
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
  auto held = std::make_unique<EncodeResult>(std::move(*result));
  std::lock_guard lock(mutex_);
  RecordEncode(context_, held->stats, &details_);
  if (released_) return;  // `held` goes with it: it was declared before the lock
  encoded_at_ = timers_.Now();
  result_ = std::move(held);
  StepLocked({.kind = Kind::kEncoded});
}

v1::EncodeStats StreamSession::MakeStats(const EncodeResult* encoded) const {
  v1::EncodeStats stats;
  if (encoded != nullptr) FillEncodeStats(encoded->stats, &stats);
  std::lock_guard lock(mutex_);
  FillInputStatsLocked(document_->tokenized, document_->intake->has_ids(), &stats);
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
