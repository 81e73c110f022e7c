// The strand of a StreamSession: tokenization, submission and response frames.

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/item_status.h"
#include "service/stream_session.h"

namespace longdoc::service {
namespace {

using Kind = SessionEvent::Kind;

// Tokenized between two looks at the state of the stream; about a millisecond of work.
constexpr size_t kSliceBytes = 64 << 10;

double Seconds(std::chrono::nanoseconds d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

// Runs jobs worth one slice, then queues behind the other streams' work.
void StreamSession::RunStrand() {
  std::unique_ptr<Document> garbage;  // destroyed without the mutex
  int64_t budget = kSliceBytes;
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
    if (job.kind == Job::Kind::kText && job.consumed < job.text.size()) {
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
  const auto start = std::chrono::steady_clock::now();
  try {
    switch (job.kind) {
      case Job::Kind::kText: {
        const std::string_view slice = std::string_view(job.text).substr(job.consumed, kSliceBytes);
        job.consumed += slice.size();
        bytes = static_cast<int64_t>(slice.size());
        status = ConsumeText(slice);
        break;
      }
      case Job::Kind::kIds:
        bytes = 4 * static_cast<int64_t>(job.ids.size());
        status = ConsumeIds(job.ids);
        break;
      case Job::Kind::kBreak:
        status = document_->builder->AppendBreak();
        break;
      case Job::Kind::kSeal:
        status = Seal();
        break;
      case Job::Kind::kFrame:
        cost = kSliceBytes;
        BuildFrame();
        break;
    }
  } catch (const std::bad_alloc&) {
    status = WithReason(absl::ResourceExhaustedError("out of memory while processing the document"),
                        "OUT_OF_MEMORY");
  }
  cost += bytes;
  if (bytes > 0) {
    const double seconds = Seconds(std::chrono::steady_clock::now() - start);
    std::lock_guard lock(mutex_);
    tokenize_seconds_ += seconds;
    if (document_->builder != nullptr) tokens_received_ = document_->builder->num_tokens();
  }
  if (!status.ok()) {
    PostEvent({.kind = Kind::kFault, .status = std::move(status)});
  } else if (bytes > 0) {
    PostEvent({.kind = Kind::kConsumed, .size = bytes});
  }
  return cost;
}

absl::Status StreamSession::ConsumeText(std::string_view slice) {
  RETURN_IF_ERROR(document_->builder->AppendText(slice));
  return CheckGrowth();
}

absl::Status StreamSession::ConsumeIds(const std::vector<int32_t>& ids) {
  RETURN_IF_ERROR(CheckTokenIds(*model_, ids, document_->num_ids));
  document_->num_ids += static_cast<int64_t>(ids.size());
  if (4 * document_->num_ids > context_.limits.document.max_bytes) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrFormat(
            "the document has at least %d token ids of 4 bytes, the limit is %d bytes",
            document_->num_ids, context_.limits.document.max_bytes)),
        "DOCUMENT_TOO_LARGE");
  }
  RETURN_IF_ERROR(document_->builder->AppendIds(ids));
  return CheckGrowth();
}

// Looks at the memory again each time the number of tokens has doubled.
absl::Status StreamSession::CheckGrowth() {
  const int64_t tokens = document_->builder->num_tokens();
  if (tokens < document_->next_memory_check) return absl::OkStatus();
  document_->next_memory_check = 2 * tokens;
  return CheckMemory(tokens);
}

EncodeShape StreamSession::ShapeOf(int64_t tokens, int64_t passages) const {
  EncodeShape shape;
  shape.tokens = tokens;
  shape.num_vectors = passages + 1;
  shape.token_vectors = options_.token_vectors;
  shape.attention = options_.attention;
  return shape;
}

// Refuses a document that can never fit, however idle the server is.
absl::Status StreamSession::CheckMemory(int64_t tokens) const {
  tokens = std::min(tokens, context_.limits.document.max_tokens);  // the rest is cut or refused
  ASSIGN_OR_RETURN(
      const EncodePlan plan,
      context_.engine.Plan(*model_, ShapeOf(tokens, options_.ExpectedPassages(tokens))));
  return context_.engine.CheckFits(plan);
}

// Ends the document and hands it to the engine.
absl::Status StreamSession::Seal() {
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(TokenizedDocument document, document_->builder->Finish());
  document_->builder.reset();
  const int64_t tokens = static_cast<int64_t>(document.ids.size());
  context_.metrics.InputTokens(document.input_tokens);
  if (document.truncated) context_.metrics.Truncated(document.input_tokens - tokens);
  ASSIGN_OR_RETURN(const EncodePlan plan,
                   context_.engine.Plan(
                       *model_, ShapeOf(tokens, static_cast<int64_t>(document.passages.size()))));
  EncodeTask task;
  task.model = model_;
  task.ids = std::move(document.ids);
  task.spans.reserve(document.passages.size());
  for (const Passage& passage : document.passages) task.spans.push_back(passage.tokens);
  task.want_token_vectors = options_.token_vectors;
  task.attention = options_.attention;
  task.cancellation = token_;
  task.on_progress = [self = shared_from_this()](double fraction) { self->OnProgress(fraction); };
  task.on_done = [self = shared_from_this()](absl::StatusOr<EncodeResult> result) {
    self->OnEncoded(std::move(result));
  };
  document_->tokenized = std::move(document);
  {
    std::lock_guard lock(mutex_);
    tokenize_seconds_ += Seconds(std::chrono::steady_clock::now() - start);
    context_.metrics.StageSeconds(Stage::kTokenize, tokenize_seconds_);
    details_.tokens = tokens_received_ = tokens;
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

v1::EmbedDocumentResult StreamSession::MakeResult(const EncodeStats& encoded) {
  v1::EmbedDocumentResult result;
  result.set_document_id(options_.document_id);
  result.set_model(model_->name());
  result.set_model_revision(model_->revision());
  v1::EncodeStats& stats = *result.mutable_stats();
  FillEncodeStats(encoded, &stats);
  const TokenizedDocument& document = document_->tokenized;
  stats.set_input_tokens(document.input_tokens);
  stats.set_truncated(document.truncated);
  if (document_->num_ids == 0) {
    stats.mutable_encoded_bytes()->set_begin(document.kept.begin);
    stats.mutable_encoded_bytes()->set_end(document.kept.end);
  }
  std::lock_guard lock(mutex_);
  stats.set_receive_seconds(Seconds(sealed_at_ - header_at_));
  stats.set_tokenize_seconds(tokenize_seconds_);
  return result;
}

// Builds into next_frame_, which is the strand's until kFrameReady.
void StreamSession::BuildFrame() {
  if (document_->frames == nullptr) {
    std::unique_ptr<EncodeResult> encoded;
    {
      std::lock_guard lock(mutex_);
      encoded = std::move(result_);
    }
    if (encoded == nullptr) return;  // released meanwhile
    v1::EmbedDocumentResult result = MakeResult(encoded->stats);
    document_->frames = std::make_unique<ResponseFrames>(
        std::move(*encoded), std::move(document_->tokenized), options_, model_->info().dimensions,
        context_.limits.max_frame_bytes, std::move(result));
  }
  const bool last = document_->frames->Next(&next_frame_);
  PostEvent({.kind = Kind::kFrameReady, .last = last});
}

}  // namespace longdoc::service
