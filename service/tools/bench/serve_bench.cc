// longdoc-bench serve: bounded load on a server, from many clients at once.
#include <grpcpp/client_context.h>

#include <algorithm>
#include <atomic>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "service/tools/bench/bench.h"
#include "service/tools/bench/server_process.h"
#include "service/tools/channel.h"
#include "service/tools/command.h"
#include "service/tools/embedder_options.h"

namespace longdoc::tools {
namespace {

constexpr size_t kChunkIds = 16 << 10;

// One kind of request: a text of so many tokens, and how often it comes.
struct Size {
  int64_t tokens = 0, weight = 1;
};

struct ServeArgs {
  RemoteOptions remote;
  std::string model, mix = "16:60,128:30,1024:9,8192:1", device = "auto", json;
  int64_t concurrency = 8, requests = 2000, threads = 0, seed = 1;
  double seconds = 30;
};

struct Sample {
  size_t size = 0;  // index into the sizes
  double seconds = 0;
};

struct Outcome {
  std::vector<Sample> samples;
  std::map<std::string, int64_t> errors;  // by message
  double wall_seconds = 0;
};

absl::StatusOr<std::vector<Size>> ParseMix(const std::string& text) {
  std::vector<Size> sizes;
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    Size& size = sizes.emplace_back();
    RETURN_IF_ERROR(ParseInt(parts[0], "TOKENS of --mix", 1, 1 << 24, &size.tokens));
    if (parts.size() > 2) return absl::InvalidArgumentError("--mix takes TOKENS:WEIGHT,...");
    if (parts.size() == 2) {
      RETURN_IF_ERROR(ParseInt(parts[1], "WEIGHT of --mix", 1, 1000000, &size.weight));
    }
  }
  return sizes;
}

// A client's connection and what it learned of the server.
class Client {
 public:
  static absl::StatusOr<Client> Connect(const RemoteOptions& options) {
    ASSIGN_OR_RETURN(ServerConnection connection, ServerConnection::Create(options));
    Client client(std::move(connection));
    v1::GetModelRequest request;
    request.set_model(options.model);
    v1::GetModelResponse response;
    grpc::ClientContext context;
    client.connection_.Prepare(&context);
    const grpc::Status status = v1::ModelService::NewStub(client.connection_.channel())
                                    ->GetModel(&context, request, &response);
    RETURN_IF_ERROR(client.connection_.ToStatus(status, context));
    client.info_ = response.model();
    return client;
  }
  const v1::Model& info() const { return info_; }

  // Short texts go through EmbedTexts, longer ones through EmbedDocument.
  absl::Status Embed(const std::vector<int32_t>& ids) const {
    return static_cast<int64_t>(ids.size()) <= info_.max_text_tokens() ? EmbedText(ids)
                                                                       : EmbedDocument(ids);
  }

 private:
  explicit Client(ServerConnection connection)
      : connection_(std::move(connection)),
        stub_(v1::EmbeddingService::NewStub(connection_.channel())) {}

  absl::Status EmbedText(const std::vector<int32_t>& ids) const {
    v1::EmbedTextsRequest request;
    request.set_model(info_.name());
    request.add_inputs()->mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
    v1::EmbedTextsResponse response;
    grpc::ClientContext context;
    connection_.Prepare(&context);
    RETURN_IF_ERROR(connection_.ToStatus(stub_->EmbedTexts(&context, request, &response), context));
    if (response.items_size() != 1) return absl::InternalError("not one item came back");
    const v1::ItemStatus& item = response.items(0).status();
    return absl::Status(static_cast<absl::StatusCode>(item.code()), item.message());
  }

  absl::Status EmbedDocument(const std::vector<int32_t>& ids) const {
    grpc::ClientContext context;
    connection_.Prepare(&context);
    const auto stream = stub_->EmbedDocument(&context);
    v1::EmbedDocumentRequest request;
    request.mutable_header()->set_model(info_.name());
    bool open = stream->Write(request);
    for (size_t i = 0; open && i < ids.size(); i += kChunkIds) {
      v1::DocumentChunk* chunk = request.mutable_chunk();
      chunk->set_offset(static_cast<int64_t>(i));
      const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(i);
      const auto count = static_cast<std::ptrdiff_t>(std::min(kChunkIds, ids.size() - i));
      chunk->mutable_token_ids()->mutable_ids()->Assign(begin, begin + count);
      open = stream->Write(request);
    }
    if (open) stream->WritesDone();
    v1::EmbedDocumentResponse response;
    while (stream->Read(&response)) {
    }
    return connection_.ToStatus(stream->Finish(), context);
  }

  ServerConnection connection_;
  std::unique_ptr<v1::EmbeddingService::Stub> stub_;
  v1::Model info_;
};

// Random ids of the vocabulary's second half: no special token is among them.
std::vector<int32_t> RandomIds(int64_t tokens, int32_t vocabulary, std::mt19937& random) {
  std::uniform_int_distribution<int32_t> id(vocabulary / 2, vocabulary - 1);
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (int32_t& value : ids) value = id(random);
  return ids;
}

// Every thread sends one request after another, until count or time is used up.
Outcome Load(const Client& client, const std::vector<Size>& sizes, const ServeArgs& args) {
  std::vector<double> weights;
  for (const Size& size : sizes) weights.push_back(static_cast<double>(size.weight));
  Outcome outcome;
  std::mutex mutex;
  std::atomic<int64_t> sent{0};
  const double start = NowSeconds();
  RunOnThreads(static_cast<int>(args.concurrency), [&](int thread) {
    std::mt19937 random(static_cast<uint32_t>(args.seed + thread));
    std::discrete_distribution<size_t> pick(weights.begin(), weights.end());
    while (sent++ < args.requests && NowSeconds() - start < args.seconds) {
      const size_t size = pick(random);
      const std::vector<int32_t> ids =
          RandomIds(sizes[size].tokens, client.info().vocabulary_size(), random);
      const double begin = NowSeconds();
      const absl::Status status = client.Embed(ids);
      const double seconds = NowSeconds() - begin;
      const std::lock_guard<std::mutex> lock(mutex);
      if (status.ok()) outcome.samples.push_back({size, seconds});
      if (!status.ok()) ++outcome.errors[std::string(status.message())];
    }
  });
  outcome.wall_seconds = NowSeconds() - start;
  return outcome;
}

Json Summarise(const std::string& name, int64_t tokens, const std::vector<double>& seconds,
               double wall) {
  return {{"tokens", tokens},
          {"name", name},
          {"requests", seconds.size()},
          {"requests_per_second", static_cast<double>(seconds.size()) / wall},
          {"p50_seconds", Percentile(seconds, 0.5)},
          {"p90_seconds", Percentile(seconds, 0.9)},
          {"p99_seconds", Percentile(seconds, 0.99)},
          {"max_seconds", Percentile(seconds, 1)}};
}

absl::Status Report(const ServeArgs& args, const std::vector<Size>& sizes, const Outcome& outcome,
                    const v1::Model& model) {
  Json results = Json::array();
  std::vector<double> all;
  double tokens = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::vector<double> seconds;
    for (const Sample& sample : outcome.samples) {
      if (sample.size == i) seconds.push_back(sample.seconds);
    }
    all.insert(all.end(), seconds.begin(), seconds.end());
    tokens += static_cast<double>(sizes[i].tokens) * static_cast<double>(seconds.size());
    results.push_back(
        Summarise(absl::StrCat(sizes[i].tokens), sizes[i].tokens, seconds, outcome.wall_seconds));
  }
  results.push_back(Summarise("all", 0, all, outcome.wall_seconds));
  std::cout << absl::StrFormat("%s on %s, %d clients, %.1f s\n%8s %9s %9s %10s %10s %10s %10s\n",
                               model.name(), model.device(), args.concurrency, outcome.wall_seconds,
                               "tokens", "requests", "per s", "p50 ms", "p90 ms", "p99 ms",
                               "max ms");
  for (const Json& r : results) {
    std::cout << absl::StrFormat(
        "%8s %9d %9.1f %10.2f %10.2f %10.2f %10.2f\n", r["name"].get<std::string>(),
        r["requests"].get<int64_t>(), r["requests_per_second"].get<double>(),
        1e3 * r["p50_seconds"].get<double>(), 1e3 * r["p90_seconds"].get<double>(),
        1e3 * r["p99_seconds"].get<double>(), 1e3 * r["max_seconds"].get<double>());
  }
  std::cout << absl::StrFormat("%.0f tokens/s\n", tokens / outcome.wall_seconds);
  int64_t errors = 0;
  for (const auto& [message, count] : outcome.errors) {
    errors += count;
    std::cout << absl::StrFormat("%d errors: %s\n", count, message);
  }
  RETURN_IF_ERROR(WriteJson(args.json, {{"bench", "serve"},
                                        {"concurrency", args.concurrency},
                                        {"model", model.name()},
                                        {"device", model.device()},
                                        {"wall_seconds", outcome.wall_seconds},
                                        {"tokens_per_second", tokens / outcome.wall_seconds},
                                        {"errors", errors},
                                        {"results", results}}));
  if (errors > 0) return absl::InternalError(absl::StrCat(errors, " requests failed"));
  return absl::OkStatus();
}

absl::Status Bench(ServeArgs args, const std::vector<Size>& sizes) {
  std::unique_ptr<ServerProcess> server;
  if (args.remote.address.empty()) {
    ASSIGN_OR_RETURN(server,
                     ServerProcess::Start(args.model, args.device, static_cast<int>(args.threads)));
    args.remote.address = server->address();
  } else {
    args.remote.model = args.model;
  }
  ASSIGN_OR_RETURN(const Client client, Client::Connect(args.remote));
  const Outcome outcome = Load(client, sizes, args);
  return Report(args, sizes, outcome, client.info());
}

}  // namespace

int RunServeBench(const std::vector<std::string>& words) {
  ServeArgs args;
  OptionParser parser("longdoc-bench serve", "[OPTIONS] --model DIR | --server HOST:PORT",
                      "Sends texts of mixed sizes from many clients and reports latencies by size. "
                      "With\n--model, starts a server of its own, in a process of its own.",
                      "  longdoc-bench serve --model models/small --concurrency 16 --seconds 20\n"
                      "  longdoc-bench serve --server localhost:50051 --mix 16:99,20000:1");
  parser.AddString("model", "DIR|NAME", "directory to serve, or name on --server", &args.model);
  parser.AddString("mix", "TOKENS:WEIGHT,...", "sizes of texts and how often each comes",
                   &args.mix);
  parser.AddInt("concurrency", "N", "clients, each with one request at a time", 1, 1024,
                &args.concurrency);
  parser.AddInt("requests", "N", "stop after so many", 1, 100000000, &args.requests);
  parser.AddDouble("seconds", "S", "stop after this time", 0.1, 86400, &args.seconds);
  parser.AddString("device", "NAME", "of our own server: auto, cpu, cuda, cuda:N or reference",
                   &args.device);
  parser.AddInt("threads", "N", "of our own server; 0: one per core", 0, 1024, &args.threads);
  parser.AddInt("seed", "N", "of sizes and texts", 0, 1 << 30, &args.seed);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  AddServerOptions(parser, &args.remote);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (args.remote.address.empty() && args.model.empty()) {
    return UsageError(parser.command(), "needs --model DIR or --server HOST:PORT");
  }
  const absl::StatusOr<std::vector<Size>> sizes = ParseMix(args.mix);
  if (!sizes.ok()) return UsageError(parser.command(), std::string(sizes.status().message()));
  const absl::Status status = Bench(args, *sizes);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools
