// Many clients at once, of every temper: whole documents, short texts, cancels, deadlines and lost
// connections. Nothing may be wrong, stuck or left behind.
//
// LONGDOC_SOAK_SECONDS sets the duration: 10 by default, 120 for the real one. Documents have up to
// 20,000 tokens from a minute on, and up to 2,000 in shorter runs, whose calls must also end.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/rpc_harness.h"
#include "tests/integration/soak_util.h"

namespace longdoc::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kClients = 64;
constexpr float kTolerance = 1e-5f;

// A text with the answers that it got alone.
struct Known {
  std::string text;
  std::string vector;                 // of the document, float32
  std::vector<std::string> passages;  // of 512 tokens
};

bool Close(const std::string& a, const std::string& b) {
  if (a.size() != b.size() || a.empty()) return false;
  for (size_t i = 0; i < a.size(); i += 4) {
    float x, y;
    std::memcpy(&x, a.data() + i, 4);
    std::memcpy(&y, b.data() + i, 4);
    if (!(std::fabs(x - y) <= kTolerance)) return false;
  }
  return true;
}

v1::DocumentHeader Header() {
  v1::DocumentHeader header;
  header.add_passages()->set_tokens(512);
  header.set_progress_interval_seconds(0.05);
  return header;
}

class Soak {
 public:
  explicit Soak(double seconds) : harness_(RpcHarness::WithEngine()) {
    const double most = seconds < 60 ? 1100 : 11'000;  // words; each is 1.8 tokens on average
    for (int i = 0; i < 32; ++i) {
      const double words = 5 * std::pow(most / 5, i / 31.0);
      documents_.push_back(Ask(SampleText(static_cast<int>(words), 1000 + i)));
    }
    for (int i = 0; i < 64; ++i) texts_.push_back(Ask(SampleText(3 + i, 2000 + i)));
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

  RpcHarness& harness() { return *harness_; }
  std::string wrong() const {
    std::lock_guard lock(mutex_);
    return wrong_;
  }
  std::string Summary() const {
    return "ok " + std::to_string(ok_) + ", ended on purpose " + std::to_string(ended_) +
           ", refused for load " + std::to_string(refused_) + ", abandoned " +
           std::to_string(abandoned_);
  }
  int64_t ok() const { return ok_; }

 private:
  enum class Temper { kPatient, kCancels, kHurries, kVanishes };

  Known Ask(std::string text) {
    DocumentAnswer answer = EmbedText(*harness_, Header(), text);
    if (!answer.status.ok()) Wrong("alone: " + answer.status.error_message());
    Known known{std::move(text), answer.result.vector().data(), {}};
    for (const v1::PassageVector& p : answer.passages) known.passages.push_back(p.vector().data());
    return known;
  }

  void Wrong(const std::string& what) {
    std::lock_guard lock(mutex_);
    if (wrong_.size() < 2000) wrong_ += what + "\n";
  }

  void RunClient(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (Clock::now() < end_) {
      const uint64_t dice = random() % 100;
      const Temper temper = dice < 55   ? Temper::kPatient
                            : dice < 75 ? Temper::kCancels
                            : dice < 90 ? Temper::kHurries
                                        : Temper::kVanishes;
      if (random() % 3 == 0) {
        EmbedSome(random, temper);
      } else {
        EmbedOne(random, temper);
      }
    }
  }

  void Prepare(std::mt19937_64& random, Temper temper, grpc::ClientContext* context) {
    const auto soon = milliseconds(random() % 300);
    const bool hurries = temper == Temper::kHurries;
    context->set_deadline(std::chrono::system_clock::now() +
                          (hurries ? soon : std::chrono::minutes(5)));
    if (temper == Temper::kCancels) canceller_.Add(Clock::now() + soon, context);
  }

  // Judges the end of a call; true if its answer must be right.
  bool Judge(const grpc::Status& status, Temper temper) {
    switch (status.error_code()) {
      case grpc::StatusCode::OK:
        ++ok_;
        return true;
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        ++refused_;
        return false;
      case grpc::StatusCode::CANCELLED:
        if (temper == Temper::kCancels) {
          ++ended_;
          return false;
        }
        break;
      case grpc::StatusCode::DEADLINE_EXCEEDED:
        if (temper == Temper::kHurries) {
          ++ended_;
          return false;
        }
        break;
      default:
        break;
    }
    Wrong("unexpected end: " + std::to_string(status.error_code()) + " " + status.error_message());
    return false;
  }

  void EmbedSome(std::mt19937_64& random, Temper temper) {
    v1::EmbedTextsRequest request;
    std::vector<const Known*> asked;
    for (uint64_t n = 1 + random() % 16; n > 0; --n) {
      asked.push_back(&texts_[random() % texts_.size()]);
      request.add_inputs()->set_text(asked.back()->text);
    }
    grpc::ClientContext context;
    Prepare(random, temper, &context);
    v1::EmbedTextsResponse response;
    const grpc::Status status = harness_->embeddings().EmbedTexts(&context, request, &response);
    canceller_.Remove(&context);
    if (!Judge(status, temper)) return;
    for (size_t i = 0; i < asked.size(); ++i) {
      if (!Close(response.items(static_cast<int>(i)).vector().data(), asked[i]->vector)) {
        Wrong("short text differs");
      }
    }
  }

  // Returns false when the call has ended already.
  template <typename Stream>
  static bool SendAll(std::mt19937_64& random, const Known& known, double share, Stream& stream) {
    v1::EmbedDocumentRequest request;
    *request.mutable_header() = Header();
    if (!stream.Write(request)) return false;
    const size_t end = static_cast<size_t>(share * static_cast<double>(known.text.size()));
    for (size_t at = 0; at < end;) {
      const size_t size = std::min<size_t>(1 + random() % 20'000, end - at);
      request.mutable_chunk()->set_offset(static_cast<int64_t>(at));
      request.mutable_chunk()->set_text(known.text.substr(at, size));
      if (!stream.Write(request)) return false;
      at += size;
    }
    return true;
  }

  void EmbedOne(std::mt19937_64& random, Temper temper) {
    const Known& known = documents_[random() % documents_.size()];
    if (temper == Temper::kVanishes) return Vanish(random, known);
    grpc::ClientContext context;
    Prepare(random, temper, &context);
    auto stream = harness_->embeddings().EmbedDocument(&context);
    if (SendAll(random, known, 1, *stream)) stream->WritesDone();
    v1::EmbedDocumentResponse response;
    std::vector<std::string> passages;
    std::string vector;
    while (stream->Read(&response)) {
      for (const v1::PassageVector& p : response.passages().passages()) {
        passages.push_back(p.vector().data());
      }
      if (response.has_result()) vector = response.result().vector().data();
    }
    const grpc::Status status = stream->Finish();
    canceller_.Remove(&context);
    if (!Judge(status, temper)) return;
    bool right = Close(vector, known.vector) && passages.size() == known.passages.size();
    for (size_t i = 0; right && i < passages.size(); ++i) {
      right = Close(passages[i], known.passages[i]);
    }
    if (!right) Wrong("document of " + std::to_string(known.text.size()) + " bytes differs");
  }

  // A connection of its own, dropped in the middle.
  void Vanish(std::mt19937_64& random, const Known& known) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(harness_->server().port()),
                                  grpc::InsecureChannelCredentials(), arguments);
    auto stub = v1::EmbeddingService::NewStub(channel);
    grpc::ClientContext context;
    auto stream = stub->EmbedDocument(&context);
    const double share = static_cast<double>(random() % 5) / 4;
    if (SendAll(random, known, share, *stream) && share == 1) stream->WritesDone();
    std::this_thread::sleep_for(milliseconds(random() % 50));
    ++abandoned_;
    context.TryCancel();
    stream->Finish();
  }

  std::unique_ptr<RpcHarness> harness_;
  std::vector<Known> documents_, texts_;
  Clock::time_point end_;
  std::atomic<uint64_t> rounds_{0};
  std::atomic<int64_t> ok_{0}, ended_{0}, refused_{0}, abandoned_{0};
  mutable std::mutex mutex_;
  std::string wrong_;
  Canceller canceller_;
};

TEST(SoakTest, SixtyFourClientsOfEveryTemper) {
  const double seconds = SoakSeconds();
  Soak soak(seconds);
  ASSERT_EQ(soak.wrong(), "");
  // A first part fills caches, thread stacks and pools; memory is compared from there on.
  soak.RunFor(seconds / 4);
  ASSERT_TRUE(soak.harness().WaitUntilIdle());
  const int64_t before = ResidentBytes();
  soak.RunFor(seconds * 3 / 4);
  ASSERT_TRUE(soak.harness().WaitUntilIdle()) << "a stream is stuck or memory is still reserved";
  const int64_t after = ResidentBytes();
  std::printf("%s; resident %lld -> %lld MiB\n", soak.Summary().c_str(),
              static_cast<long long>(before >> 20), static_cast<long long>(after >> 20));
  EXPECT_EQ(soak.wrong(), "");
  EXPECT_GT(soak.ok(), 0);
  const EngineStats stats = soak.harness().engine().stats();
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_EQ(stats.allocated_bytes, 0);
  // What leaks per request would show as hundreds of megabytes in the long run.
  EXPECT_LT(after, before + before / 4 + (int64_t{64} << 20));
  soak.harness().server().Drain();
  EXPECT_EQ(soak.harness().server().context().inflight_rpcs, 0);
}

}  // namespace
}  // namespace longdoc::testing
