#include "service/text_job.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"
#include "service/invalid.h"
#include "service/item_status.h"
#include "service/response_frames.h"

namespace longdoc::service {
namespace {

// Tokenized before other requests get their turn.
constexpr size_t kSliceBytes = 64 << 10;
constexpr int64_t kItemOverheadBytes = 192;  // statistics, tags and lengths
constexpr int64_t kFailedItemBytes = 256;    // a status with its message

}  // namespace

std::shared_ptr<TextJob> TextJob::Create(ServiceContext& context, Executor executor,
                                         CancellationToken::Clock::time_point deadline,
                                         v1::EmbedTextsRequest&& request,
                                         v1::EmbedTextsResponse* response, Done done) {
  deadline = CutDeadline(deadline, CancellationToken::Clock::now(), context.limits);
  return std::shared_ptr<TextJob>(new TextJob(context, std::move(executor), deadline,
                                              std::move(request), response, std::move(done)));
}

TextJob::TextJob(ServiceContext& context, Executor executor,
                 CancellationToken::Clock::time_point deadline, v1::EmbedTextsRequest&& request,
                 v1::EmbedTextsResponse* response, Done done)
    : context_(context),
      executor_(std::move(executor)),
      token_(std::make_shared<CancellationToken>(deadline)),
      request_(std::move(request)),
      response_(response),
      done_(std::move(done)) {}

void TextJob::Start() {
  absl::Status status = Prepare();
  if (!status.ok()) return Finish(status);
  executor_([self = shared_from_this()] { self->Tokenize(0); });
}

absl::Status TextJob::Prepare() {
  RETURN_IF_ERROR(context_.CheckServing());
  const int64_t count = request_.inputs_size();
  if (count == 0) return Invalid("request has no inputs", "NO_TEXTS");
  if (count > context_.limits.max_texts) {
    return Invalid(
        absl::StrFormat("request has %d inputs, the limit is %d", count, context_.limits.max_texts),
        "TOO_MANY_TEXTS");
  }
  ASSIGN_OR_RETURN(model_, context_.FindModel(request_.model()));
  const int64_t dim = model_->info().dimensions;
  ASSIGN_OR_RETURN(vector_, ParseVectorOptions(request_.vector(), dim));
  ASSIGN_OR_RETURN(attention_, ParseAttention(request_.attention()));
  ASSIGN_OR_RETURN(overflow_, ParseOverflow(request_.overflow()));
  const int64_t item_bytes =
      std::max(VectorBytes(vector_, dim) + kItemOverheadBytes, kFailedItemBytes);
  if (count * item_bytes > kMaxUnaryResponseBytes) {
    return Invalid(absl::StrFormat("the response to %d inputs would have about %d bytes, the limit "
                                   "is %d: send fewer at once, or ask for fewer dimensions or a "
                                   "smaller encoding",
                                   count, count * item_bytes, kMaxUnaryResponseBytes),
                   "RESPONSE_TOO_LARGE");
  }
  context_.metrics.AttentionMode(attention_);
  texts_.resize(count);
  std::lock_guard lock(mutex_);
  details_.model = model_->name();
  details_.items = count;
  response_->set_model(model_->name());
  response_->set_model_revision(model_->revision());
  response_->mutable_items()->Reserve(static_cast<int>(count));
  for (int64_t i = 0; i < count; ++i) response_->add_items();
  return absl::OkStatus();
}

bool TextJob::done() const {
  std::lock_guard lock(mutex_);
  return response_ == nullptr;
}

void TextJob::Tokenize(size_t first) {
  const auto start = std::chrono::steady_clock::now();
  size_t cost = 0;
  size_t i = first;
  for (; i < texts_.size() && cost < kSliceBytes; ++i) {
    if (done()) return;
    absl::Status late = token_->Check();
    if (!late.ok()) return Finish(late);
    absl::Status status;
    try {
      cost += request_.inputs(static_cast<int>(i)).ByteSizeLong() + 16;
      status = TokenizeOne(i);
    } catch (const std::bad_alloc&) {
      status = WithReason(absl::ResourceExhaustedError("out of memory while processing the text"),
                          "OUT_OF_MEMORY");
    }
    if (!status.ok()) SetItemStatus(i, status);
  }
  tokenize_seconds_ += Seconds(std::chrono::steady_clock::now() - start);
  if (i < texts_.size()) {
    return executor_([self = shared_from_this(), i] { self->Tokenize(i); });
  }
  {
    std::lock_guard lock(mutex_);
    RecordStage(context_, Stage::kTokenize, tokenize_seconds_, &details_);
  }
  Submit();
}

absl::Status TextJob::TokenizeOne(size_t index) {
  v1::TextInput& input = *request_.mutable_inputs(static_cast<int>(index));
  DocumentLimits limits = context_.limits.document;
  limits.max_tokens = context_.limits.max_text_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<DocumentBuilder> builder,
                   DocumentBuilder::Create(model_->tokenizer(), {}, overflow_, limits));
  if (input.has_text()) {
    RETURN_IF_ERROR(builder->AppendText(input.text()));
  } else if (input.has_token_ids()) {
    const auto& ids = input.token_ids().ids();
    RETURN_IF_ERROR(builder->AppendIds({ids.data(), static_cast<size_t>(ids.size())}));
  } else {
    return Invalid("input has neither text nor token_ids", "EMPTY_INPUT");
  }
  ASSIGN_OR_RETURN(TokenizedDocument document, builder->Finish());
  input.Clear();
  Text& text = texts_[index];
  text.input_tokens = document.input_tokens;
  text.truncated = document.truncated;
  text.kept = document.kept;
  text.ids = std::move(document.ids);
  const int64_t tokens = static_cast<int64_t>(text.ids.size());
  context_.metrics.InputTokens(text.input_tokens);
  if (text.truncated) context_.metrics.Truncated(text.input_tokens - tokens);
  std::lock_guard lock(mutex_);
  details_.tokens += tokens;
  return absl::OkStatus();
}

EncodeTask TextJob::MakeTask(size_t index) {
  EncodeTask task;
  task.model = model_;
  task.ids = std::move(texts_[index].ids);
  task.attention = attention_;
  task.cancellation = token_;
  task.on_done = [self = shared_from_this(), index](absl::StatusOr<EncodeResult> result) {
    self->OnEncoded(index, std::move(result));
  };
  return task;
}

void TextJob::Submit() {
  std::vector<size_t> good;
  for (size_t i = 0; i < texts_.size(); ++i) {
    if (!texts_[i].failed) good.push_back(i);
  }
  {
    std::lock_guard lock(mutex_);
    waiting_ = good.size() + 1;
  }
  for (size_t index : good) {
    absl::Status status = context_.engine.Submit(MakeTask(index));
    if (status.ok()) continue;
    // Load concerns every text; answering some of them would only hide it from retry policies.
    if (IsLoad(status)) return Finish(status);
    OnEncoded(index, std::move(status));
  }
  bool last;
  {
    std::lock_guard lock(mutex_);
    last = --waiting_ == 0;
  }
  if (last) Finish(absl::OkStatus());
}

void TextJob::OnEncoded(size_t index, absl::StatusOr<EncodeResult> result) {
  if (EndsCall(result.status())) return Finish(result.status());
  bool last;
  if (result.ok()) {
    v1::EmbedTextsResponse::Item item;
    FillItem(index, *result, &item);
    std::lock_guard lock(mutex_);
    RecordEncode(context_, result->stats, &details_);
    if (response_ == nullptr) return;
    response_->mutable_items(static_cast<int>(index))->Swap(&item);
    last = --waiting_ == 0;
  } else {
    SetItemStatus(index, result.status());
    std::lock_guard lock(mutex_);
    if (response_ == nullptr) return;
    last = --waiting_ == 0;
  }
  if (last) Finish(absl::OkStatus());
}

void TextJob::FillItem(size_t index, const EncodeResult& result,
                       v1::EmbedTextsResponse::Item* item) const {
  FillVector(result.document, vector_, item->mutable_vector());
  item->mutable_status();
  v1::EncodeStats& stats = *item->mutable_stats();
  FillEncodeStats(result.stats, &stats);
  const Text& text = texts_[index];
  stats.set_input_tokens(text.input_tokens);
  stats.set_truncated(text.truncated);
  stats.set_tokenize_seconds(tokenize_seconds_);
  if (text.kept.end > 0) {
    stats.mutable_encoded_bytes()->set_begin(text.kept.begin);
    stats.mutable_encoded_bytes()->set_end(text.kept.end);
  }
}

void TextJob::SetItemStatus(size_t index, const absl::Status& status) {
  texts_[index].failed = true;
  std::lock_guard lock(mutex_);
  if (response_ == nullptr) return;
  FillItemStatus(status, response_->mutable_items(static_cast<int>(index))->mutable_status());
}

void TextJob::Cancel() {
  absl::Status status = token_->Check();
  Finish(status.ok() ? absl::CancelledError("call was cancelled") : status);
}

void TextJob::Finish(const absl::Status& status) {
  Done done;
  {
    std::lock_guard lock(mutex_);
    if (response_ == nullptr) return;
    response_ = nullptr;
    done = std::move(done_);
  }
  if (!status.ok()) token_->Cancel();  // the other texts' tasks
  std::move(done)(WithDefaultReason(status));
}

RpcDetails TextJob::details() const {
  std::lock_guard lock(mutex_);
  return details_;
}

}  // namespace longdoc::service
