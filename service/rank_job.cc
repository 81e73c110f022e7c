#include "service/rank_job.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "service/deadlines.h"
#include "service/document_intake.h"
#include "service/inline_document.h"
#include "service/invalid.h"
#include "service/item_status.h"

namespace longdoc::service {
std::shared_ptr<RankJob> RankJob::Create(ServiceContext& context, Executor executor,
                                         CancellationToken::Clock::time_point deadline,
                                         v1::RankDocumentsRequest&& request,
                                         v1::RankDocumentsResponse* response, Done done) {
  deadline = CutDeadline(deadline, CancellationToken::Clock::now(), context.limits);
  return std::shared_ptr<RankJob>(new RankJob(context, std::move(executor), deadline,
                                              std::move(request), response, std::move(done)));
}

RankJob::RankJob(ServiceContext& context, Executor executor,
                 CancellationToken::Clock::time_point deadline, v1::RankDocumentsRequest&& request,
                 v1::RankDocumentsResponse* response, Done done)
    : context_(context),
      executor_(std::move(executor)),
      token_(std::make_shared<CancellationToken>(deadline)),
      request_(std::move(request)),
      response_(response),
      done_(std::move(done)) {}

void RankJob::Start() {
  absl::Status status = Prepare();
  if (!status.ok()) return Finish(status);
  executor_([self = shared_from_this()] {
    absl::Status status = self->TokenizeQuery();
    if (!status.ok()) self->Finish(status);
  });
}

absl::Status RankJob::Prepare() {
  RETURN_IF_ERROR(context_.CheckServing());
  const int64_t count = request_.documents_size();
  if (count == 0) return Invalid("request has no documents", "NO_DOCUMENTS");
  if (count > context_.limits.max_ranked_documents) {
    return Invalid(absl::StrFormat("request has %d documents, the limit is %d", count,
                                   context_.limits.max_ranked_documents),
                   "TOO_MANY_DOCUMENTS");
  }
  if (request_.top_n() < 0) {
    return Invalid(absl::StrFormat("top_n must be at least 0, got %d", request_.top_n()),
                   "INVALID_OPTION");
  }
  ASSIGN_OR_RETURN(model_, context_.FindModel(request_.model()));
  const int method = request_.method();
  ASSIGN_OR_RETURN(scoring_.methods,
                   ResolveMethods({&method, 1}, MethodsOf(*model_),
                                  absl::StrFormat("a document by model \"%s\"", model_->name())));
  ASSIGN_OR_RETURN(scoring_.attention, ParseAttention(request_.attention()));
  options_.attention = scoring_.attention;
  AskForScoring(scoring_.methods, &options_);
  context_.metrics.AttentionMode(options_.attention);
  std::lock_guard lock(mutex_);
  details_.model = model_->name();
  details_.items = count;
  outcomes_.assign(static_cast<size_t>(count), absl::InternalError("document without an outcome"));
  waiting_ = outcomes_.size();
  return absl::OkStatus();
}

absl::Status RankJob::TokenizeQuery() {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, TokenizeInput(context_, *model_, request_.query()));
  RETURN_IF_ERROR(
      CheckCandidateLength(context_, *model_, scoring_.methods, static_cast<int64_t>(ids.size())));
  EncodeCandidate(context_, executor_, model_, std::move(ids), scoring_, token_,
                  [self = shared_from_this()](absl::StatusOr<Query> query) {
                    if (!query.ok()) return self->Finish(query.status());
                    self->StartDocuments(*query, 0);
                  });
  return absl::OkStatus();
}

// Documents worth one slice of text; then other requests get their turn.
void RankJob::StartDocuments(const Query& query, int first) {
  size_t cost = 0;
  int i = first;
  for (; i < request_.documents_size() && cost < DocumentIntake::kSliceBytes; ++i) {
    if (done()) return;
    cost += request_.documents(i).ByteSizeLong() + 16;
    absl::Status status;
    try {
      status = StartOne(query, i);
    } catch (const std::bad_alloc&) {
      status = WithReason(absl::ResourceExhaustedError("out of memory while processing a document"),
                          "OUT_OF_MEMORY");
    }
    if (!status.ok()) OnOutcome(i, std::move(status));
  }
  if (i == request_.documents_size()) return;
  executor_([self = shared_from_this(), query, i] { self->StartDocuments(query, i); });
}

absl::Status RankJob::StartOne(const Query& query, int index) {
  v1::RankInput& input = *request_.mutable_documents(index);
  if (input.has_text()) return StartText(query, index, *input.mutable_text());
  if (!input.has_name()) return Invalid("document has neither text nor name", "EMPTY_INPUT");
  ASSIGN_OR_RETURN(DocumentStore::Pin pin, context_.documents.Find(input.name()));
  if (pin->model != model_) {
    return WithReason(absl::FailedPreconditionError(absl::StrFormat(
                          "document \"%s\" was encoded by model \"%s\", the ranking is by \"%s\"",
                          pin.name(), pin->model->name(), model_->name())),
                      "DOCUMENT_OF_ANOTHER_MODEL");
  }
  const int method = scoring_.methods[0];
  RETURN_IF_ERROR(
      ResolveMethods({&method, 1}, MethodsOf(*pin), absl::StrFormat("document \"%s\"", pin.name()))
          .status());
  Score(query, index, PinnedDocument(std::move(pin)));
  return absl::OkStatus();
}

absl::Status RankJob::StartText(const Query& query, int index, v1::TextInput& input) {
  ContentPiece piece;
  if (input.has_text()) {
    piece.kind = ContentPiece::Kind::kText;
    piece.text = std::move(*input.mutable_text());
  } else if (input.has_token_ids()) {
    piece.kind = ContentPiece::Kind::kIds;
    piece.ids.assign(input.token_ids().ids().begin(), input.token_ids().ids().end());
  } else {
    return Invalid("document has neither text nor token_ids", "EMPTY_INPUT");
  }
  const auto start = context_.timers.Now();
  ASSIGN_OR_RETURN(std::unique_ptr<DocumentIntake> intake,
                   DocumentIntake::Create(context_, model_, options_));
  do {
    int64_t consumed;
    RETURN_IF_ERROR(intake->Consume(piece, &consumed));
  } while (!piece.done());
  ASSIGN_OR_RETURN(TokenizedDocument document, intake->Finish());
  {
    std::lock_guard lock(mutex_);
    RecordStage(context_, Stage::kTokenize, Seconds(context_.timers.Now() - start), &details_);
    details_.tokens += intake->num_tokens();
  }
  EncodeInline(context_, executor_, model_, scoring_.methods, options_, std::move(document), token_,
               nullptr,
               [self = shared_from_this(), query, index](absl::StatusOr<InlineDocument> encoded) {
                 if (!encoded.ok()) return self->OnOutcome(index, encoded.status());
                 {
                   std::lock_guard lock(self->mutex_);
                   RecordEncode(self->context_, encoded->stats, &self->details_);
                 }
                 self->Score(query, index, encoded->document);
               });
  return absl::OkStatus();
}

void RankJob::Score(const Query& query, int index,
                    const std::shared_ptr<const KeptDocument>& document) {
  {
    std::lock_guard lock(mutex_);
    if (scoring_since_ == Timers::TimePoint{}) scoring_since_ = context_.timers.Now();
  }
  ScorePair(context_, document, query, scoring_, token_,
            [self = shared_from_this(), index](absl::StatusOr<std::vector<v1::Score>> scores) {
              if (!scores.ok()) return self->OnOutcome(index, scores.status());
              self->OnOutcome(index, std::move(scores->front()));
            });
}

void RankJob::OnOutcome(int index, absl::StatusOr<v1::Score> score) {
  // These concern every document; answering for some would only hide it from retry policies.
  if (EndsCall(score.status())) return Finish(score.status());
  {
    std::lock_guard lock(mutex_);
    if (response_ == nullptr) return;
    outcomes_[index] = std::move(score);
    if (--waiting_ > 0) return;
    if (scoring_since_ != Timers::TimePoint{}) {
      details_.score_seconds = Seconds(context_.timers.Now() - scoring_since_);
    }
    FillResponse();
  }
  Finish(absl::OkStatus());
}

// Needs mutex_.
void RankJob::FillResponse() {
  response_->set_model(model_->name());
  response_->set_model_revision(model_->revision());
  response_->set_method(scoring_.methods[0]);
  std::vector<int32_t> order;
  for (size_t i = 0; i < outcomes_.size(); ++i) {
    if (outcomes_[i].ok()) {
      order.push_back(static_cast<int32_t>(i));
      continue;
    }
    v1::RankDocumentsResponse::Failure& failure = *response_->add_failures();
    failure.set_index(static_cast<int32_t>(i));
    FillItemStatus(outcomes_[i].status(), failure.mutable_status());
  }
  std::stable_sort(order.begin(), order.end(), [this](int32_t a, int32_t b) {
    return outcomes_[a]->score() > outcomes_[b]->score();
  });
  if (request_.top_n() > 0 && order.size() > static_cast<size_t>(request_.top_n())) {
    order.resize(static_cast<size_t>(request_.top_n()));
  }
  for (int32_t index : order) {
    v1::RankDocumentsResponse::Item& item = *response_->add_items();
    item.set_index(index);
    item.mutable_score()->Swap(&*outcomes_[index]);
  }
}

bool RankJob::done() const {
  std::lock_guard lock(mutex_);
  return response_ == nullptr;
}

void RankJob::Cancel() {
  absl::Status status = token_->Check();
  Finish(status.ok() ? absl::CancelledError("call was cancelled") : status);
}

void RankJob::Finish(const absl::Status& status) {
  Done done;
  {
    std::lock_guard lock(mutex_);
    if (response_ == nullptr) return;
    response_ = nullptr;
    done = std::move(done_);
  }
  if (!status.ok()) token_->Cancel();  // the other documents' works
  std::move(done)(WithDefaultReason(status));
}

RpcDetails RankJob::details() const {
  std::lock_guard lock(mutex_);
  return details_;
}

}  // namespace longdoc::service
