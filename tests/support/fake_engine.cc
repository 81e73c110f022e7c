#include "tests/support/fake_engine.h"

#include <chrono>
#include <cmath>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"

namespace longdoc::testing {
namespace {

constexpr int64_t kDim = 16;
constexpr int64_t kBytesPerToken = 1000;
constexpr int64_t kMaxTargetTokens = 32;

class FakeModel final : public Model {
 public:
  explicit FakeModel(bool with_decoder) {
    auto tokenizer = ParseVocabTxt(SmallVocabulary());
    LD_CHECK(tokenizer.ok());
    tokenizer_ = std::move(*tokenizer);
    info_.family = "jina_bert_a";
    info_.vocab_size = tokenizer_->vocab_size();
    info_.dimensions = info_.hidden_size = info_.head_dim = kDim;
    info_.num_layers = 1;
    info_.num_heads = 1;
    info_.can_score_likelihood = with_decoder;
    info_.max_target_tokens = with_decoder ? kMaxTargetTokens : 0;
  }
  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& revision() const override { return revision_; }
  ComputeType compute_type() const override { return ComputeType::kF32; }
  int64_t weight_bytes() const override { return 4096; }

 private:
  const std::string name_ = "fake";
  const std::string revision_ = "r1";
  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

// In (-1, 1), different for every id and component.
float Component(int32_t id, int64_t c) {
  uint32_t h = static_cast<uint32_t>(id) * 2654435761u + static_cast<uint32_t>(c) * 40503u + 17u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<float>(h % 65535u) / 32767.5f - 1.0f;
}

// Of unit length, as engines keep them.
std::shared_ptr<const TokenVectors> MakeTokenVectors(const std::vector<int32_t>& ids) {
  static MemoryPool& pool = *new MemoryPool(0);  // documents may outlive an engine
  const int64_t tokens = static_cast<int64_t>(ids.size());
  auto vectors = TokenVectors::Allocate(pool, tokens, kDim);
  LD_CHECK(vectors.ok());
  std::vector<float> all;
  for (int32_t id : ids) {
    for (int64_t c = 0; c < kDim; ++c) all.push_back(Component(id, c));
  }
  kernels::UnitRowsArgs args;
  args.rows = tokens;
  args.dim = kDim;
  args.in = all.data();
  args.out = (*vectors)->data();
  MakeReferenceBackend(1)->UnitRows(args);
  return *vectors;
}

EncodeResult MakeResult(const EncodeTask& task) {
  EncodeResult result;
  const int64_t tokens = static_cast<int64_t>(task.ids.size());
  result.document = FakeEngine::ExpectedVector(task.ids, 0, tokens);
  for (const TokenSpan& span : task.spans) {
    const std::vector<float> v = FakeEngine::ExpectedVector(task.ids, span.begin, span.end);
    result.passages.insert(result.passages.end(), v.begin(), v.end());
  }
  if (task.want_token_vectors) {
    auto all = std::make_shared<std::vector<float>>();
    all->reserve(tokens * kDim);
    for (int32_t id : task.ids) {
      for (int64_t c = 0; c < kDim; ++c) all->push_back(Component(id, c));
    }
    result.token_vectors = all->data();
    result.token_owner = std::move(all);
  }
  if (task.keep_token_vectors) result.kept_token_vectors = MakeTokenVectors(task.ids);
  if (task.want_cross_kv) result.cross_kv = FakeEngine::MakeCrossKv(tokens);
  result.stats.tokens = tokens;
  result.stats.planned_bytes = result.stats.peak_bytes = tokens * kBytesPerToken;
  result.stats.tiles_dense = result.stats.tiles_computed = 1;
  return result;
}

}  // namespace

std::string SmallVocabulary() {
  std::string vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;  // the tokenizer lowers them
    vocab += std::string(1, c) + "\n";
  }
  for (char c = '!'; c <= '~'; ++c) {
    if (c >= 'A' && c <= 'Z') continue;
    vocab += std::string("##") + c + "\n";
  }
  for (const char* word : {"the", "of", "and", "to", "in", "word", "document", "long", "\xc3\xa9",
                           "\xe6\x97\xa5", "\xe6\x9c\xac"}) {
    vocab += std::string(word) + "\n";
  }
  return vocab;
}

FakeEngine::FakeEngine(bool with_decoder) : model_(std::make_shared<FakeModel>(with_decoder)) {
  options_.num_threads = 1;
  options_.memory_budget_bytes = int64_t{1} << 30;
}

std::vector<float> FakeEngine::ExpectedVector(const std::vector<int32_t>& ids, int64_t begin,
                                              int64_t end) {
  std::vector<float> v(kDim);
  for (int64_t c = 0; c < kDim; ++c) {
    double sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += Component(ids[i], c);
    v[c] = static_cast<float>(sum / static_cast<double>(end - begin));
  }
  return v;
}

absl::StatusOr<std::shared_ptr<const Model>> FakeEngine::LoadModel(const std::string&,
                                                                   const std::string&) {
  return model_;
}

absl::StatusOr<EncodePlan> FakeEngine::Plan(const Model&, const EncodeShape& shape) const {
  if (shape.tokens < 1) return absl::InvalidArgumentError("no tokens");
  RETURN_IF_ERROR(CheckAttentionPolicy(shape.attention));
  EncodePlan plan;
  plan.tokens = shape.tokens;
  plan.activation_bytes = shape.tokens * kBytesPerToken;
  plan.output_bytes = shape.num_vectors * kDim * 4;
  plan.peak_bytes = plan.activation_bytes + plan.output_bytes;
  plan.expected_seconds = static_cast<double>(shape.tokens) / 1000;
  return plan;
}

float FakeEngine::ExpectedLogProb(int32_t target, int64_t position) {
  return -1.0f - std::abs(Component(target, position));
}

std::shared_ptr<const CrossKv> FakeEngine::MakeCrossKv(int64_t tokens) {
  auto cross_kv = std::make_shared<CrossKv>();
  cross_kv->tokens = tokens;
  return cross_kv;
}

absl::Status FakeEngine::Queue(Task task) {
  std::lock_guard lock(mutex_);
  if (stopped_) return WithReason(absl::UnavailableError("engine stopped"), "DRAINING");
  RETURN_IF_ERROR(submit_status_);
  tasks_.push_back(std::move(task));
  submitted_.notify_all();
  return absl::OkStatus();
}

absl::Status FakeEngine::Submit(EncodeTask&& task) {
  Task queued;
  queued.tokens = static_cast<int64_t>(task.ids.size());
  queued.cancellation = task.cancellation;
  queued.on_progress = task.on_progress;
  queued.complete = [task = std::move(task)](absl::Status status,
                                             std::shared_ptr<const void> owner) mutable {
    if (!status.ok()) return std::move(task.on_done)(std::move(status));
    EncodeResult result = MakeResult(task);
    if (owner != nullptr) {
      using Both = std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>;
      result.token_owner = std::make_shared<Both>(std::move(result.token_owner), std::move(owner));
    }
    std::move(task.on_done)(std::move(result));
  };
  return Queue(std::move(queued));
}

// The real thing, on the reference device.
absl::Status FakeEngine::Submit(MaxSimTask&& task) {
  Task queued;
  queued.cancellation = task.cancellation;
  auto backend = MakeReferenceBackend(1);
  ASSIGN_OR_RETURN(std::unique_ptr<Work> work, MakeMaxSimWork(*backend, std::move(task)));
  queued.tokens = work->needs().tokens;
  queued.complete = [backend = std::move(backend), work = std::move(work)](
                        absl::Status status, std::shared_ptr<const void>) mutable {
    if (status.ok()) {
      auto pass = work->MakePass({&work, 1});
      LD_CHECK(pass.ok());
      MemoryPool pool(0);
      WorkerScratch scratch(pool);
      for (; !(*pass)->finished(); (*pass)->NextPhase()) {
        for (int64_t i = 0; i < (*pass)->num_steps(); ++i) {
          status.Update((*pass)->RunStep(i, scratch));
        }
      }
      ByteReservation reservation;
      work->Collect({&work, 1}, **pass, status, reservation);
    }
    work->Done(status, {});
  };
  return Queue(std::move(queued));
}

absl::Status FakeEngine::Submit(ScoreTask&& task) {
  Task queued;
  queued.cancellation = task.cancellation;
  for (const auto& candidate : task.candidates) {
    queued.tokens += static_cast<int64_t>(candidate.size());
  }
  queued.complete = [task = std::move(task), sep = model_->tokenizer().special().sep](
                        absl::Status status, std::shared_ptr<const void>) mutable {
    if (!status.ok()) return std::move(task.on_done)(std::move(status));
    DecodeStats stats;
    for (size_t i = 0; i < task.candidates.size(); ++i) {
      std::vector<int32_t> targets = task.candidates[i];
      targets.push_back(sep);
      CandidateScore score;
      score.num_targets = static_cast<int64_t>(targets.size());
      for (size_t t = 0; t < targets.size(); ++t) {
        const float log_prob = ExpectedLogProb(targets[t], static_cast<int64_t>(t));
        score.sum += log_prob;
        if (task.want_log_probs) score.log_probs.push_back(log_prob);
      }
      score.mean = score.sum / static_cast<double>(score.num_targets);
      stats.targets += score.num_targets;
      task.on_scored(i, std::move(score));
    }
    std::move(task.on_done)(stats);
  };
  return Queue(std::move(queued));
}

// Repeats the prompt, and its own tokens after it.
absl::Status FakeEngine::Submit(GenerateTask&& task) {
  Task queued;
  queued.cancellation = task.cancellation;
  queued.tokens = static_cast<int64_t>(task.prompt.size());
  queued.complete = [task = std::move(task)](absl::Status status,
                                             std::shared_ptr<const void>) mutable {
    if (!status.ok()) return std::move(task.on_done)(std::move(status));
    GenerateResult result;
    for (int64_t i = 0; i < task.max_new_tokens; ++i) {
      const size_t at = static_cast<size_t>(i);
      const int32_t token = task.prompt.empty() ? 5 : task.prompt[at % task.prompt.size()];
      result.tokens.push_back(token);
      result.log_probs.push_back(ExpectedLogProb(token, i));
      if (task.on_token) task.on_token(token, result.log_probs.back());
    }
    std::move(task.on_done)(std::move(result));
  };
  return Queue(std::move(queued));
}

bool FakeEngine::Complete(absl::Status status) { return CompleteOne(false, std::move(status)); }
bool FakeEngine::CompleteNewest(absl::Status status) {
  return CompleteOne(true, std::move(status));
}

bool FakeEngine::CompleteOne(bool newest, absl::Status status) {
  Task task;
  std::shared_ptr<const void> owner;
  {
    std::lock_guard lock(mutex_);
    if (tasks_.empty()) return false;
    task = std::move(newest ? tasks_.back() : tasks_.front());
    newest ? tasks_.pop_back() : tasks_.pop_front();
    owner = std::move(next_owner_);
  }
  if (status.ok()) status = task.cancellation->Check();
  std::move(task.complete)(std::move(status), std::move(owner));
  return true;
}

bool FakeEngine::Progress(double fraction) {
  std::function<void(double)> on_progress;
  {
    std::lock_guard lock(mutex_);
    if (tasks_.empty()) return false;
    on_progress = tasks_.front().on_progress;
  }
  if (on_progress) on_progress(fraction);
  return true;
}

size_t FakeEngine::num_tasks() const {
  std::lock_guard lock(mutex_);
  return tasks_.size();
}

bool FakeEngine::WaitForTasks(size_t count) const {
  std::unique_lock lock(mutex_);
  return submitted_.wait_for(lock, std::chrono::seconds(10),
                             [this, count] { return tasks_.size() >= count; });
}

std::shared_ptr<CancellationToken> FakeEngine::first_token() const {
  std::lock_guard lock(mutex_);
  return tasks_.empty() ? nullptr : tasks_.front().cancellation;
}

void FakeEngine::set_next_owner(std::shared_ptr<const void> owner) {
  std::lock_guard lock(mutex_);
  next_owner_ = std::move(owner);
}

void FakeEngine::set_submit_status(absl::Status status) {
  std::lock_guard lock(mutex_);
  submit_status_ = std::move(status);
}

EngineStats FakeEngine::stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats;
  stats.queued_tasks = static_cast<int64_t>(tasks_.size());
  for (const Task& task : tasks_) stats.queued_tokens += task.tokens;
  stats.memory_budget_bytes = options_.memory_budget_bytes;
  return stats;
}

void FakeEngine::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  while (Complete(absl::UnavailableError("engine stopped"))) {
  }
}

}  // namespace longdoc::testing
