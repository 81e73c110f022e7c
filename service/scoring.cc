#include "service/scoring.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/cross_encoder.h"
#include "engine/decode_task.h"
#include "engine/max_sim.h"
#include "engine/similarity.h"
#include "engine/vector_output.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

std::string Names(const Methods& methods) {
  std::string names;
  for (v1::ScoringMethod method : methods) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", v1::ScoringMethod_Name(method));
  }
  return names.empty() ? "none" : names;
}

Methods Possible(bool likelihood, bool cosine, bool late_interaction, bool cross_encoder) {
  Methods methods;
  if (likelihood) methods.push_back(v1::QUERY_LIKELIHOOD);
  if (cosine) methods.push_back(v1::COSINE);
  if (late_interaction) methods.push_back(v1::LATE_INTERACTION);
  if (cross_encoder) methods.push_back(v1::CROSS_ENCODER);
  return methods;
}

// What the model reads when a candidate is encoded alone.
std::vector<int32_t> WithSpecialTokens(const Tokenizer& tokenizer,
                                       const std::vector<int32_t>& ids) {
  std::vector<int32_t> out;
  out.reserve(ids.size() + 2);
  const SpecialTokens& special = tokenizer.special();
  if (special.cls >= 0) out.push_back(special.cls);
  out.insert(out.end(), ids.begin(), ids.end());
  if (special.sep >= 0) out.push_back(special.sep);
  return out;
}

void FillPassages(const KeptDocument& document, const std::vector<PassageSimilarity>& best,
                  v1::Score* score) {
  for (const PassageSimilarity& similarity : best) {
    const Passage& passage = document.passages[similarity.passage];
    v1::PassageScore& out = *score->add_passages();
    out.set_granularity(passage.granularity);
    out.set_index(passage.index);
    out.mutable_bytes()->set_begin(passage.bytes.begin);
    out.mutable_bytes()->set_end(passage.bytes.end);
    out.mutable_tokens()->set_begin(passage.tokens.begin);
    out.mutable_tokens()->set_end(passage.tokens.end);
    out.set_score(similarity.score);
  }
}

// The scores of one candidate, until the last method has answered. The first failure is the answer.
class PairScores : public std::enable_shared_from_this<PairScores> {
 public:
  PairScores(std::shared_ptr<const KeptDocument> document,
             std::shared_ptr<const EncodedCandidate> candidate, const ScoringOptions& options,
             std::shared_ptr<CancellationToken> token, ScoresDone done)
      : document_(std::move(document)),
        candidate_(std::move(candidate)),
        options_(options),
        token_(std::move(token)),
        scores_(options_.methods.size()),
        waiting_(options_.methods.size()),
        done_(std::move(done)) {}

  void Start(Engine& engine) {
    for (size_t i = 0; i < options_.methods.size(); ++i) {
      absl::Status status = StartOne(engine, i);
      if (!status.ok()) return Finish(i, std::move(status));
    }
  }

 private:
  absl::Status StartOne(Engine& engine, size_t index) {
    switch (options_.methods[index]) {
      case v1::QUERY_LIKELIHOOD:
        return SubmitLikelihood(engine, index);
      case v1::COSINE:
        return ComputeCosine(index);
      case v1::LATE_INTERACTION:
        return SubmitMaxSim(engine, index);
      case v1::CROSS_ENCODER:
        return SubmitPair(engine, index);
      default:
        return absl::InternalError("method was not resolved");
    }
  }

  absl::Status SubmitLikelihood(Engine& engine, size_t index) {
    ScoreTask task;
    task.model = document_->model;
    task.document = {document_, document_->cross_kv.get()};  // holds the pin too
    task.candidates = {candidate_->ids};
    task.want_log_probs = options_.token_log_probabilities;
    task.cancellation = token_;
    auto outcome = std::make_shared<absl::StatusOr<CandidateScore>>(
        absl::InternalError("decoder ended without a score"));
    task.on_scored = [outcome](size_t, absl::StatusOr<CandidateScore> score) {
      *outcome = std::move(score);
    };
    task.on_done = [self = shared_from_this(), index, outcome](absl::StatusOr<DecodeStats> stats) {
      if (!stats.ok()) return self->Finish(index, stats.status());
      if (!outcome->ok()) return self->Finish(index, outcome->status());
      self->Finish(index, self->LikelihoodOf(**outcome));
    };
    return engine.Submit(std::move(task));
  }

  absl::StatusOr<v1::Score> LikelihoodOf(const CandidateScore& result) const {
    if (!std::isfinite(result.sum)) {
      return absl::InternalError("likelihood of a candidate is not finite");
    }
    v1::Score score;
    score.set_score(result.mean);
    v1::Likelihood& likelihood = *score.mutable_likelihood();
    likelihood.set_sum(result.sum);
    likelihood.set_mean(result.mean);
    likelihood.set_token_count(result.num_targets);
    if (!options_.token_log_probabilities) return score;
    likelihood.mutable_token_log_probabilities()->Add(result.log_probs.begin(),
                                                      result.log_probs.end());
    likelihood.mutable_token_ids()->Add(candidate_->ids.begin(), candidate_->ids.end());
    likelihood.add_token_ids(document_->model->tokenizer().special().sep);
    return score;
  }

  absl::Status ComputeCosine(size_t index) {
    v1::Score score;
    score.set_score(CosineSimilarity(candidate_->vector, document_->vector));
    if (!std::isfinite(score.score())) {
      return absl::InternalError("cosine of candidate and document is not finite");
    }
    if (options_.best_passages > 0 && !document_->passage_vectors.empty()) {
      FillPassages(
          *document_,
          BestPassages(candidate_->vector, document_->passage_vectors, options_.best_passages),
          &score);
    }
    Finish(index, std::move(score));
    return absl::OkStatus();
  }

  absl::Status SubmitMaxSim(Engine& engine, size_t index) {
    MaxSimTask task;
    task.document = document_->token_vectors;
    task.passages = document_->passages;
    task.owner = document_;
    task.candidate = candidate_->token_vectors;
    task.best_passages = options_.best_passages;
    task.cancellation = token_;
    task.on_done = [self = shared_from_this(), index](absl::StatusOr<MaxSimResult> result) {
      if (!result.ok()) return self->Finish(index, result.status());
      v1::Score score;
      score.set_score(result->score);
      FillPassages(*self->document_, result->passages, &score);
      self->Finish(index, std::move(score));
    };
    return engine.Submit(std::move(task));
  }

  absl::Status SubmitPair(Engine& engine, size_t index) {
    CrossEncodeTask task;
    task.model = document_->model;
    task.query = candidate_->ids;
    const absl::Span<const int32_t> ids =
        WithoutSpecialTokens(document_->model->tokenizer(), document_->ids);
    task.document.assign(ids.begin(), ids.end());
    task.attention = options_.attention;
    task.cancellation = token_;
    task.on_done = [self = shared_from_this(), index](absl::StatusOr<CrossEncodeResult> result) {
      if (!result.ok()) return self->Finish(index, result.status());
      v1::Score score;
      score.set_score(result->logit);
      score.set_probability(1 / (1 + std::exp(-result->logit)));
      self->Finish(index, std::move(score));
    };
    return SubmitCrossEncode(engine, std::move(task));
  }

  void Finish(size_t index, absl::StatusOr<v1::Score> score) {
    ScoresDone done;
    absl::StatusOr<std::vector<v1::Score>> answer;
    {
      std::lock_guard lock(mutex_);
      if (done_ == nullptr) return;  // failed before
      if (score.ok()) {
        score->set_method(options_.methods[index]);
        scores_[index] = *std::move(score);
        if (--waiting_ > 0) return;
        answer = std::move(scores_);
      } else {
        answer = score.status();
      }
      done = std::exchange(done_, nullptr);
    }
    std::move(done)(std::move(answer));
  }

  const std::shared_ptr<const KeptDocument> document_;
  const std::shared_ptr<const EncodedCandidate> candidate_;
  const ScoringOptions options_;
  const std::shared_ptr<CancellationToken> token_;
  std::mutex mutex_;
  std::vector<v1::Score> scores_;
  size_t waiting_;
  ScoresDone done_;  // null once called
};

// On the executor: as long as a candidate may be, this takes milliseconds.
std::shared_ptr<const EncodedCandidate> Finished(std::vector<int32_t> ids, EncodeResult result) {
  auto candidate = std::make_shared<EncodedCandidate>();
  const size_t dim = result.document.size();
  if (result.token_vectors != nullptr) {
    const size_t tokens = static_cast<size_t>(result.stats.tokens);
    candidate->token_vectors.resize(tokens * dim);
    for (size_t t = 0; t < tokens; ++t) {
      FinishVector({result.token_vectors + t * dim, dim}, {}, &candidate->token_vectors[t * dim]);
    }
  }
  candidate->ids = std::move(ids);
  candidate->vector = std::move(result.document);
  return candidate;
}

}  // namespace

bool ScoringOptions::Has(v1::ScoringMethod method) const {
  return std::find(methods.begin(), methods.end(), method) != methods.end();
}

Methods MethodsOf(const Model& model) {
  const ModelInfo& info = model.info();
  return Possible(info.can_score_likelihood, info.can_embed, info.can_embed, info.can_cross_encode);
}

Methods MethodsOf(const KeptDocument& document) {
  const ModelInfo& info = document.model->info();
  return Possible(document.cross_kv != nullptr, info.can_embed && !document.vector.empty(),
                  info.can_embed && document.token_vectors != nullptr,
                  info.can_cross_encode && !document.ids.empty());
}

absl::StatusOr<Methods> ResolveMethods(absl::Span<const int> asked, const Methods& possible,
                                       const std::string& subject) {
  const auto can = [&possible](v1::ScoringMethod method) {
    return std::find(possible.begin(), possible.end(), method) != possible.end();
  };
  const auto unsupported = [&](const std::string& what) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrFormat("%s cannot be scored by %s; it can by: %s",
                                                      subject, what, Names(possible))),
        "METHOD_NOT_SUPPORTED");
  };
  if (asked.empty() || (asked.size() == 1 && asked[0] == v1::SCORING_METHOD_UNSPECIFIED)) {
    for (v1::ScoringMethod method : {v1::QUERY_LIKELIHOOD, v1::CROSS_ENCODER, v1::COSINE}) {
      if (can(method)) return Methods{method};
    }
    return unsupported("any of the default methods");
  }
  Methods methods;
  for (int number : asked) {
    if (!v1::ScoringMethod_IsValid(number) || number == v1::SCORING_METHOD_UNSPECIFIED) {
      return Invalid(absl::StrFormat("%d is no scoring method", number), "INVALID_OPTION");
    }
    const auto method = static_cast<v1::ScoringMethod>(number);
    if (std::find(methods.begin(), methods.end(), method) != methods.end()) {
      return Invalid(absl::StrFormat("method %s twice", v1::ScoringMethod_Name(method)),
                     "INVALID_OPTION");
    }
    if (!can(method)) return unsupported(v1::ScoringMethod_Name(method));
    methods.push_back(method);
  }
  return methods;
}

absl::StatusOr<std::vector<int32_t>> TokenizeInput(const ServiceContext& context,
                                                   const Model& model, const std::string* text,
                                                   const v1::TokenIds* ids) {
  const int64_t limit = context.limits.max_candidate_bytes;
  const int64_t bytes = text != nullptr  ? static_cast<int64_t>(text->size())
                        : ids != nullptr ? 4 * static_cast<int64_t>(ids->ids_size())
                                         : 0;
  if (bytes > limit) {
    return Invalid(absl::StrFormat("text has %d bytes, the limit is %d", bytes, limit),
                   "TEXT_TOO_LARGE");
  }
  std::vector<int32_t> out;
  if (text != nullptr) {
    absl::StatusOr<TokenSequence> tokens =
        model.tokenizer().Encode(*text, /*add_special_tokens=*/false);
    if (!tokens.ok()) return WithReason(tokens.status(), "INVALID_UTF8");
    out = std::move(tokens->ids);
  } else if (ids != nullptr) {
    out.assign(ids->ids().begin(), ids->ids().end());
    RETURN_IF_ERROR(CheckTokenIds(model, out));
  }
  return out;
}

absl::Status CheckCandidateLength(const ServiceContext& context, const Model& model,
                                  const Methods& methods, int64_t tokens) {
  if (tokens == 0) return Invalid("text has no token", "EMPTY_CANDIDATE");
  for (v1::ScoringMethod method : methods) {
    const bool likelihood = method == v1::QUERY_LIKELIHOOD;
    // [SEP] is a target too; what is encoded has [CLS] as well.
    const int64_t limit =
        likelihood ? model.info().max_target_tokens - 1 : context.limits.max_text_tokens - 2;
    if (tokens <= limit) continue;
    return Invalid(absl::StrFormat("text has %d tokens, the limit of %s is %d", tokens,
                                   v1::ScoringMethod_Name(method), limit),
                   "CANDIDATE_TOO_LONG");
  }
  return absl::OkStatus();
}

void EncodeCandidate(
    ServiceContext& context, const Executor& executor, const std::shared_ptr<const Model>& model,
    std::vector<int32_t> ids, const ScoringOptions& options,
    std::shared_ptr<CancellationToken> token,
    absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<const EncodedCandidate>>) &&> done) {
  if (!options.needs_vectors()) {
    auto candidate = std::make_shared<EncodedCandidate>();
    candidate->ids = std::move(ids);
    return std::move(done)(std::move(candidate));
  }
  // `done` is needed twice, should the engine refuse the task, which then is gone.
  auto shared_done = std::make_shared<decltype(done)>(std::move(done));
  EncodeTask task;
  task.model = model;
  task.ids = WithSpecialTokens(model->tokenizer(), ids);
  task.want_token_vectors = options.Has(v1::LATE_INTERACTION);
  task.attention = options.attention;
  task.cancellation = std::move(token);
  task.on_done = [shared_done, executor, &metrics = context.metrics,
                  ids = std::move(ids)](absl::StatusOr<EncodeResult> result) mutable {
    if (result.ok()) metrics.Encoded(result->stats);
    executor([shared_done, ids = std::move(ids), result = std::move(result)]() mutable {
      if (!result.ok()) return std::move(*shared_done)(result.status());
      std::move (*shared_done)(Finished(std::move(ids), *std::move(result)));
    });
  };
  absl::Status status = context.engine.Submit(std::move(task));
  if (!status.ok()) std::move (*shared_done)(std::move(status));
}

void ScorePair(ServiceContext& context, const std::shared_ptr<const KeptDocument>& document,
               const std::shared_ptr<const EncodedCandidate>& candidate,
               const ScoringOptions& options, const std::shared_ptr<CancellationToken>& token,
               ScoresDone done) {
  std::make_shared<PairScores>(document, candidate, options, token, std::move(done))
      ->Start(context.engine);
}

std::shared_ptr<const KeptDocument> PinnedDocument(DocumentStore::Pin pin) {
  auto holder = std::make_shared<const DocumentStore::Pin>(std::move(pin));
  return {holder, holder->document().get()};
}

}  // namespace longdoc::service
