#include "tests/integration/rpc_harness.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "engine/base/check.h"
#include "engine/model/create_model.h"
#include "service/log.h"

namespace longdoc::testing {
namespace {

// Removes the model when the process ends.
struct TemporaryModel {
  std::string dir;
  explicit TemporaryModel(const std::string& preset) {
    std::string pattern = (std::filesystem::temp_directory_path() / "longdoc-rpc-XXXXXX").string();
    LD_CHECK(mkdtemp(pattern.data()) != nullptr);
    dir = pattern;
    CreateModelOptions options;
    auto config = PresetConfig(preset);
    LD_CHECK(config.ok());
    options.config = *config;
    options.logit_bound = 0;
    if (preset == "reranker-tiny") {
      options.merges_txt = "t h\nth e\nw o\nwo r\nwor d\n";
    } else {
      options.vocab_txt = SmallVocabulary();
    }
    const absl::Status status = CreateModel(dir, options);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
    LD_CHECK(status.ok());
  }
  ~TemporaryModel() {
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
  }
};

}  // namespace

const std::string& PresetModelDir(const std::string& preset) {
  static std::mutex mutex;
  static std::map<std::string, TemporaryModel> models;
  std::lock_guard lock(mutex);
  return models.try_emplace(preset, preset).first->second.dir;
}

const std::string& TinyModelDir() { return PresetModelDir("tiny"); }

std::string TrailingValue(const grpc::ClientContext& context, const char* key) {
  const auto& metadata = context.GetServerTrailingMetadata();
  auto it = metadata.find(key);
  return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
}

void RpcHarness::Start(const service::ServerOptions& options,
                       const service::Server::EngineFactory& factory) {
  service::SetLogLevel(service::LogLevel::kError);  // an access line per call would bury failures
  auto server = service::Server::Start(options, factory);
  if (!server.ok()) std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
  LD_CHECK(server.ok());
  server_ = std::move(*server);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(4 << 20);
  // Each harness its own connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto channel = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                           grpc::InsecureChannelCredentials(), arguments);
  documents_ = v1::DocumentService::NewStub(channel);
  embeddings_ = v1::EmbeddingService::NewStub(channel);
  models_ = v1::ModelService::NewStub(channel);
  scoring_ = v1::ScoringService::NewStub(channel);
}

std::unique_ptr<RpcHarness> RpcHarness::WithEngine(const service::Limits& limits,
                                                   const service::DocumentsConfig& documents,
                                                   const std::string& preset) {
  std::unique_ptr<RpcHarness> harness(new RpcHarness());
  service::ServerOptions options;
  options.listen_address = "127.0.0.1:0";
  options.metrics_address = "off";
  options.models = {{preset, PresetModelDir(preset)}};
  options.limits = limits;
  options.documents = documents;
  options.reflection = false;
  options.engine.num_threads = 2;
  options.engine.memory_budget_bytes = int64_t{1} << 30;
  options.engine.compute_type = ComputeType::kF32;
  harness->Start(options, Engine::Create);
  return harness;
}

std::unique_ptr<RpcHarness> RpcHarness::WithFake(const service::Limits& limits,
                                                 const service::DocumentsConfig& documents) {
  std::unique_ptr<RpcHarness> harness(new RpcHarness());
  service::ServerOptions options;
  options.listen_address = "127.0.0.1:0";
  options.metrics_address = "off";
  options.models = {{"fake", "unused"}};
  options.limits = limits;
  options.documents = documents;
  options.reflection = false;
  auto engine = std::make_unique<FakeEngine>();
  harness->fake_ = engine.get();
  // The server warms its model up before it serves.
  std::thread warm_up([fake = engine.get()] {
    if (fake->WaitForTasks(1)) fake->Complete();
  });
  harness->Start(options, [&engine](const EngineOptions&) {
    return absl::StatusOr<std::unique_ptr<Engine>>(std::move(engine));
  });
  warm_up.join();
  return harness;
}

RpcHarness::~RpcHarness() {
  documents_.reset();
  embeddings_.reset();
  models_.reset();
  scoring_.reset();
  server_.reset();
}

bool WaitFor(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

bool RpcHarness::WaitUntilIdle(double* seconds) const {
  const auto start = std::chrono::steady_clock::now();
  auto elapsed = [start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  while (true) {
    const EngineStats stats = engine().stats();
    const service::ServiceContext& context = server_->context();
    if (context.open_streams == 0 && context.inflight_rpcs == 0 && stats.running_tasks == 0 &&
        stats.queued_tasks == 0 && stats.reserved_bytes == 0) {
      if (seconds != nullptr) *seconds = elapsed();
      return true;
    }
    if (elapsed() > 10) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

DocumentCall::DocumentCall(RpcHarness& harness, double deadline_seconds,
                           const std::string& request_id) {
  context_.set_deadline(std::chrono::system_clock::now() +
                        std::chrono::milliseconds(static_cast<int64_t>(deadline_seconds * 1000)));
  if (!request_id.empty()) context_.AddMetadata("x-request-id", request_id);
  stream_ = harness.embeddings().EmbedDocument(&context_);
}

bool DocumentCall::Header(const v1::DocumentHeader& header) {
  v1::EmbedDocumentRequest request;
  *request.mutable_header() = header;
  return stream_->Write(request);
}

bool DocumentCall::Text(int64_t offset, const std::string& bytes) {
  v1::EmbedDocumentRequest request;
  request.mutable_chunk()->set_offset(offset);
  request.mutable_chunk()->set_text(bytes);
  return stream_->Write(request);
}

bool DocumentCall::Ids(int64_t offset, const std::vector<int32_t>& ids) {
  v1::EmbedDocumentRequest request;
  request.mutable_chunk()->set_offset(offset);
  request.mutable_chunk()->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  return stream_->Write(request);
}

bool DocumentCall::Break() {
  v1::EmbedDocumentRequest request;
  request.mutable_passage_break();
  return stream_->Write(request);
}

DocumentAnswer DocumentCall::Finish(const std::function<void()>& between) {
  DocumentAnswer answer;
  v1::EmbedDocumentResponse response;
  while (true) {
    if (between) between();
    if (!stream_->Read(&response)) break;
    if (answer.has_result) answer.result_was_last = false;
    answer.largest_frame = std::max(answer.largest_frame, response.ByteSizeLong());
    switch (response.message_case()) {
      case v1::EmbedDocumentResponse::kProgress:
        answer.progress.push_back(response.progress());
        break;
      case v1::EmbedDocumentResponse::kPassages:
        for (const v1::PassageVector& passage : response.passages().passages()) {
          answer.passages.push_back(passage);
        }
        break;
      case v1::EmbedDocumentResponse::kTokens:
        answer.token_frames.push_back(response.tokens());
        break;
      case v1::EmbedDocumentResponse::kResult:
        answer.has_result = true;
        answer.result = response.result();
        break;
      case v1::EmbedDocumentResponse::MESSAGE_NOT_SET:
        break;
    }
  }
  answer.status = stream_->Finish();
  answer.reason = TrailingValue(context_, "longdoc-reason");
  answer.retry_delay = TrailingValue(context_, "longdoc-retry-delay-seconds");
  answer.retry_pushback = TrailingValue(context_, "grpc-retry-pushback-ms");
  answer.request_id = TrailingValue(context_, "x-request-id");
  const auto& initial = context_.GetServerInitialMetadata();
  auto it = initial.find("x-request-id");
  if (it != initial.end()) answer.request_id += std::string(it->second.data(), it->second.size());
  return answer;
}

DocumentAnswer EmbedText(RpcHarness& harness, const v1::DocumentHeader& header,
                         const std::string& text, const std::vector<size_t>& cuts) {
  DocumentCall call(harness);
  call.Header(header);
  size_t begin = 0;
  auto send = [&](size_t end) {
    const bool ok = call.Text(static_cast<int64_t>(begin), text.substr(begin, end - begin));
    begin = end;
    return ok;
  };
  bool ok = true;
  for (size_t cut : cuts) ok = ok && send(cut);
  if (ok && (begin < text.size() || cuts.empty())) send(text.size());
  call.HalfClose();
  return call.Finish();
}

std::string SampleText(int words, uint64_t seed) {
  static const char* const kWords[] = {
      "the", "of",    "word", "document",         "Long", "caf\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac",
      "in",  "zebra", "42",   "\xf0\x9f\x98\x80", "and"};
  std::mt19937_64 random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    text += kWords[random() % std::size(kWords)];
    text += random() % 12 == 0 ? ". " : (random() % 40 == 0 ? "\n\n" : " ");
  }
  return text;
}

}  // namespace longdoc::testing
