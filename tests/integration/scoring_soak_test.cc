// Many clients that embed, keep, score, rank, generate and delete at once, some of whom give up,
// while the documents do not all fit. No score may be wrong, and nothing may be left behind.
//
// LONGDOC_SOAK_SECONDS sets the duration: 10 by default, 120 for the real one.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/scoring_client.h"
#include "tests/integration/soak_util.h"

namespace longdoc::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kClients = 12;
constexpr int kTexts = 10;
constexpr int kCandidates = 12;
constexpr double kTolerance = 1e-5;
const std::vector<v1::ScoringMethod> kMethods = {v1::QUERY_LIKELIHOOD, v1::COSINE,
                                                 v1::LATE_INTERACTION};

// A text with the answers that it got when nothing else ran.
struct Known {
  std::string text;
  std::vector<v1::CandidateScore> scores;  // of every candidate by every method
  std::vector<int32_t> generated;
  int64_t bytes = 0;  // as a kept document
};

class ScoringSoak {
 public:
  ScoringSoak() {
    for (int i = 0; i < kCandidates; ++i) candidates_.push_back(SampleText(1 + i, 7000 + i));
    const auto alone = RpcHarness::WithEngine({}, {}, "colt5-tiny");
    int64_t all_bytes = 0;
    for (int i = 0; i < kTexts; ++i) {
      known_.push_back(Ask(*alone, SampleText(40 + 40 * i, 6000 + i)));
      all_bytes += known_.back().bytes;
    }
    service::DocumentsConfig config;
    config.budget_bytes = all_bytes / 2;
    harness_ = RpcHarness::WithEngine({}, config, "colt5-tiny");
    names_.resize(kTexts);
  }

  void RunFor(double seconds) {
    end_ = Clock::now() + milliseconds(static_cast<int64_t>(seconds * 1000));
    std::vector<std::thread> clients;
    const uint64_t round = ++rounds_;
    for (int i = 0; i < kClients; ++i) {
      clients.emplace_back([this, i, round] { RunClient(round * 1000 + i); });
    }
    for (std::thread& client : clients) client.join();
  }

  // Until the store is empty.
  void DeleteAll() {
    while (true) {
      grpc::ClientContext list_context;
      v1::ListDocumentsResponse listed;
      ASSERT_TRUE(harness_->documents().ListDocuments(&list_context, {}, &listed).ok());
      if (listed.documents_size() == 0) return;
      for (const v1::Document& document : listed.documents()) Delete(document.name());
    }
  }

  RpcHarness& harness() { return *harness_; }
  DocumentStoreStats StoreStats() { return harness_->server().context().documents.stats(); }
  std::string wrong() const {
    std::lock_guard lock(mutex_);
    return wrong_;
  }
  int64_t scored() const { return scored_; }
  std::string Summary() const {
    return "scored " + std::to_string(scored_) + ", ended on purpose " + std::to_string(ended_) +
           ", not there any more " + std::to_string(missing_) + ", refused for load " +
           std::to_string(refused_);
  }

 private:
  Known Ask(RpcHarness& harness, std::string text) {
    Known known;
    known.text = std::move(text);
    v1::Document document;
    if (!KeepText(harness, known.text, &document).ok()) Wrong("keep, alone");
    known.bytes = document.bytes_held();
    for (const std::string& candidate : candidates_) {
      const ScoreAnswer answer =
          ScoreTexts(harness, NamedHeader(document.name(), kMethods), "", {candidate});
      if (!answer.ok() || answer.scores.size() != 1) Wrong("score, alone");
      known.scores.push_back(answer.scores.empty() ? v1::CandidateScore() : answer.scores[0]);
    }
    v1::GenerateTextRequest request;
    request.set_document(document.name());
    request.set_max_new_tokens(8);
    known.generated = Generate(harness, request).ids();
    return known;
  }

  void Wrong(const std::string& what) {
    std::lock_guard lock(mutex_);
    if (wrong_.size() < 2000) wrong_ += what + "\n";
  }

  void RunClient(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (Clock::now() < end_) {
      const size_t index = random() % kTexts;
      const uint64_t dice = random() % 100;
      if (dice < 20) {
        DoKeep(random, index);
      } else if (dice < 50) {
        DoScore(random, index, NameOf(index));
      } else if (dice < 62) {
        DoScore(random, index, "");
      } else if (dice < 72) {
        DoRank(random, index);
      } else if (dice < 82) {
        DoGenerate(random, index);
      } else if (dice < 90) {
        Delete(NameOf(index));
      } else {
        DoEmbed(random, index);
      }
    }
  }

  std::string NameOf(size_t index) const {
    std::lock_guard lock(mutex_);
    return names_[index];
  }

  // One call in four is cancelled at some moment.
  ContextHook MaybeCancel(std::mt19937_64& random, bool* cancels) {
    *cancels = random() % 4 == 0;
    if (!*cancels) return nullptr;
    const auto when = Clock::now() + milliseconds(random() % 60);
    auto held = std::make_shared<grpc::ClientContext*>(nullptr);
    return [this, when, held](grpc::ClientContext* context) {
      if (context != nullptr) {
        canceller_.Add(when, context);
        *held = context;
      } else {
        canceller_.Remove(*held);
      }
    };
  }

  // Judges the end of a call; true if its answer must be right.
  bool Judge(const CallStatus& call, bool cancels, const char* what) {
    switch (call.status.error_code()) {
      case grpc::StatusCode::OK:
        return true;
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        ++refused_;
        return false;
      case grpc::StatusCode::NOT_FOUND:
        ++missing_;
        if (call.reason == "DOCUMENT_EVICTED" || call.reason == "DOCUMENT_EXPIRED" ||
            call.reason == "DOCUMENT_DELETED" || call.reason == "DOCUMENT_NOT_FOUND") {
          return false;
        }
        break;
      case grpc::StatusCode::CANCELLED:
        ++ended_;
        if (cancels) return false;
        break;
      default:
        break;
    }
    Wrong(std::string(what) + ": " + std::to_string(call.status.error_code()) + " " + call.reason +
          " " + call.status.error_message());
    return false;
  }

  void DoKeep(std::mt19937_64& random, size_t index) {
    bool cancels;
    const ContextHook hook = MaybeCancel(random, &cancels);
    const double ttl = random() % 3 == 0 ? 0.1 : 0;
    v1::Document document;
    const CallStatus status = KeepText(*harness_, known_[index].text, &document, hook, ttl);
    if (!Judge(status, cancels, "keep")) return;
    if (document.bytes_held() != known_[index].bytes) Wrong("bytes of a kept document");
    std::lock_guard lock(mutex_);
    names_[index] = document.name();
  }

  void DoScore(std::mt19937_64& random, size_t index, const std::string& name) {
    bool cancels;
    const ContextHook hook = MaybeCancel(random, &cancels);
    std::vector<std::string> texts;
    std::vector<size_t> asked;
    for (uint64_t n = 1 + random() % 20; n > 0; --n) {
      asked.push_back(random() % kCandidates);
      texts.push_back(candidates_[asked.back()]);
    }
    const Known& known = known_[index];
    const v1::ScoreHeader header =
        name.empty() ? InlineHeader(kMethods) : NamedHeader(name, kMethods);
    const ScoreAnswer answer =
        ScoreTexts(*harness_, header, name.empty() ? known.text : "", texts, hook);
    if (!Judge(answer, cancels, "score")) return;
    if (answer.scores.size() != asked.size() || !answer.has_summary) return Wrong("scores missing");
    for (size_t i = 0; i < asked.size(); ++i) CheckScore(answer.scores[i], known.scores[asked[i]]);
  }

  void CheckScore(const v1::CandidateScore& got, const v1::CandidateScore& want) {
    if (got.status().code() != 0) return Wrong("candidate: " + got.status().message());
    for (int m = 0; m < want.scores_size(); ++m) {
      ++scored_;
      if (std::fabs(got.scores(m).score() - want.scores(m).score()) <= kTolerance) continue;
      Wrong("score by " + v1::ScoringMethod_Name(want.scores(m).method()) +
            " differs: " + std::to_string(got.scores(m).score()) + ", alone " +
            std::to_string(want.scores(m).score()));
    }
  }

  void DoRank(std::mt19937_64& random, size_t index) {
    const size_t candidate = random() % kCandidates;
    const size_t other = (index + 1) % kTexts;
    v1::RankDocumentsRequest request;
    request.mutable_query()->set_text(candidates_[candidate]);
    request.add_documents()->mutable_text()->set_text(known_[index].text);
    const std::string name = NameOf(other);
    if (!name.empty()) request.add_documents()->set_name(name);
    const int method = static_cast<int>(random() % kMethods.size());
    request.set_method(kMethods[method]);
    grpc::ClientContext context;
    v1::RankDocumentsResponse response;
    CallStatus call;
    call.status = harness_->scoring().RankDocuments(&context, request, &response);
    call.reason = TrailingValue(context, "longdoc-reason");
    if (!Judge(call, false, "rank")) return;
    for (const auto& item : response.items()) {
      const Known& known = known_[item.index() == 0 ? index : other];
      ++scored_;
      if (std::fabs(item.score().score() - known.scores[candidate].scores(method).score()) >
          kTolerance) {
        Wrong("rank differs");
      }
    }
  }

  void DoGenerate(std::mt19937_64& random, size_t index) {
    const std::string name = NameOf(index);
    if (name.empty()) return;
    bool cancels;
    const ContextHook hook = MaybeCancel(random, &cancels);
    v1::GenerateTextRequest request;
    request.set_document(name);
    request.set_max_new_tokens(8);
    const GenerateAnswer answer = Generate(*harness_, request, hook);
    if (!Judge(answer, cancels, "generate")) return;
    if (answer.ids() != known_[index].generated) Wrong("generated text differs");
  }

  void Delete(const std::string& name) {
    if (name.empty()) return;
    grpc::ClientContext context;
    v1::DeleteDocumentRequest request;
    request.set_name(name);
    v1::DeleteDocumentResponse response;
    CallStatus call;
    call.status = harness_->documents().DeleteDocument(&context, request, &response);
    call.reason = TrailingValue(context, "longdoc-reason");
    Judge(call, false, "delete");
  }

  void DoEmbed(std::mt19937_64& random, size_t index) {
    v1::EmbedTextsRequest request;
    request.add_inputs()->set_text(known_[index].text);
    request.add_inputs()->set_text(candidates_[random() % kCandidates]);
    grpc::ClientContext context;
    v1::EmbedTextsResponse response;
    CallStatus call;
    call.status = harness_->embeddings().EmbedTexts(&context, request, &response);
    call.reason = TrailingValue(context, "longdoc-reason");
    if (Judge(call, false, "embed") && response.items_size() != 2) Wrong("embed: items");
  }

  std::unique_ptr<RpcHarness> harness_;
  std::vector<std::string> candidates_;
  std::vector<Known> known_;
  Clock::time_point end_;
  std::atomic<uint64_t> rounds_{0};
  std::atomic<int64_t> scored_{0}, ended_{0}, missing_{0}, refused_{0};
  mutable std::mutex mutex_;
  std::vector<std::string> names_;  // of the texts that were kept last
  std::string wrong_;
  Canceller canceller_;
};

TEST(ScoringSoakTest, MixedTrafficUnderABudgetThatForcesEviction) {
  const double seconds = SoakSeconds();
  ScoringSoak soak;
  ASSERT_EQ(soak.wrong(), "");
  soak.RunFor(seconds / 4);  // fills caches, thread stacks and pools
  ASSERT_TRUE(soak.harness().WaitUntilIdle());
  const int64_t before = ResidentBytes();
  soak.RunFor(seconds * 3 / 4);
  ASSERT_TRUE(soak.harness().WaitUntilIdle()) << "a stream is stuck or memory is still reserved";
  const int64_t after = ResidentBytes();
  const DocumentStoreStats busy = soak.StoreStats();
  std::printf("%s; evicted %lld, expired %lld, deleted %lld; resident %lld -> %lld MiB\n",
              soak.Summary().c_str(), static_cast<long long>(busy.evicted),
              static_cast<long long>(busy.expired), static_cast<long long>(busy.deleted),
              static_cast<long long>(before >> 20), static_cast<long long>(after >> 20));
  EXPECT_EQ(soak.wrong(), "");
  EXPECT_GT(soak.scored(), 0);
  EXPECT_GT(busy.evicted, 0);
  EXPECT_LE(busy.held.total(), busy.budget_bytes);
  soak.DeleteAll();
  // Everything is given back when all is deleted.
  const DocumentStoreStats stats = soak.StoreStats();
  EXPECT_EQ(stats.documents, 0);
  EXPECT_EQ(stats.pinned_documents, 0);
  EXPECT_EQ(stats.held.total(), 0);
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_EQ(soak.harness().engine().stats().reserved_bytes, 0);
  EXPECT_EQ(soak.harness().engine().stats().allocated_bytes, 0);
  EXPECT_LT(after, before + before / 4 + (int64_t{64} << 20));
  soak.harness().server().Drain();
  EXPECT_EQ(soak.harness().server().context().inflight_rpcs, 0);
}

}  // namespace
}  // namespace longdoc::testing
